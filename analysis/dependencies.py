"""Dependency maps: how a base's distribution shifts when another base is changed.

    from hyenadna.analysis import dependency_map
    result = dependency_map(model, sequence, 100, 200)
    result.values                                       # float32 (100, 100): changed base, other base
    result.plot("map.pdf")

The dependency of base j on base i is the largest change, over the substitutions of i and over the
four bases at j, of the log2 odds of a base at j (da Silva and others, Nature Genetics 2025,
s41588-025-02347-3). A causal model says nothing about what comes before a change: the forward strand
fills the half above the diagonal (j after i), the reverse strand the half below it.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile
from hyenadna.genomics.letters import FIRST_BASE, encode, reverse_complement

from .changes import read_changes, substitutions
from .likelihoods import check_lengths
from .models import LANGUAGE, ModelOrName, borrowed, check_dna, device_of
from .mutations import text_of_region
from .pictures import check_picture, draw_dependencies, save_figure
from .sequences import Data, one_sequence

__all__ = ["DependencyMap", "dependency_map"]


@dataclass
class DependencyMap:
    """How the bases of a region depend on each other.

    Attributes:
        values: `values[i, j]` is the dependency of base j on base i, in log2 odds, float32
            `(positions, positions)`; 0 on the diagonal, NaN in the row of what is no base (N).
        sequence: The whole sequence that was read, in capitals.
        start: The first position of the region in the sequence, from 0.
        chromosome: Where the sequence comes from, if from a genome.
        offset: The position of its first base there, from 0.
    """

    values: np.ndarray = field(repr=False)
    sequence: str
    start: int
    chromosome: str = ""
    offset: int = 0

    @property
    def symmetric(self) -> np.ndarray:
        """The mean of both directions, `(positions, positions)`: of i on j, and of j on i."""
        return (self.values + self.values.T) / 2

    @property
    def name(self) -> str:
        """The region as text: `chr20:1,000-1,200`, from 0."""
        first = self.offset + self.start
        return f"{self.chromosome or 'sequence'}:{first:,}-{first + len(self.values):,}"

    def plot(self, path: str | Path | None = None, title: str | None = None) -> Figure:
        """Draw the map: rows are changed bases, columns the bases that depend on them.

        Args:
            path: Also write the picture: .png, .svg or .pdf.
            title: The heading; by default the region.
        """
        if path is not None:
            check_picture(path)
        letters = self.sequence[self.start : self.start + len(self.values)]
        heading = title if title is not None else f"dependencies in {self.name}"
        figure = draw_dependencies(self.values, letters, self.offset + self.start, heading)
        if path is not None:
            save_figure(Path(path), figure)
        return figure


def dependency_map(
    model: ModelOrName,
    sequence: Data | SequenceFile,
    start: int | None = None,
    end: int | None = None,
    *,
    region: str | None = None,
    window: int | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> DependencyMap:
    """Return how each base of a region depends on each other one, by a language model.

    Three substitutions of each base are read on each strand. What is before neighbouring bases is
    read once, and nothing is read beyond the region: n bases cost about a quarter to a half of 6 n
    passes over the sequence.

    Args:
        model: A language model, a folder, or an id on the Hub. An object is left unchanged.
        sequence: The sequence; or a FASTA file, with `region`.
        start: The first position of the region, from 0; by default the first of the sequence.
        end: The position after the last one; by default the end of the sequence.
        region: A region of a genome, such as `"chr20:1000-1200"` (from 0, the end not included), in
            place of `start` and `end`.
        window: The bases of the genome to read, with the region in their middle; by default 1,024,
            or what the model can.
        batch_size: Changes to read at once.
        device: Where to compute. By default an object stays where it is, and a loaded model goes to
            the GPU if there is one.
        progress: Show a progress bar for each strand.

    Raises:
        InputError: The model is no language model, or the positions are outside of the sequence.

    >>> from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
    >>> model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66))
    >>> dependency_map(model, "ACGTTGCA", 2, 6).values.shape
    (4, 4)
    """
    check_dna(model, "dependency_map")
    with borrowed(model, LANGUAGE, "dependency_map", device) as lm:
        place = None
        if region is not None:
            place, text = text_of_region(lm, sequence, region, window, "dependency_map")
            start = place.start - place.window_start
            end = place.end - place.window_start
        else:
            text = one_sequence(sequence, "dependency_map")
        first = 0 if start is None else start
        last = len(text) if end is None else end
        if not 0 <= first < last <= len(text):
            raise InputError(f"cannot map positions {first} to {last}: the sequence has {len(text)} bases")
        check_lengths(lm, [len(text)], ["the sequence"])

        above = _on_strand(lm, text, first, last, batch_size, progress)
        reverse = reverse_complement(text)
        below = _on_strand(lm, reverse, len(text) - last, len(text) - first, batch_size, progress)
    values = above + below[::-1, ::-1]
    result = DependencyMap(values, text, first)
    if place is not None:
        result.chromosome = place.chromosome
        result.offset = place.window_start
    return result


@torch.no_grad()
def _on_strand(
    model: PreTrainedModel, text: str, first: int, last: int, batch_size: int, progress: bool
) -> np.ndarray:
    """Return the dependencies of later bases on earlier ones, float32; 0 elsewhere."""
    # What comes after the region has no say in it.
    x = torch.tensor(encode(text[:last]).tolist(), device=device_of(model))
    reference = _log2_odds(model, model.base_model(x[None]).last_hidden_state)[0]
    edits = substitutions(text, first, last - 1)
    values = np.zeros((last - first, last - first), dtype=np.float32)
    with tqdm(total=len(edits), unit="change", disable=not progress) as bar:
        for part in read_changes(model, x, edits, batch_size):
            shift = _log2_odds(model, part.hidden) - reference[part.begin :]
            # The state of a token gives the odds of the next one: the last has no next one here.
            largest = shift[:, :-1].abs().amax(-1).cpu().numpy()
            for row, number in enumerate(part.numbers):
                at = edits[number].start
                after = largest[row, at - part.begin :]
                place = values[at - first, at - first + 1 :]
                np.maximum(place, after, out=place)
            bar.update(len(part.numbers))
    values[[base not in "ACGT" for base in text[first:last]]] = np.nan
    return values


def _log2_odds(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Return the log2 odds of A, C, G and T against the other three, `(batch, length, 4)`."""
    logits = model.lm_head(hidden)[..., FIRST_BASE : FIRST_BASE + 4].float()
    # Of the four alone. log(p / (1 - p)) is the logit minus the log-sum-exp of the others, which
    # does not round to infinity where p is close to 1.
    others = torch.stack([logits[..., [j for j in range(4) if j != i]].logsumexp(-1) for i in range(4)], -1)
    return (logits - others) / np.log(2)
