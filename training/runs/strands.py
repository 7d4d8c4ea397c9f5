"""Which strands of the DNA a run reads: one, or both.

Labels of double-stranded DNA, such as binding sites or open chromatin, belong to both strands: a
model then gains from training on a random one of them and from averaging the logits of both. Splice
sites, and promoters that all point one way, belong to one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import EvalPrediction

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import LabelledData
from hyenadna.tokenization import Alphabet
from hyenadna.tokenization.alphabets_hyenadna import DNA

ONE = "one"
BOTH = "both"
AUTO = "auto"


@dataclass(frozen=True)
class Strands:
    """How a run reads the strands.

    Attributes:
        flip: Probability of the other strand, for each training row in each epoch.
        average_at_end: Whether the final metrics and predictions are of both strands' mean logits.
        average: Whether the evaluations during training are, too.
    """

    flip: float = 0.0
    average_at_end: bool = False
    average: bool = False

    @property
    def name(self) -> str:
        """`one`, `both`, or `mixed` where older flags ask for a part of it."""
        names = {strands: name for name, strands in READ.items()}
        return names.get(self, "mixed")


READ = {ONE: Strands(), BOTH: Strands(flip=0.5, average_at_end=True, average=True)}


def check_strand_settings(args: Any, alphabet: Alphabet) -> None:
    """Raise `InputError` if settings ask for a second strand of letters without a complement."""
    if alphabet.complement is not None:
        return
    for name in ("reverse_complement", "test_time_averaging"):
        if getattr(args, name, None):
            raise InputError(
                f"{name} reads the other strand, but the alphabet {alphabet.spec!r} has no complement: "
                "leave it out"
            )


def check_second_strand(data: LabelledData) -> None:
    """Raise `InputError` for RNA, which has one strand, and for letters without a complement."""
    if data.alphabet.complement is None:
        raise InputError(
            f"strands is 'both', but the alphabet {data.alphabet.spec!r} has no complement. Use --strands one"
        )
    row = _first_rna(data)
    if row is not None:
        raise InputError(
            f"strands is 'both', but row {row[1]} of the {row[0]} rows holds U: RNA has one strand. Use "
            "--strands one; if it is DNA, write T"
        )


def has_second_strand(data: LabelledData) -> bool:
    """Return whether the sequences have a second strand: a U among DNA says that it is RNA."""
    return data.alphabet.complement is not None and _first_rna(data) is None


def _first_rna(data: LabelledData) -> tuple[str, int] | None:
    """Return the part of the first sequence of DNA with a U, and its row in its source."""
    if data.alphabet != DNA:
        return None
    for part, rows in data.parts.items():
        for i, sequence in enumerate(rows["sequence"][:]):
            if "U" in sequence or "u" in sequence:
                return part, rows[i]["row"]
    return None


def mean_of_strands(compute_metrics):
    """Wrap `compute_metrics` for rows that are followed by their reverse complements, in order."""

    def averaged(output: EvalPrediction) -> dict[str, float]:
        forward, reverse = np.split(output.predictions, 2)
        labels = output.label_ids[: len(forward)]
        return compute_metrics(EvalPrediction(predictions=(forward + reverse) / 2, label_ids=labels))

    return averaged
