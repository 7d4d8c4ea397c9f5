"""In-silico mutagenesis: what every substitution, deletion or insertion in a region changes.

    from hyenadna.analysis import mutagenesis
    result = mutagenesis(model, window, 400, 600)       # substitutions of the positions 400 to 599
    result.effects                                      # float64 (200, 4), for A, C, G, T
    result.plot("region.pdf")

What changes is the log-likelihood of a language model, the logit or probability of a class, the
number of a regression, or an output at one position. The command for language models is `hyenadna
variants --mutagenesis chr20:1000-1200`. Positions count from 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile, open_genomes
from hyenadna.genomics.intervals import read_regions
from hyenadna.genomics.letters import encode, reverse_complement
from hyenadna.genomics.tracks import check_track, write_track
from hyenadna.inputs_hyenadna import pool
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training.runs.files import write_whole

from .changes import Edit, read_changes
from .likelihoods import check_strand, strands_of, target_log_probabilities
from .models import (
    ANY,
    CLASSIFIER,
    LANGUAGE,
    TOKENS,
    ModelOrName,
    Outputs,
    SpecialIds,
    borrowed,
    check_dna,
    head_of,
    special_ids,
    tested_strand,
)
from .pictures import check_picture, draw_effects, save_figure
from .sequences import Data, one_sequence

__all__ = [
    "KINDS",
    "Mutagenesis",
    "Region",
    "mutagenesis",
    "read_region",
    "run_mutagenesis",
    "text_of_region",
]

KINDS = ("substitutions", "deletions", "insertions")
_LARGEST = 3  # bases of a deletion or insertion; 64 insertions of 3 bases are possible
_GAP = "-"  # what a deletion leaves, and what an insertion replaces


# ------------------------------------------------------------------------------ the result


@dataclass
class Mutagenesis:
    """The effects of all changes of one kind in a region.

    Attributes:
        effects: What each change adds to `reference`, float64 `(positions, alternatives)`. 0 for the
            base that is there; NaN for a substitution of what is no A, C, G or T.
        alternatives: What the columns put in place: `A`, `C`, `G`, `T`; the inserted bases; `-`.
        kind: `"substitutions"`, `"deletions"` or `"insertions"` (before a position).
        size: The bases of a deletion or insertion.
        quantity: What changes, in words.
        reference: Its value for the unchanged sequence.
        sequence: The whole sequence that was read, in capitals.
        start: The first position of the region in the sequence, from 0.
        chromosome: Where the sequence comes from, if from a genome.
        offset: The position of its first base there, from 0.
        chromosome_length: The length of the chromosome.
    """

    effects: np.ndarray
    alternatives: list[str]
    kind: str
    size: int
    quantity: str
    reference: float
    sequence: str
    start: int
    chromosome: str = ""
    offset: int = 0
    chromosome_length: int = field(default=0, repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each change.

        `chrom` (of a genome), `position` (from 0), `pos` (the same, from 1 as in a VCF), `ref`,
        `alt` and `effect`. A `-` in `alt` is a deletion, in `ref` an insertion before the position.
        """
        rows = []
        for i, of_position in enumerate(self.effects):
            at = self.start + i
            ref = self._replaced(at)
            row = {"position": self.offset + at, "pos": self.offset + at + 1, "ref": ref}
            for alt, effect in zip(self.alternatives, of_position.tolist(), strict=True):
                if alt != ref:
                    rows.append({**row, "alt": alt, "effect": effect})
        table = pd.DataFrame(rows)
        if self.chromosome:
            table.insert(0, "chrom", self.chromosome)
        return table

    def _replaced(self, at: int) -> str:
        if self.kind == "insertions":
            return _GAP
        return self.sequence[at : at + (self.size if self.kind == "deletions" else 1)]

    @property
    def mean_effects(self) -> np.ndarray:
        """The mean effect of the changes of each position, float64 `(positions,)`."""
        changes = self.effects.copy()
        if self.kind == "substitutions":
            letters = self.sequence[self.start : self.start + len(changes)]
            for i, base in enumerate(letters):
                if base in self.alternatives:
                    changes[i, self.alternatives.index(base)] = math.nan
        # A position of N has no effect at all: no mean, and no warning about it.
        known = ~np.isnan(changes)
        total = np.where(known, changes, 0).sum(1)
        count = known.sum(1)
        return np.where(count > 0, total / np.maximum(count, 1), math.nan)

    @property
    def name(self) -> str:
        """The region as text: `chr20:1,000-1,200`, from 0."""
        first = self.offset + self.start
        return f"{self.chromosome or 'sequence'}:{first:,}-{first + len(self.effects):,}"

    def plot(self, path: str | Path | None = None, title: str | None = None) -> Figure:
        """Draw a heat map, and above it the bases, each as high as what its changes take away.

        Args:
            path: Also write the picture: .png, .svg or .pdf.
            title: The heading; by default the region and the quantity.
        """
        letters = self.sequence[self.start : self.start + len(self.effects)]
        if path is not None:
            check_picture(path)
        figure = draw_effects(
            self.effects,
            self.alternatives,
            letters if self.kind != "insertions" else "",
            -self.mean_effects,
            self.offset + self.start,
            f"change of {self.quantity}",
            title if title is not None else f"{self.kind} in {self.name}",
        )
        if path is not None:
            save_figure(Path(path), figure)
        return figure

    def write_track(self, path: str | Path) -> None:
        """Write the mean effect of each position as bedGraph (.bedgraph) or bigWig (.bw).

        Raises:
            InputError: The sequence does not come from a genome, or the file's kind is unknown.
        """
        if not self.chromosome:
            raise InputError("a track needs a place in a genome: pass a FASTA file and a region")
        check_track(path)
        first = self.offset + self.start
        rows = []
        for i, effect in enumerate(self.mean_effects.tolist()):
            if not math.isnan(effect):
                rows.append((self.chromosome, first + i, first + i + 1, effect))
        lengths = {self.chromosome: self.chromosome_length}
        write_whole(Path(path), lambda temporary: write_track(temporary, lengths, rows))


# ------------------------------------------------------------------------------ the function


def mutagenesis(
    model: ModelOrName,
    sequence: Data | SequenceFile,
    start: int | None = None,
    end: int | None = None,
    *,
    kind: str = "substitutions",
    size: int = 1,
    target: str | int | None = None,
    output: str = "logit",
    position: int | None = None,
    region: str | None = None,
    window: int | None = None,
    strand: str | None = None,
    batch_size: int = 32,
    tokenizer: HyenaDNATokenizer | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Mutagenesis:
    """Change each position of a region in every way, and return what that does.

    A change says nothing about what comes before it, because the model is causal: the bases before
    neighbouring changes are read once, for all of them.

    Args:
        model: A language model, a classifier, a regression or a model with a head for each
            position; a folder, or an id on the Hub. An object is left unchanged.
        sequence: The sequence; or a FASTA file, with `region`.
        start: The first position to change, from 0; by default the first of the sequence.
        end: The position after the last one; by default the end of the sequence.
        kind: `"substitutions"`, `"deletions"` or `"insertions"` (before a position).
        size: The bases of a deletion or insertion, 1 to 3.
        target: The class or number to follow, by name or number. By default the class that the
            model predicts for the unchanged sequence. Not for a language model.
        output: `"logit"`, or `"probability"` of the class.
        position: The position whose output is followed, from 0, for a head for each position. A
            deletion of it has the effect NaN.
        region: The region of a genome, such as `"chr20:1000-1200"` (from 0, the end not included),
            in place of `start` and `end`.
        window: The bases of the genome to read, with the region in their middle; by default 1,024,
            or what the model can.
        strand: `"forward"`, `"reverse"`, or `"both"` for the mean. By default both for a language
            model, for others what the folder was tested with (see `predict`).
        batch_size: Changes to read at once.
        tokenizer: See `predict`.
        device: Where to compute. By default an object stays where it is, and a loaded model goes to
            the GPU if there is one.
        progress: Show a progress bar for each strand.

    Raises:
        InputError: The positions are outside of the sequence, a setting does not fit the model, or
            the model has another alphabet than DNA.

    >>> from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
    >>> model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66))
    >>> mutagenesis(model, "ACGTTGCA", 2, 5).effects.shape
    (3, 4)
    """
    _check_kind(kind, size)
    check_dna(model, "mutagenesis")
    with borrowed(model, ANY, "mutagenesis", device) as reader:
        place = None
        if region is not None:
            place, text = text_of_region(reader, sequence, region, window, "mutagenesis")
            start = place.start - place.window_start
            end = place.end - place.window_start
        else:
            text = one_sequence(sequence, "mutagenesis")
        first = 0 if start is None else start
        last = len(text) if end is None else end
        if not 0 <= first < last <= len(text):
            raise InputError(f"cannot mutate positions {first} to {last}: the sequence has {len(text)} bases")

        head = head_of(reader)
        if strand is None:
            strand = "both" if head == LANGUAGE else tested_strand(model)
        check_strand(strand)
        special = SpecialIds([], [])
        if head != LANGUAGE:
            special = special_ids(model, tokenizer)
        edits, index, shape = _edits_of(text, first, last, kind, size)
        _check_length(reader, text, kind, size, special)
        quantity = _Quantity(reader, head, special, text, target, output, position)
        values = 0
        for which in strands_of(strand):
            values = values + quantity.on_strand(which, edits, batch_size, progress)
        values = values / len(strands_of(strand))  # the last row is that of the unchanged sequence
        scaled = quantity.scaled(values)

    effects = np.full(shape, math.nan)
    effects[tuple(index)] = scaled[:-1] - scaled[-1]
    if kind == "substitutions":
        effects[_of_reference(text[first:last])] = 0
    result = Mutagenesis(
        effects, _alternatives(kind, size), kind, size, quantity.name, float(scaled[-1]), text, first
    )
    if place is not None:
        result.chromosome = place.chromosome
        result.offset = place.window_start
        result.chromosome_length = place.chromosome_length
    return result


def _check_kind(kind: str, size: int) -> None:
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if kind == "substitutions" and size != 1:
        raise InputError(f"size is {size}, but a substitution changes one base")
    if not 1 <= size <= _LARGEST:
        raise InputError(f"size is {size}; deletions and insertions have 1 to {_LARGEST} bases")


def _check_length(model: PreTrainedModel, text: str, kind: str, size: int, special: SpecialIds) -> None:
    longest = len(text) + special.count + (size if kind == "insertions" else 0)
    if longest > model.config.max_seq_len:
        raise InputError(
            f"the model would have to read {longest:,} tokens, but takes at most max_seq_len="
            f"{model.config.max_seq_len:,}: cut the sequence, or use a checkpoint with a longer max_seq_len"
        )
    if kind == "deletions" and size >= len(text):
        raise InputError(f"a deletion of {size} would leave nothing of {len(text)} bases")


# ------------------------------------------------------------------------------ changes


def _alternatives(kind: str, size: int) -> list[str]:
    if kind == "substitutions":
        return list("ACGT")
    if kind == "deletions":
        return [_GAP]
    return ["".join(bases) for bases in product("ACGT", repeat=size)]


def _edits_of(
    text: str, first: int, last: int, kind: str, size: int
) -> tuple[list[Edit], np.ndarray, tuple[int, int]]:
    """Return the changes, their places in the array of effects `(2, changes)`, and its shape."""
    alternatives = _alternatives(kind, size)
    stop = last - size + 1 if kind == "deletions" else last
    if stop <= first:
        raise InputError(f"a deletion of {size} bases does not fit into {last - first} positions")
    edits = []
    places = []
    for at in range(first, stop):
        # Of what is no base (N), nothing can be said relative to it.
        if kind == "substitutions" and text[at] not in "ACGT":
            continue
        for column, alternative in enumerate(alternatives):
            if kind == "substitutions" and alternative == text[at]:
                continue
            end = at if kind == "insertions" else at + size
            edits.append(Edit(at, end, "" if kind == "deletions" else alternative))
            places.append((at - first, column))
    index = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return edits, index, (stop - first, len(alternatives))


def _of_reference(letters: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where the bases of the sequence are in an array `(positions, 4)`."""
    places = [(i, "ACGT".index(base)) for i, base in enumerate(letters) if base in "ACGT"]
    rows, columns = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return rows, columns


# ------------------------------------------------------------------------------ what is followed


class _Quantity:
    """What a model says about a sequence and about changes of it.

    Args:
        model: The model, in evaluation mode.
        head: Its head.
        special: The tokens around the sequence.
        text: The sequence, in capitals.
        target: See `mutagenesis`, as for `output` and `position`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        head: str,
        special: SpecialIds,
        text: str,
        target: str | int | None,
        output: str,
        position: int | None,
    ):
        self.model = model
        self.head = head
        self.special = special
        self.text = text
        self.output = output
        self.position = position
        self.target = target
        if head == LANGUAGE:
            if target is not None or output != "logit":
                raise InputError(
                    "a language model has no classes: leave target and output out, and follow its "
                    "log-likelihood"
                )
        else:
            self.outputs = Outputs(model.config)
            self.outputs.scaled(torch.zeros(1, len(self.outputs.names)), output)  # refuses an unknown one
            if target is not None:
                self.target = self.outputs.number_of(target)
        if (position is not None) != (head == TOKENS):
            raise InputError(
                "position is the one whose output is followed: a head for each position needs it, and no "
                "other takes it"
            )
        if position is not None and not 0 <= position < len(text):
            raise InputError(f"position is {position}, but the sequence has {len(text)} bases")

    @property
    def name(self) -> str:
        """What is followed, in words."""
        if self.head == LANGUAGE:
            return "log-likelihood"
        name = self.outputs.names[self.target]
        at = f" at position {self.position}" if self.head == TOKENS else ""
        if self.outputs.is_regression:
            return f"{name}{at}"
        return f"{self.output} of {name}{at}"

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return the followed output, float64 `(n,)`, of all of them `(n, outputs)`.

        The last row is that of the unchanged sequence. Without a target, it chooses the class.
        """
        if self.head == LANGUAGE:
            return values[:, 0]
        if self.target is None:
            self.target = int(values[-1].argmax())
        return self.outputs.scaled(torch.from_numpy(values), self.output).numpy()[:, self.target]

    @torch.no_grad()
    def on_strand(self, strand: str, edits: list[Edit], batch_size: int, progress: bool) -> np.ndarray:
        """Return the outputs for each change and, last, for the unchanged sequence.

        Returns:
            float64 `(changes + 1, outputs)`; a language model has one, the log-likelihood.
        """
        text = self.text
        is_reverse = strand == "reverse"
        if is_reverse:
            text = reverse_complement(text)
            edits = [edit.on_reverse(len(text)) for edit in edits]
        shift = len(self.special.before)
        tokens = [*self.special.before, *encode(text).tolist(), *self.special.after]
        x = torch.tensor(tokens, device=next(self.model.parameters()).device)

        # All hidden states of the unchanged sequence: those before a change stay as they are.
        states = self.model.base_model(x[None]).last_hidden_state
        reference = self._read(states[:, :0], x[None], states, [self._followed(None, is_reverse)])
        log_p_before = self._log_p_before(x, states)

        result = np.zeros((len(edits) + 1, reference.shape[1]))
        result[-1] = reference[0]
        with tqdm(total=len(edits), unit="change", disable=not progress) as bar:
            for part in read_changes(self.model, x, edits, batch_size, shift):
                followed = [self._followed(edits[i], is_reverse) for i in part.numbers]
                values = self._read(states[:, : part.begin], part.ids, part.hidden, followed)
                if log_p_before is not None:
                    values += log_p_before[part.begin]
                result[part.numbers] = values
                bar.update(len(part.numbers))
        return result

    def _log_p_before(self, x: torch.Tensor, states: torch.Tensor) -> np.ndarray | None:
        """Return the log-likelihood of what lies before each position, float64 `(length + 1,)`."""
        if self.head != LANGUAGE:
            return None
        log_p = target_log_probabilities(self.model, states, x[None])[0].double()
        return F.pad(log_p.cumsum(0), (2, 0)).cpu().numpy()  # the first base has no prediction

    def _followed(self, edit: Edit | None, is_reverse: bool) -> int | None:
        """Return the index of the token at the followed position after a change; None if deleted."""
        if self.position is None:
            return None
        at = self.position
        length = len(self.text)
        if is_reverse:
            at = length - 1 - at
        if edit is not None:
            if edit.start <= at < edit.end and not edit.text:
                return None
            if at >= edit.end:
                at += edit.added
        return at + len(self.special.before)

    def _read(
        self, before: torch.Tensor, rows: torch.Tensor, hidden: torch.Tensor, followed: Sequence[int | None]
    ) -> np.ndarray:
        """Return the outputs of rows that follow a common beginning, float64 `(rows, outputs)`.

        Args:
            before: The hidden states of the beginning, `(1, begin, d_model)`.
            rows: The ids after it, `(rows, length)`.
            hidden: Their hidden states, `(rows, length, d_model)`.
            followed: For a head for each position, the position to read, from the beginning.
        """
        if self.head == LANGUAGE:
            # The last state of the beginning predicts the first token of a row.
            last = before[:, -1:].expand(len(rows), -1, -1)
            ids = F.pad(rows, (last.shape[1], 0))
            log_p = target_log_probabilities(self.model, torch.cat([last, hidden], 1), ids)
            return log_p.double().sum(1, keepdim=True).cpu().numpy()
        if self.head == CLASSIFIER:
            pooled = _pool_both(before, hidden, self.model.config.pooling_method)
            return self.model.score(pooled).double().cpu().numpy()

        begin = before.shape[1]
        vectors = []
        for row, at in enumerate(followed):
            if at is None:
                vectors.append(torch.full_like(hidden[row, 0], math.nan))
            else:
                vectors.append(hidden[row, at - begin] if at >= begin else before[0, at])
        return self.model.score(torch.stack(vectors)).double().cpu().numpy()


def _pool_both(before: torch.Tensor, hidden: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pool a common beginning `(1, begin, d)` and rows `(rows, length, d)` together: `(rows, d)`."""
    begin = before.shape[1]
    if begin == 0 or pooling == "last":
        return pool(hidden, None, pooling)
    if pooling == "first":
        return before[:, 0].expand(len(hidden), -1)
    if pooling == "max":
        return torch.maximum(before.amax(1), hidden.amax(1))
    # The mean, without a copy of all states: that of each part, weighted by its length.
    length = hidden.shape[1]
    means = [pool(before, None, "mean") * begin, pool(hidden, None, "mean") * length]
    return (means[0] + means[1]) / (begin + length)


# ------------------------------------------------------------------------------ the command


@dataclass
class Region:
    """A region to mutate, and the window around it that the model reads.

    Attributes:
        sequence: The number of the chromosome in the genome.
        chromosome: Its name.
        start: Start of the region, from 0.
        end: End of the region, half-open.
        window_start: Start of the window, from 0.
        window_end: End of the window, half-open.
        chromosome_length: The length of the chromosome.
    """

    sequence: int
    chromosome: str
    start: int
    end: int
    window_start: int
    window_end: int
    chromosome_length: int

    @property
    def name(self) -> str:
        """The region as text, `chr20:1,000-1,200`, counted from 0."""
        return f"{self.chromosome}:{self.start:,}-{self.end:,}"


def read_region(genome: SequenceFile, text: str, window: int) -> Region:
    """Return the region of `hyenadna variants --mutagenesis`, with its window.

    Args:
        genome: The genome.
        text: `chr20:1,000-1,200` (0-based, half-open), or the name of a sequence.
        window: The number of bases that the model reads, with the region in their middle. Near the
            ends of the sequence it is not.

    Raises:
        InputError: The region is not in the genome or longer than the window, or a letter in the
            window stands for no nucleotide.
    """
    if text.lower().endswith(".bed"):
        raise InputError("mutagenesis takes one region, such as chr20:1000-1200")
    ((_, sequence, start, end),) = read_regions([text], [genome], "mutagenesis").tolist()
    if end - start > window:
        raise InputError(
            f"the region of mutagenesis has {end - start:,} bases, but the window has {window:,}"
        )

    left = max(0, start - (window - (end - start)) // 2)
    right = min(left + window, int(genome.lengths[sequence]))
    genome.check_letters(sequence, left, genome.read(sequence, left, right))
    length = int(genome.lengths[sequence])
    return Region(sequence, genome.names[sequence], start, end, left, right, length)


def text_of_region(
    model: PreTrainedModel, genome: Data | SequenceFile, region: str, window: int | None, what: str
) -> tuple[Region, str]:
    """Return a region of a genome, and the letters of the window around it, in capitals.

    Args:
        model: The model that is to read the window.
        genome: The genome, or its path.
        region: See `read_region`.
        window: The bases to read; by default 1,024, or what the model can.
        what: Who asks, for messages.
    """
    file = genome if isinstance(genome, SequenceFile) else open_genomes([genome])[0]
    place = read_region(file, region, window or min(1024, model.config.max_seq_len))
    letters = file.letters(place.sequence, place.window_start, place.window_end)
    return place, one_sequence(letters, what)


def run_mutagenesis(
    model: PreTrainedModel, genome: SequenceFile, region: Region, output: Path, batch_size: int = 32
) -> pd.DataFrame:
    """Score all substitutions in a region, and write `mutagenesis.tsv` and `mutagenesis.png`.

    Args:
        model: A language model.
        genome: The genome.
        region: From `read_region`.
        output: The folder to write into.
        batch_size: The number of substitutions to read at once.

    Returns:
        A row for each substitution: `chrom`, `position` (from 0), `ref`, `alt` and `llr`.
    """
    window = genome.letters(region.sequence, region.window_start, region.window_end)
    first = region.start - region.window_start
    last = region.end - region.window_start
    result = mutagenesis(model, [window], first, last, batch_size=batch_size, progress=True)
    result.chromosome = region.chromosome
    result.offset = region.window_start
    table = result.table.rename(columns={"effect": "llr"})[["chrom", "position", "ref", "alt", "llr"]]

    path = output / "mutagenesis.tsv"
    write_whole(path, lambda temporary: table.to_csv(temporary, sep="\t", index=False, na_rep="nan"))
    result.plot(output / "mutagenesis.png")
    print(f"{len(table):,} substitutions of {region.name}: {path} and .png")
    return table
