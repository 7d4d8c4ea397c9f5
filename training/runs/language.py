"""Labels as the next token of a language model: one letter for each class, and batches of rows."""

import numpy as np
import torch
from transformers import EvalPrediction

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL
from hyenadna.tokenization import Alphabet, HyenaDNATokenizer
from hyenadna.tokenization.alphabets_hyenadna import DNA

from .metrics import make_compute_metrics

# The paper's letters for two and three classes (arXiv 2306.15794), and ours for four and five.
_LETTERS = {2: "AN", 3: "AGN", 4: "ACGN", 5: "ACGTN"}


def letters_of_labels(label_names: list[str], letters: str | None = None, alphabet: Alphabet = DNA) -> str:
    """Return a letter for each class, in the order of `label_names`.

    Raises:
        InputError: There are too many classes, or the letters do not fit them.
    """
    known = [letter for letter in alphabet.letters if len(letter) == 1]
    if letters is None:
        letters = "".join(known[: len(label_names)])
        if alphabet == DNA:
            letters = _LETTERS.get(len(label_names), "")
        if len(letters) < len(label_names):
            raise InputError(
                f"{len(label_names)} classes {label_names[:6]} have no letters: a label is one of "
                f"{', '.join(known)}. Use the form classifier"
            )
    if alphabet.ignores_case:
        letters = letters.upper()
    if len(letters) != len(label_names) or len(set(letters)) < len(letters) or set(letters) - set(known):
        raise InputError(
            f"label_letters {letters!r} do not fit the {len(label_names)} classes {label_names}: write "
            f"a different letter of {''.join(known)} for each"
        )
    return letters


class NextTokenCollator:
    """Batches of rows `sequence [SEP] letter`. The last letter is the only target.

    A row may have labelled `examples`, pairs of a sequence and a label. They come first, each as
    `sequence [SEP] letter [SEP]`. Batches are `(batch, length)`, padded on the left, so that the
    letter is always in the last column.

    Args:
        tokenizer: A tokenizer that adds no special tokens.
        letters: A letter for each class.
        longest: The most bases to keep of a sequence; None keeps all.
    """

    def __init__(self, tokenizer: HyenaDNATokenizer, letters: str, longest: int | None = None):
        self.tokenizer = tokenizer
        self.longest = longest
        self.letter_ids = tokenizer.convert_tokens_to_ids(list(letters))

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        # Padded on the left, so that all letters are in the last column.
        ids = [self._ids_of(row) for row in rows]
        batch = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="left")
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -1] = batch["input_ids"][:, -1]
        return {**batch, "labels": labels}

    def _ids_of(self, row: dict) -> list[int]:
        pairs = [*row.get("examples", []), (row["sequence"], row["label"])]
        sequences = self.tokenizer([sequence for sequence, _ in pairs], add_special_tokens=False)["input_ids"]
        sep = self.tokenizer.sep_token_id
        ids = []
        for sequence, (_, label) in zip(sequences, pairs, strict=True):
            ids += [*sequence[: self.longest], sep, self.letter_ids[label], sep]
        return ids[:-1]  # nothing follows the last letter

    def letter_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the logits of the letters after the last `[SEP]`, `(batch, classes)`."""
        # The letter is last, so its prediction is at the position before. Only these are kept: all
        # logits of the test part would not fit into memory.
        return logits[:, -2, self.letter_ids]

    def metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Compute the metrics of a classifier, for Trainer."""
        # Each row of `label_ids` is -100 but for its letter, which is therefore the maximum.
        tokens = np.asarray(output.label_ids).max(axis=1)
        classes = (tokens[:, None] == np.array(self.letter_ids)).argmax(axis=1)
        return make_compute_metrics(SINGLE_LABEL)(EvalPrediction(output.predictions, classes))

    def for_trainer(self) -> dict:
        """Return the arguments for `Trainer` that belong to this collator."""
        return {
            "data_collator": self,
            "preprocess_logits_for_metrics": self.letter_logits,
            "compute_metrics": self.metrics,
        }
