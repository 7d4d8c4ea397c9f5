"""`dependency_map`: beside full passes of each changed sequence, in float64."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from hyenadna import HyenaDNAForSequenceClassification, HyenaDNATokenizer
from hyenadna.analysis import dependency_map
from hyenadna.errors import InputError
from hyenadna.genomics.letters import reverse_complement

from .conftest import random_model

SEQUENCE = "ACGTTNGCATGACCTGATTA"


def log2_odds(model, texts):
    ids = HyenaDNATokenizer()(texts, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        p = model(ids).logits[..., 7:11].softmax(-1).numpy()
    odds = np.log2(p / (1 - p))
    # shifted: what is predicted for each base; the first has no prediction
    return np.concatenate([np.zeros_like(odds[:, :1]), odds[:, :-1]], 1)


def by_full_passes(model, text):
    values = np.zeros((len(text), len(text)))
    reference = log2_odds(model, [text])
    for i, base in enumerate(text):
        if base == "N":
            values[i] = np.nan
            continue
        changed = [text[:i] + other + text[i + 1 :] for other in "ACGT" if other != base]
        shifts = np.abs(log2_odds(model, changed) - reference).max((0, 2))
        values[i, i + 1 :] = shifts[i + 1 :]
        assert shifts[: i + 1].max() < 1e-12  # causal, but for the rounding of a Fourier transform
    return values


@pytest.mark.parametrize("order, batch_size", [(2, 7), (3, 64)])
def test_a_map_is_that_of_full_passes(order, batch_size):
    model = random_model(seed=5, d_model=8, max_seq_len=34, hyena_order=order)
    exact = deepcopy(model).double()
    expected = by_full_passes(exact, SEQUENCE)
    expected += by_full_passes(exact, reverse_complement(SEQUENCE))[::-1, ::-1]
    result = dependency_map(model, SEQUENCE, batch_size=batch_size)
    np.testing.assert_allclose(result.values, expected, atol=2e-4)
    assert np.nanmax(expected) > 0.1 and not np.diag(expected[:5, :5]).any()
    # a region in its context
    part = dependency_map(model, SEQUENCE, 6, 15, batch_size=batch_size)
    np.testing.assert_allclose(part.values, expected[6:15, 6:15], atol=2e-4)
    np.testing.assert_allclose(part.symmetric, (part.values + part.values.T) / 2)


def test_a_region_of_a_genome_and_its_picture(tmp_path):
    model = random_model(seed=5, d_model=8, max_seq_len=34).train()
    (tmp_path / "g.fa").write_text(f">chr20\n{'A' * 30}{SEQUENCE.lower()}{'C' * 30}\n")
    result = dependency_map(model, tmp_path / "g.fa", region="chr20:32-45", window=30)
    assert result.name == "chr20:32-45" and len(result.sequence) == 30 and model.training
    direct = dependency_map(model, result.sequence, result.start, result.start + 13)
    assert np.array_equal(direct.values, result.values, equal_nan=True)
    for suffix in ("png", "svg", "pdf"):
        result.plot(tmp_path / f"map.{suffix}")
        assert (tmp_path / f"map.{suffix}").stat().st_size > 1000
    with pytest.raises(InputError, match="a picture ends in"):
        result.plot(tmp_path / "map.doc")


def test_what_cannot_be_mapped(tmp_path):
    model = random_model(seed=5, d_model=8, max_seq_len=34)
    (tmp_path / "g.fa").write_text(f">chr20\n{SEQUENCE}\n")
    for data, settings, message in [
        (SEQUENCE, {"start": 3, "end": 3}, "cannot map positions 3 to 3"),
        (SEQUENCE, {"end": 21}, "the sequence has 20 bases"),
        ("A" * 35, {}, "the model reads at most"),
        ("AC-T", {}, "'-' at position 2"),
        (tmp_path / "g.fa", {"region": "chr20:5-50"}, "chr20"),
    ]:
        with pytest.raises(InputError, match=message):
            dependency_map(model, data, **settings)
    with pytest.raises(InputError, match="needs a language model, but the model is a classifier"):
        dependency_map(random_model(HyenaDNAForSequenceClassification), SEQUENCE)
