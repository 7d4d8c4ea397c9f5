"""Changes of a sequence, read in batches: what comes before neighbouring changes is read once.

    for part in read_changes(model, x, edits, batch_size=32):
        part.hidden                                     # states of the changed rows, from part.begin on

The model is causal, so a change says nothing about what comes before it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel

from hyenadna.cache_hyenadna import branches
from hyenadna.genomics.letters import encode, reverse_complement

__all__ = ["ChangedRows", "Edit", "read_changes", "substitutions"]


class Edit(NamedTuple):
    """A change: the bases [start, end) of the sequence, from 0, become `text`."""

    start: int
    end: int
    text: str

    def on_reverse(self, length: int) -> "Edit":
        """Return the same change of the other strand of a sequence of `length` bases."""
        return Edit(length - self.end, length - self.start, reverse_complement(self.text))

    @property
    def added(self) -> int:
        """The bases by which the sequence grows."""
        return len(self.text) - (self.end - self.start)


def substitutions(text: str, first: int, last: int) -> list[Edit]:
    """Return the three substitutions of each base in [first, last); none of N.

    >>> [edit.text for edit in substitutions("AN", 0, 2)]
    ['C', 'G', 'T']
    """
    places = [at for at in range(first, last) if text[at] in "ACGT"]
    return [Edit(at, at + 1, base) for at in places for base in "ACGT" if base != text[at]]


class ChangedRows(NamedTuple):
    """A batch of changed sequences.

    Attributes:
        numbers: The numbers of the changes.
        begin: The first token that was read for them; what comes before is that of the sequence.
        ids: Their tokens from there on, `(rows, length)`.
        hidden: Their last hidden states, `(rows, length, d_model)`.
    """

    numbers: list[int]
    begin: int
    ids: torch.Tensor
    hidden: torch.Tensor


@torch.no_grad()
def read_changes(
    model: PreTrainedModel, x: torch.Tensor, edits: Sequence[Edit], batch_size: int, shift: int = 0
) -> Iterator[ChangedRows]:
    """Yield batches of changes, from the first to the last of the sequence.

    Args:
        model: A model in evaluation mode.
        x: The tokens of the sequence, `(length,)`.
        edits: Changes, all of which make the sequence equally longer or shorter.
        batch_size: Changes in a batch.
        shift: The number of tokens before the first base.
    """
    order = sorted(range(len(edits)), key=lambda i: edits[i].start)
    cache = DynamicCache(config=model.config)
    cached = 0
    for first in range(0, len(order), batch_size):
        numbers = order[first : first + batch_size]
        batch = [edits[i] for i in numbers]
        # One token before the changes belongs to the rows, so that a row is never empty.
        begin = max(0, batch[0].start + shift - 1)
        rows = torch.stack([_changed(x, edit, begin, shift) for edit in batch])
        if begin > cached:
            model.base_model(x[None, cached:begin], past_key_values=cache)
            cached = begin
        if begin == 0:
            hidden = model.base_model(rows).last_hidden_state
        else:
            # Every row continues from a branch of the cache, which stays as it is.
            with branches(cache, torch.zeros(len(rows), dtype=torch.long, device=x.device)):
                hidden = model.base_model(rows, past_key_values=cache).last_hidden_state
        yield ChangedRows(numbers, begin, rows, hidden)


def _changed(x: torch.Tensor, edit: Edit, begin: int, shift: int) -> torch.Tensor:
    """Return the tokens from `begin` on, with a change."""
    new = torch.tensor(encode(edit.text).tolist(), dtype=x.dtype, device=x.device)
    return torch.cat([x[begin : edit.start + shift], new, x[edit.end + shift :]])
