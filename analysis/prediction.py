"""What a classifier says about sequences, or along a genome: `hyenadna predict`.

    hyenadna predict --model promoters --data new.fa --output predictions.csv
    hyenadna predict --model promoters --fasta hg38.fa --regions chr20 --window 300 --stride 100 \\
        --target promoter --output promoters.bedgraph

A model with a head for classes, several labels or numbers gives a row for each sequence, a model
with a head for each position a row for each base. Along a genome it reads windows, and where these
overlap their outputs are averaged. Then `--output` may be a table (.tsv, .csv), BED (.bed), bedGraph
(.bedgraph) or bigWig (.bw, needs pybigtools).

    from hyenadna.analysis import predict, predict_windows
    predict(model, ["ACGTTG", "GGCA"])                        # a table with a row for each sequence
    predict_windows(model, "hg38.fa", "chr20:0-100,000", window=300, stride=100)

Positions count from 0, and ends are not included, as in BED.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from hyenadna.errors import InputError
from hyenadna.flags import CommandParser
from hyenadna.genomics.fasta import SequenceFile, open_genomes
from hyenadna.genomics.intervals import Intervals, merge, read_regions, whole_sequences
from hyenadna.genomics.letters import SOFT_MASKED, Alphabet, complement_ids, is_base, pad
from hyenadna.genomics.tracks import BEDGRAPH, BIGWIG, check_track, write_track
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training.runs.files import write_whole
from hyenadna.training.runs.metrics import predicted_labels
from hyenadna.training.runs.outputs import inert, locked, whole_file

from .likelihoods import STRANDS, check_strand, strands_of
from .models import (
    CLASSIFIER,
    SCALES,
    TOKENS,
    ModelOrName,
    Outputs,
    SpecialIds,
    alphabet_of_model,
    borrowed,
    check_dna,
    device_of,
    head_of,
    special_ids,
    tested_strand,
)
from .sequences import Data, NamedSequences, blocks_of, encode_named, sequences_of

__all__ = [
    "Segments",
    "logits_of_batch",
    "main",
    "predict",
    "predict_windows",
    "window_segments",
    "write_segments",
]

_HEADS = (CLASSIFIER, TOKENS)
_TABLES = (".tsv", ".csv")
_TRACKS = BEDGRAPH + BIGWIG
_OF_GENOME = (".bed", *_TRACKS)


# ------------------------------------------------------------------------------ logits


@torch.no_grad()
def logits_of_batch(model: nn.Module, rows: Sequence[np.ndarray], special: SpecialIds) -> list[np.ndarray]:
    """Return the logits of sequences that share a batch.

    Args:
        model: A classifier of sequences or of positions, in evaluation mode.
        rows: Ids of each sequence, uint8 `(length,)`, perhaps with `SOFT_MASKED` added.
        special: The tokens around a sequence.

    Returns:
        float64 `(outputs,)` for each sequence, or `(length, outputs)` from a head for each
        position; special tokens have no row.
    """
    before = np.array(special.before, dtype=np.uint8)
    after = np.array(special.after, dtype=np.uint8)
    tokens, lengths = pad([np.concatenate([before, row, after]) for row in rows])
    device = device_of(model)
    inputs = {"input_ids": torch.from_numpy(tokens).to(device)}
    if lengths.min() < tokens.shape[1]:
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        inputs["attention_mask"] = torch.from_numpy(mask).long().to(device)
    logits = model(**inputs).logits.double().cpu().numpy()
    if logits.ndim == 2:
        return list(logits)
    first = len(before)
    return [logits[i, first : first + len(row)] for i, row in enumerate(rows)]


def logits_of(
    model: nn.Module,
    rows: Sequence[np.ndarray],
    special: SpecialIds,
    strand: str,
    batch_bases: int,
    bar: Any = None,
) -> list[np.ndarray]:
    """Return what `logits_of_batch` does, for any number of sequences, as a mean over strands."""
    lengths = np.array([len(row) for row in rows])
    results: list[Any] = [None] * len(rows)
    # Sequences of similar length share a batch; the longest come first, see `batches_of`.
    by_length = np.argsort(-lengths, kind="stable")
    while len(by_length):
        count = max(1, batch_bases // (int(lengths[by_length[0]]) + special.count))
        numbers = by_length[:count].tolist()
        by_length = by_length[count:]
        for i, logits in zip(
            numbers, _both_strands(model, [rows[i] for i in numbers], special, strand), strict=True
        ):
            results[i] = logits
        if bar is not None:
            bar.update(int(lengths[numbers].sum()))
    return results


def _both_strands(
    model: nn.Module, rows: Sequence[np.ndarray], special: SpecialIds, strand: str
) -> list[np.ndarray]:
    """Return the mean logits of the strands. On the reverse one, positions run backwards."""
    by_strand = []
    alphabet = alphabet_of_model(model)
    for which in strands_of(strand, alphabet):
        if which == "forward":
            by_strand.append(logits_of_batch(model, rows, special))
            continue
        reverse = logits_of_batch(model, [complement_ids(row, alphabet) for row in rows], special)
        by_strand.append([logits[::-1] if logits.ndim == 2 else logits for logits in reverse])
    return [np.mean(logits, axis=0) for logits in zip(*by_strand, strict=True)]


def _check_fit(model: nn.Module, longest: int, name: str, special: SpecialIds) -> None:
    limit = model.config.max_seq_len - special.count
    if longest > limit:
        raise InputError(
            f"{name} has {longest:,} bases, but the model reads at most {limit:,}: cut it into windows "
            "(`predict_windows`, --fasta with --window), or use a checkpoint with a longer max_seq_len"
        )


# ------------------------------------------------------------------------------ tables


def predict(
    model: ModelOrName,
    data: Data,
    *,
    output: str = "probability",
    strand: str | None = None,
    batch_bases: int = 2**16,
    tokenizer: HyenaDNATokenizer | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    sequence_column: str = "sequence",
    id_column: str = "id",
) -> pd.DataFrame:
    """Return what a classifier, a regression or a classifier of positions predicts.

    Args:
        model: A model with a head for sequences or for positions, a folder, or an id on the Hub. An
            object is left unchanged.
        data: Sequences; see `sequences_of`.
        output: `"probability"`, or `"logit"` for the values before softmax or sigmoid.
        strand: The strand to read: `"forward"`, `"reverse"`, or `"both"` for the mean of their
            logits. By default what `hyenadna finetune` tested the folder with; otherwise forward.
        batch_bases: The most tokens in one batch, padding included.
        tokenizer: The tokenizer of the model, where `model` is an object that was trained with
            special tokens; see `special_ids`.
        device: Where to compute. By default an object stays where it is, and a loaded model goes to
            the GPU if there is one.
        progress: Show a progress bar.
        sequence_column: The column of a table that holds the sequences.
        id_column: The column of a table that holds the names, if there is one.

    Returns:
        A row for each sequence: `id`, `length`, `predicted` (the class) and `probability_CLASS`; for
        several labels `predicted_CLASS` (0 or 1) in place of `predicted`; for a regression
        `predicted`, or `predicted_NAME` for each of several numbers. From a head for each position,
        a row for each base, with `position` (from 0) and `base` in place of `length`.

    Raises:
        InputError: The model has no such head, or a sequence is empty, too long, or has other
            letters.

    >>> from hyenadna import HyenaDNAConfig, HyenaDNAForSequenceClassification
    >>> config = HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66, id2label={0: "no", 1: "yes"})
    >>> predict(HyenaDNAForSequenceClassification(config), ["ACGT"]).columns.tolist()
    ['id', 'length', 'predicted', 'probability_no', 'probability_yes']
    """
    strand = strand or tested_strand(model)
    check_strand(strand)
    names, sequences = sequences_of(data, sequence_column, id_column)
    texts = list(sequences)
    alphabet = alphabet_of_model(model)
    strands_of(strand, alphabet)  # refuse a second strand that there is not
    rows = [encode_named(text, name, alphabet) for name, text in zip(names, texts, strict=True)]
    special = special_ids(model, tokenizer)
    with borrowed(model, _HEADS, "predict", device) as reader:
        outputs = Outputs(reader.config)
        longest = int(np.argmax([len(row) for row in rows]))
        _check_fit(reader, len(rows[longest]), names[longest], special)
        total = sum(len(row) for row in rows)
        with tqdm(total=total, unit="base", unit_scale=True, disable=not progress) as bar:
            logits = logits_of(reader, rows, special, strand, batch_bases, bar)
    return _table(names, texts, logits, outputs, output, alphabet)


def _table(
    names: Sequence[str],
    texts: Sequence[str],
    logits: list[np.ndarray],
    outputs: Outputs,
    output: str,
    alphabet: Alphabet,
) -> pd.DataFrame:
    lengths = [alphabet.count(text) for text in texts]
    if logits[0].ndim == 1:
        columns = {"id": list(names), "length": lengths}
        values = np.stack(logits)
    else:
        columns = {
            "id": np.repeat(np.array(names, dtype=object), lengths),
            "position": np.concatenate([np.arange(length) for length in lengths]),
            "base": [token for text in texts for token in alphabet.tokens(alphabet.pack(text))],
        }
        values = np.concatenate(logits)
    values = outputs.scaled(torch.from_numpy(values), output).numpy()
    return pd.DataFrame({**columns, **_output_columns(values, outputs, output)})


def _output_columns(values: np.ndarray, outputs: Outputs, output: str) -> dict[str, Any]:
    """Return the columns that hold the outputs `(rows, outputs)`, on the scale of `output`."""
    if outputs.is_regression:
        if len(outputs.names) == 1:
            return {"predicted": values[:, 0]}
        return {f"predicted_{name}": values[:, i] for i, name in enumerate(outputs.names)}

    probability = values
    if output == "logit":
        probability = outputs.scaled(torch.from_numpy(values), "probability").numpy()
    predicted = predicted_labels(probability, outputs.problem_type)
    if predicted.ndim == 1:
        columns: dict[str, Any] = {"predicted": [outputs.names[i] for i in predicted]}
    else:
        columns = {f"predicted_{name}": predicted[:, i] for i, name in enumerate(outputs.names)}
    return columns | {f"{output}_{name}": values[:, i] for i, name in enumerate(outputs.names)}


# ------------------------------------------------------------------------------ windows


class Segments(NamedTuple):
    """Neighbouring stretches of one chromosome, and what the model says about each.

    Attributes:
        chromosome: Its name in the genome.
        start: int64 `(n,)`, from 0.
        end: int64 `(n,)`, not included.
        values: float64 `(n, outputs)`, means over the windows that cover a stretch.
    """

    chromosome: str
    start: np.ndarray
    end: np.ndarray
    values: np.ndarray


def window_starts(start: int, end: int, window: int, stride: int) -> np.ndarray:
    """Return the starts of windows that cover a region; the last one ends where the region does.

    >>> window_starts(0, 25, window=10, stride=10).tolist()
    [0, 10, 15]
    """
    last = max(start, end - window)
    return np.unique(np.append(np.arange(start, last, stride), last))


class _Average:
    """The mean of the outputs of overlapping windows, kept as long as a window may still come."""

    def __init__(self, start: int, outputs: int):
        self.start = start
        self.sums = np.zeros((0, outputs))
        self.counts = np.zeros(0)
        # Where values may change. With one output a window, most neighbours are equal.
        self.is_border = np.zeros(0, dtype=bool)

    def add(self, start: int, end: int, values: np.ndarray | None) -> None:
        """Add a window's outputs: `(outputs,)`, `(bases, outputs)`, or None if it has none."""
        missing = end - self.start + 1 - len(self.counts)
        if missing > 0:
            self.sums = np.pad(self.sums, ((0, missing), (0, 0)))
            self.counts = np.pad(self.counts, (0, missing))
            self.is_border = np.pad(self.is_border, (0, missing))
        inside = slice(start - self.start, end - self.start)
        self.is_border[[inside.start, inside.stop]] = True
        if values is None:
            return
        self.sums[inside] += values
        self.counts[inside] += 1
        if values.ndim == 2:
            self.is_border[inside] = True

    def take(self, end: int, chromosome: str) -> Segments:
        """Return what lies before `end`, and forget it. Bases that no window covers are left out."""
        count = min(end - self.start, len(self.counts))
        borders = self.is_border[:count].copy()
        borders[:1] = True
        first = np.flatnonzero(borders)
        last = np.append(first[1:], count)
        covered = self.counts[first] > 0
        first = first[covered]
        last = last[covered]
        values = self.sums[first] / self.counts[first, None]
        segments = Segments(chromosome, first + self.start, last + self.start, values)
        self.sums = self.sums[count:]
        self.counts = self.counts[count:]
        self.is_border = self.is_border[count:]
        self.start += count
        return segments


def window_segments(
    model: nn.Module,
    genome: SequenceFile,
    regions: Intervals,
    special: SpecialIds,
    *,
    window: int,
    stride: int,
    output: str = "probability",
    strand: str = "forward",
    batch_size: int = 32,
    bar: Any = None,
) -> Iterator[Segments]:
    """Yield the predictions along regions, in order; where windows overlap, their mean.

    Means are of probabilities (or of logits, if `output` says so). A window without any A, C, G or T
    has no prediction. Memory does not grow with the region.

    Args:
        model: A classifier of sequences or of positions, in evaluation mode.
        genome: The genome.
        regions: Intervals of it that do not overlap.
        special: The tokens around a window.
        window: The bases that the model reads at once. A shorter region is read whole.
        stride: From the start of one window to that of the next.
        output: `"probability"` or `"logit"`.
        strand: See `predict`.
        batch_size: Windows in one batch.
        bar: A progress bar that counts windows, or None.
    """
    outputs = Outputs(model.config)
    for _, sequence, start, end in regions.tolist():
        chromosome = genome.names[sequence]
        average = _Average(start, len(outputs.names))
        starts = window_starts(start, end, window, stride).tolist()
        for first in range(0, len(starts), batch_size):
            batch = starts[first : first + batch_size]
            places = [(at, min(at + window, end)) for at in batch]
            rows = [np.frombuffer(genome.read(sequence, *place), np.uint8) for place in places]
            for place, logits in zip(places, _logits_where_bases(model, rows, special, strand), strict=True):
                values = None
                if logits is not None:
                    values = outputs.scaled(torch.from_numpy(logits), output).numpy()
                average.add(*place, values)
            if bar is not None:
                bar.update(len(batch))
            # Nothing before the next window can change any more.
            is_last = first + batch_size >= len(starts)
            segments = average.take(end if is_last else starts[first + batch_size], chromosome)
            if len(segments.start):
                yield segments


def _logits_where_bases(
    model: nn.Module, rows: list[np.ndarray], special: SpecialIds, strand: str
) -> list[np.ndarray | None]:
    """Return the logits of windows; None for one without any A, C, G or T."""
    kept = [i for i, row in enumerate(rows) if is_base(row % SOFT_MASKED).any()]
    results: list[np.ndarray | None] = [None] * len(rows)
    if kept:
        logits = _both_strands(model, [rows[i] for i in kept], special, strand)
        for i, values in zip(kept, logits, strict=True):
            results[i] = values
    return results


def regions_of(genome: SequenceFile, regions: str | Sequence[str] | None) -> Intervals:
    """Return the regions to read: merged, in order; all sequences by default.

    Raises:
        InputError: A region is not in the genome, or holds a letter that is no nucleotide.
    """
    if regions is None:
        found = whole_sequences([genome])
    else:
        specs = [regions] if isinstance(regions, str) else list(regions)
        found = merge(read_regions(specs, [genome], "regions"))
    for _, sequence, start, end in found.tolist():
        for at in range(start, end, 2**20):
            genome.check_letters(sequence, at, genome.read(sequence, at, min(at + 2**20, end)))
    return found


def predict_windows(
    model: ModelOrName,
    genome: str | Path | SequenceFile,
    regions: str | Sequence[str] | None = None,
    *,
    window: int,
    stride: int | None = None,
    output: str = "probability",
    strand: str | None = None,
    batch_size: int = 32,
    tokenizer: HyenaDNATokenizer | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Return the predictions of a classifier along a genome, read in windows.

    Args:
        model: See `predict`.
        genome: A FASTA file.
        regions: `"chr20:0-100,000"` (from 0, the end not included), `"chr20"`, a BED file, or a list
            of them; by default the whole genome.
        window: The bases that the model reads at once: as many as it was trained with.
        stride: From the start of one window to that of the next; by default half a window for a
            head for each position, and a window otherwise. Where windows overlap, their outputs are
            averaged.
        output: See `predict`, as for `strand`, `tokenizer`, `device` and `progress`.
        batch_size: Windows in one batch.

    Returns:
        A row for each stretch with its own value: `chrom`, `start` (from 0), `end`, and the columns
        of `predict`.

    Raises:
        InputError: A region is not in the genome, or a setting does not fit the model.

    >>> predict_windows(model, "hg38.fa", "chr20", window=300)              # doctest: +SKIP
    """
    check_dna(model, "predict_windows")
    strand = strand or tested_strand(model)
    check_strand(strand)
    if output not in SCALES:
        raise InputError(f"output is {output!r}; it must be one of {', '.join(SCALES)}")
    file = genome if isinstance(genome, SequenceFile) else open_genomes([genome])[0]
    places = regions_of(file, regions)
    special = special_ids(model, tokenizer)
    with borrowed(model, _HEADS, "predict_windows", device) as reader:
        outputs = Outputs(reader.config)
        stride = checked_stride(reader, window, stride, special)
        total = count_windows(places, window, stride)
        with tqdm(total=total, unit="window", disable=not progress) as bar:
            parts = list(
                window_segments(
                    reader,
                    file,
                    places,
                    special,
                    window=window,
                    stride=stride,
                    output=output,
                    strand=strand,
                    batch_size=batch_size,
                    bar=bar,
                )
            )
    tables = [_segment_table(part, outputs, output) for part in parts]
    if not tables:
        raise InputError("the regions hold no A, C, G or T")
    return pd.concat(tables, ignore_index=True)


def checked_stride(model: nn.Module, window: int, stride: int | None, special: SpecialIds) -> int:
    """Return the stride, or its default. Raise `InputError` if it or the window cannot be used."""
    if window < 1 or (stride is not None and not 1 <= stride <= window):
        raise InputError(
            f"window is {window} and stride {stride}; a window has a base at least, and a stride is 1 to "
            "window, or bases between the windows would have no prediction"
        )
    _check_fit(model, window, "a window", special)
    if stride is not None:
        return stride
    return max(1, window // 2) if head_of(model) == TOKENS else window


def count_windows(regions: Intervals, window: int, stride: int) -> int:
    """Return how many windows the model has to read."""
    return sum(len(window_starts(start, end, window, stride)) for _, _, start, end in regions.tolist())


def _segment_table(part: Segments, outputs: Outputs, output: str) -> pd.DataFrame:
    places = {"chrom": part.chromosome, "start": part.start, "end": part.end}
    return pd.DataFrame({**places, **_output_columns(part.values, outputs, output)})


# ------------------------------------------------------------------------------ files


def write_segments(
    path: Path, parts: Iterator[Segments], genome: SequenceFile, outputs: Outputs, output: str, target: int
) -> int:
    """Write predictions along a genome, as they come. Return the number of rows.

    Args:
        path: Its suffix says what: a table (.tsv, .csv) of all outputs; bedGraph (.bedgraph, .bdg) or
            bigWig (.bw, .bigwig) of one of them; or BED (.bed), stretches of one predicted class
            with 1000 times its mean probability as the score.
        parts: From `window_segments`.
        genome: The genome, for the lengths of its chromosomes.
        outputs: The names of the outputs.
        output: The scale of the values.
        target: The number of the output that bedGraph and bigWig hold.
    """
    kind = path.suffix.lower()
    if kind in _TRACKS:
        lengths = dict(zip(genome.names, genome.lengths.tolist(), strict=True))
        counts = []
        write_whole(path, lambda name: counts.append(write_track(name, lengths, _values(parts, target))))
        return counts[0]
    count = 0
    with whole_file(path) as file:
        if kind == ".bed":
            for row in _bed_rows(parts, outputs):
                file.write("\t".join(map(str, row)) + "\n")
                count += 1
            return count
        for part in parts:
            table = _segment_table(part, outputs, output)
            table["chrom"] = table["chrom"].map(inert)
            table.to_csv(file, sep=_separator(path), index=False, header=count == 0)
            count += len(table)
        return count


def _separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _values(parts: Iterator[Segments], target: int) -> Iterator[tuple[str, int, int, float]]:
    for part in parts:
        values = part.values[:, target].tolist()
        for start, end, value in zip(part.start.tolist(), part.end.tolist(), values, strict=True):
            yield part.chromosome, start, end, value


def _bed_rows(parts: Iterator[Segments], outputs: Outputs) -> Iterator[tuple]:
    """Yield stretches of one predicted class: chromosome, start, end, class, score."""
    place: tuple[str, int, int, int] | None = None  # chromosome, start, end, class
    total = 0.0
    for part in parts:
        classes = part.values.argmax(1)
        probability = part.values[np.arange(len(classes)), classes]
        for start, end, number, p in zip(
            part.start.tolist(), part.end.tolist(), classes.tolist(), probability.tolist(), strict=True
        ):
            if place is not None and place[0] == part.chromosome and place[2:] == (start, number):
                place = (place[0], place[1], end, number)
                total += p * (end - start)
                continue
            if place is not None:
                yield _bed_row(place, total, outputs)
            place = (part.chromosome, start, end, number)
            total = p * (end - start)
    if place is not None:
        yield _bed_row(place, total, outputs)


def _bed_row(place: tuple[str, int, int, int], total: float, outputs: Outputs) -> tuple:
    chromosome, start, end, number = place
    # A name of a BED line has no white space.
    name = "_".join(outputs.names[number].split())
    return chromosome, start, end, name, round(1000 * total / (end - start))


# ------------------------------------------------------------------------------ the command


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "predict",
        "Classes or numbers of new sequences, or along a genome, from a trained model.",
        example="hyenadna predict --model promoters --data new.fa --output new.csv",
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a model with a head for classes")
    parser.add_argument("--data", help="sequences: FASTA, csv, tsv, parquet, or text")
    parser.add_argument("--fasta", help="in place of data: a genome, to be read in windows")
    parser.add_argument(
        "--output",
        required=True,
        help=f"file to write: {', '.join(_TABLES)}; of a genome also {', '.join(_OF_GENOME)}",
    )
    parser.add_argument(
        "--regions", nargs="+", help="of the genome: chr20, chr20:0-100,000 (from 0) or a BED file"
    )
    parser.add_argument("--window", type=int, help="bases of the genome to read at once, as in training")
    parser.add_argument(
        "--stride", type=int, help="bases from one window to the next; where windows overlap, their mean"
    )
    parser.add_argument("--target", help="the class (name or number) that bedGraph and bigWig show")
    parser.add_argument("--scale", choices=SCALES, default="probability", help="of the outputs")
    parser.add_argument(
        "--strand", choices=STRANDS, help="strand to read (default: as the model was tested, or forward)"
    )
    parser.add_argument("--sequence_column", default="sequence", help="column of --data")
    parser.add_argument("--id_column", default="id", help="column with the names, if any")
    parser.add_argument("--batch_bases", type=int, default=2**16, help="bases in a batch")
    parser.add_argument("--device", help="such as cpu or cuda:1; the GPU if there is one")
    return parser


def _check_arguments(args: argparse.Namespace) -> Path:
    """Return the file to write. Raise `InputError` if the settings do not fit together."""
    if (args.data is None) == (args.fasta is None):
        raise InputError("give either --data (sequences) or --fasta (a genome, read in windows)")
    if args.fasta is not None and args.window is None:
        raise InputError("a genome is read in windows: say how long with --window, as long as in training")
    only_genomes = [name for name in ("regions", "window", "stride", "target") if getattr(args, name)]
    if args.data is not None and only_genomes:
        raise InputError(f"--{', --'.join(only_genomes)} belong to --fasta, not to --data")
    if args.batch_bases < 1:
        raise InputError(f"batch_bases is {args.batch_bases}; at least 1 is needed")

    path = Path(args.output)
    known = _TABLES if args.data is not None else _TABLES + _OF_GENOME
    if path.suffix.lower() not in known:
        raise InputError(f"output is {args.output!r}; it must end in one of {', '.join(known)}")
    if path.suffix.lower() in _TRACKS:
        check_track(path)
    source = args.data or args.fasta
    if path.resolve() == Path(source).resolve():
        raise InputError(f"output would overwrite the input {source}")
    if not path.resolve().parent.is_dir() or path.is_dir():
        raise InputError(f"{path}: name a file in a folder that exists")
    return path


def _target_of(args: argparse.Namespace, outputs: Outputs, kind: str) -> int:
    """Return the number of the output that a track shows."""
    if kind == ".bed" and outputs.problem_type != "single_label_classification":
        raise InputError("BED holds classes, and this model gives numbers or labels: write bedGraph or .tsv")
    if kind == ".bed" and args.scale != "probability":
        raise InputError("BED holds probabilities: leave --scale out")
    if args.target is not None:
        return outputs.number_of(args.target)
    if len(outputs.names) > 2 and kind in _TRACKS:
        raise InputError(f"a track shows one class; choose it with --target: {outputs.names}")
    return len(outputs.names) - 1


def _predict_file(args: argparse.Namespace, path: Path, strand: str) -> str:
    """Write a row for each sequence, or for each base. Return what was written."""
    alphabet = alphabet_of_model(args.model)
    strands_of(strand, alphabet)  # refuse a second strand that there is not
    sequences = NamedSequences(args.data, args.sequence_column, args.id_column, alphabet)
    special = special_ids(args.model)
    extent = sequences.check()
    count = 0
    with ExitStack() as at_end:
        reader = at_end.enter_context(borrowed(args.model, _HEADS, "predict", args.device))
        outputs = Outputs(reader.config)
        _check_fit(reader, extent.longest, f"{args.data}: {extent.name_of_longest}", special)
        at_end.enter_context(locked(path, is_file=True))
        file = at_end.enter_context(whole_file(path))
        bar = at_end.enter_context(tqdm(total=extent.bases, unit="base", unit_scale=True))
        for block in blocks_of(sequences):
            names = [name for name, _ in block]
            texts = [text for _, text in block]
            rows = [encode_named(text, "", alphabet) for text in texts]
            logits = logits_of(reader, rows, special, strand, args.batch_bases, bar)
            table = _table(names, texts, logits, outputs, args.scale, alphabet)
            table["id"] = table["id"].map(inert)
            table.to_csv(file, sep=_separator(path), index=False, header=count == 0)
            count += len(table)
    return f"{extent.sequences:,} sequences, {count:,} rows: {path}"


def _predict_genome(args: argparse.Namespace, path: Path, strand: str) -> str:
    """Write the predictions along a genome. Return what was written."""
    check_dna(args.model, "predict --fasta")
    (genome,) = open_genomes([args.fasta])
    regions = regions_of(genome, args.regions)
    special = special_ids(args.model)
    with ExitStack() as at_end:
        reader = at_end.enter_context(borrowed(args.model, _HEADS, "predict", args.device))
        outputs = Outputs(reader.config)
        kind = path.suffix.lower()
        target = _target_of(args, outputs, kind)
        stride = checked_stride(reader, args.window, args.stride, special)
        at_end.enter_context(locked(path, is_file=True))
        total = count_windows(regions, args.window, stride)
        bar = at_end.enter_context(tqdm(total=total, unit="window"))
        parts = window_segments(
            reader,
            genome,
            regions,
            special,
            window=args.window,
            stride=stride,
            output=args.scale,
            strand=strand,
            batch_size=max(1, args.batch_bases // args.window),
            bar=bar,
        )
        count = write_segments(path, parts, genome, outputs, args.scale, target)
    shown = ""
    if kind in _TRACKS:
        shown = f" of {outputs.names[target]!r}"
    return f"{total:,} windows, {count:,} rows{shown}: {path}"


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna predict` with these arguments (default: those of the command line)."""
    args = _parser().parse_args(argv)
    path = _check_arguments(args)
    strand = args.strand or tested_strand(args.model)
    run = _predict_file if args.data is not None else _predict_genome
    print(f"{run(args, path, strand)} (strand: {strand})")


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
