"""Pictures of results: any label can be drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from hyenadna.training.runs.pictures import plain_text, write_confusion_matrix


@pytest.mark.parametrize(
    "label", ["$^{2$", "$x$", "a$b", "$$", r"\$", r"\alpha$\frac$", "100 $ or 200 $", "", "_x", "%"]
)
def test_labels_with_dollars_are_drawn_as_they_are(label, tmp_path):
    """matplotlib reads text between two `$` as mathematics: a run trained to its end and could not
    finish (B5).
    """
    write_confusion_matrix(tmp_path / "m.png", np.array([0, 1, 1]), np.array([0, 1, 0]), [label, "other"])
    assert (tmp_path / "m.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    figure = Figure()
    text = figure.text(0.5, 0.5, plain_text(label))
    shown, is_math = text._preprocess_math(text.get_text())
    assert shown == label and not is_math
    figure.savefig(tmp_path / "text.png")
