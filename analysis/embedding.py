"""Embed sequences, then classify or map the embeddings: `hyenadna embed`.

    hyenadna embed --model pretrained --data promoters.csv --output_dir embeddings
    # genes, classified by biotype; with the settings of the paper; on several devices
    hyenadna embed --model pretrained --gtf genes.gtf.gz --fasta hg38.fa --classifier boosted_trees
    hyenadna embed biotypes.yaml --model pretrained --data transcripts.fa --picture tsne
    accelerate launch -m hyenadna embed --model pretrained --data promoters.csv

An embedding is the mean, the maximum or the last of a layer's outputs over the positions of a
sequence. A sequence longer than `--chunk` (by default what the model reads) is cut into chunks. The
embeddings of the chunks are averaged with their lengths as weights, as for the paper's biotypes
(arXiv 2306.15794).

The output folder holds `embeddings.parquet` (or `.npz`).

- With `--classifier`, `metrics.json` has the cross-validated F1. Rows of the same gene, or of the
  same DNA on either strand, are kept in one fold.
- With `--picture`, there is a map in two dimensions: `embeddings.png` and `embeddings.html`, a
  single file that needs no network.

    from hyenadna.analysis import embed
    embed(model, ["ACGTTG", "GGCA"], pooling="mean")          # float32 (2, d_model)
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import logging

from hyenadna import HyenaDNAConfig, HyenaDNAModel
from hyenadna.errors import UNREADABLE, InputError, reading
from hyenadna.genomics.fasta import SequenceFile
from hyenadna.genomics.genes import GeneSequences, read_genes
from hyenadna.genomics.labels import check_sequences, check_spellings, label_text
from hyenadna.genomics.letters import DNA, Alphabet, encode, pad, reverse_complement
from hyenadna.genomics.sources import has_labels, read_parts
from hyenadna.inputs_hyenadna import pool
from hyenadna.training.runs.files import write_json, write_whole
from hyenadna.training.runs.folder import (
    METRICS_FILE,
    SETTINGS_FILE,
    check_output_folder,
    hardware,
    versions,
)
from hyenadna.training.runs.models import alphabet_of_checkpoint, load_checkpoint
from hyenadna.training.runs.outputs import locked, remove_unfinished
from hyenadna.training.runs.pictures import write_confusion_matrix
from hyenadna.training.runs.settings import parse_settings, setting
from hyenadna.training.runs.shards import Parts, changed_settings, read_earlier_settings, share

from .classifier import CLASSIFIERS, check_classes, cross_validate, groups_of, majority
from .likelihoods import check_lengths, check_strand, strands_of
from .models import BACKBONE, ModelOrName, alphabet_of_model, borrowed, check_dna
from .pictures import METHODS, check_map, draw_map, map_to_plane, write_html
from .sequences import Data, read_sequences, sequences_of

__all__ = ["POOLINGS", "EmbedArguments", "Rows", "embed", "main", "read_rows", "run"]

logger = logging.get_logger(__name__)

POOLINGS = ("mean", "last", "max")
_BASES_PER_PART = 2**22  # a process writes a part of the work after this many bases
# The settings that the vectors of an unfinished run depend on. All others may change.
_SETTINGS_OF_VECTORS = ("model", "pooling", "layer", "chunk", "data_sha256")
_CHUNK = 2**16  # positions of a long sequence to read at once, where it is read whole
_LARGEST_SEED = 2**32 - 1  # the largest that scikit-learn takes


@dataclass
class EmbedArguments:
    """Settings of `hyenadna embed`."""

    SHOWN: ClassVar = {
        "your data": ("data", "gtf", "fasta", "biotypes", "sequence_column", "label_column", "id_column"),
        "the model": ("model", "pooling", "layer", "chunk"),
        "what to make of them": ("classifier", "folds", "picture", "min_rows", "max_rows", "output_format"),
        "the run": ("output_dir", "resume", "batch_bases", "seed", "use_cpu"),
    }
    EXAMPLE: ClassVar = "hyenadna embed --model pretrained --data promoters.csv --picture tsne"

    model: str | None = setting(None, "Checkpoint: a folder or an id on the Hub.")
    data: str | None = setting(None, "csv, tsv, parquet or FASTA file, or folder, with labels or without.")
    gtf: str | None = setting(None, "GTF or GFF file, in place of data: its genes, labelled by biotype.")
    fasta: str | None = setting(None, "Genome of the genes.")
    feature: str = setting("gene", "Feature of the GTF or GFF file.")
    biotypes: list[str] = field(default_factory=list, metadata={"help": "Biotypes to use; by default all."})
    min_rows: int = setting(10, "For classifier and picture: leave out classes with fewer rows.")
    max_rows: int | None = setting(None, "Draw at most this many rows of each class.")
    sequence_column: str = setting("sequence", "Column with the sequences.")
    label_column: str = setting("label", "Column with the labels, if there is one.")
    id_column: str = setting("id", "Column with the names of the rows, if there is one.")
    pooling: str = setting("mean", f"{', '.join(POOLINGS)}, over the positions of a sequence or chunk.")
    layer: int = setting(
        -1, "0: the embeddings of the letters, i: block i; -1: the last, after the final norm."
    )
    chunk: int | None = setting(None, "Bases to read at a time; by default as many as the model reads.")
    batch_bases: int = setting(2**16, "Bases in one batch on each device, padding included.")
    output_format: str = setting("parquet", "parquet or npz.")
    classifier: str | None = setting(None, "Classifier to cross-validate: logistic or boosted_trees.")
    folds: int = setting(5, "Folds of the cross-validation.")
    picture: str | None = setting(None, "Map of two dimensions: tsne, pca, or umap if it is installed.")
    seed: int = setting(0, "Of the folds, the draw and the map.")
    use_cpu: bool = setting(False, "Do not use a GPU.")
    resume: bool = setting(False, "Go on with an interrupted run in output_dir.")
    output_dir: str = setting("hyenadna-embeddings", "Folder for everything that the run writes.")

    def __post_init__(self) -> None:
        for name, known in (("pooling", POOLINGS), ("output_format", ("parquet", "npz"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}")
        for name, known in (("classifier", CLASSIFIERS), ("picture", METHODS)):
            if getattr(self, name) not in (None, *known):
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}")

        if self.model is None or (self.data is None) == (self.gtf is None):
            raise InputError("embed needs a checkpoint (model), and sequences: either data, or gtf and fasta")
        if self.gtf is not None and self.fasta is None:
            raise InputError("the genes of a GTF file need their genome: fasta")

        at_least_one = (self.batch_bases, self.min_rows, self.chunk, self.max_rows)
        if self.folds < 2 or any(value is not None and value < 1 for value in at_least_one):
            raise InputError(
                "batch_bases, chunk, min_rows and max_rows must be at least 1, and folds at least 2"
            )
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise InputError(f"seed must be between 0 and {_LARGEST_SEED:,}")


# ------------------------------------------------------------------------------ embeddings


def chunks_of(lengths: Sequence[int], chunk: int) -> np.ndarray:
    """Cut sequences into pieces of at most `chunk` bases.

    Returns:
        int64 `(pieces, 3)`: the number of the sequence, start and end in it, from 0 and half-open.

    >>> chunks_of([10], 4).tolist()
    [[0, 0, 3], [0, 3, 6], [0, 6, 10]]
    """
    pieces = []
    for i, length in enumerate(lengths):
        # As few pieces as needed, and as equal as can be: a last piece of a few bases would be
        # embedded without context.
        count = -(-length // chunk)
        edges = (np.arange(count + 1) * length // count).tolist()
        pieces += [(i, start, end) for start, end in pairwise(edges)]
    return np.array(pieces, dtype=np.int64).reshape(-1, 3)


def batches_of(pieces: np.ndarray, batch_bases: int) -> list[np.ndarray]:
    """Divide pieces into batches of similar length, so that little is padded.

    Args:
        pieces: From `chunks_of`.
        batch_bases: The most bases in a batch, padding included. A longer piece is a batch alone.

    Returns:
        The numbers of the pieces in each batch. The longest come first: if memory runs out, it
        does so at once.
    """
    sizes = _sizes(pieces)
    by_length = np.argsort(-sizes, kind="stable")
    batches = []
    while len(by_length):
        count = max(1, batch_bases // int(sizes[by_length[0]]))
        batches.append(by_length[:count])
        by_length = by_length[count:]
    return batches


def _sizes(pieces: np.ndarray) -> np.ndarray:
    return pieces[:, 2] - pieces[:, 1]


@torch.inference_mode()
def _pooled(
    model: PreTrainedModel,
    sequences: Sequence[str],
    batches: Iterable[np.ndarray],
    pieces: np.ndarray,
    pooling: str,
    layer: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the numbers of pieces and their embeddings, float32 `(n, d_model)`, by batches."""
    backbone = model.base_model
    alphabet = alphabet_of_model(model)
    # Only an inner layer needs the list of all states, which takes n_layer times the memory.
    is_inner = layer not in (-1, model.config.n_layer)
    for numbers in batches:
        letters = [_ids(sequences[i], start, end, alphabet) for i, start, end in pieces[numbers].tolist()]
        # Unlike a likelihood, a mean over positions needs to know which of them are pads.
        tokens, lengths = pad(letters)
        mask = np.arange(tokens.shape[1]) < lengths[:, None]

        ids = torch.from_numpy(tokens).to(model.device)
        mask = torch.from_numpy(mask).to(model.device)
        outputs = backbone(input_ids=ids, attention_mask=mask.long(), output_hidden_states=is_inner)
        states = outputs.hidden_states[layer] if is_inner else outputs.last_hidden_state
        yield numbers, pool(states, mask, pooling).float().cpu().numpy()


def _ids(sequence: str, start: int, end: int, alphabet: Alphabet) -> np.ndarray:
    """Return the ids of the tokens [start, end) of a sequence."""
    if alphabet.long_letters:  # a position is no character
        return encode(sequence, alphabet)[start:end]
    return encode(sequence[start:end], alphabet)


def embed(
    model: ModelOrName,
    data: Data,
    *,
    pooling: str = "mean",
    layer: int = -1,
    chunk: int | None = None,
    whole: bool = False,
    per_base: bool = False,
    strand: str = "forward",
    batch_bases: int = 2**16,
    device: str | torch.device | None = None,
    progress: bool = False,
    sequence_column: str = "sequence",
) -> np.ndarray | list[np.ndarray]:
    """Return an embedding of each sequence, float32 `(sequences, d_model)`, or of each base.

    Args:
        model: Any HyenaDNA model, with or without a head; a folder, or an id on the Hub. An object
            is left unchanged.
        data: Sequences of IUPAC letters, none empty: a list or column of texts, one text, a table,
            a file (FASTA, csv, tsv, parquet, text), or a one-hot array `(sequences, 4, length)`.
        pooling: `"mean"`, `"last"` or `"max"` over the positions.
        layer: 0 for the embeddings of the letters, i for block i, and -1 or `n_layer` for the last
            block after the final norm.
        chunk: The most bases to read at once, by default `max_seq_len`. A longer sequence is cut,
            and the embeddings of its chunks are averaged with their lengths as weights.
        whole: Read a sequence longer than `chunk` as one, through the cache, instead of cutting it:
            the same as a single pass, in less memory. Up to `max_seq_len`.
        per_base: Return the vectors of the bases, a list of float32 `(length, d_model)`, in the order
            of the sequence; `pooling` has no effect, and sequences are read whole.
        strand: The strand to read: `"forward"`, `"reverse"`, or `"both"` for the mean of the two.
        batch_bases: The most bases in one batch, padding included.
        device: Where to compute, such as `"cuda:1"`. By default an object stays where it is, and a
            loaded model goes to the GPU if there is one.
        progress: Show a progress bar.
        sequence_column: The column of a table that holds the sequences.

    Raises:
        InputError: A sequence is empty or has other letters, or a setting does not fit the model.

    >>> from hyenadna import HyenaDNAConfig
    >>> model = HyenaDNAModel(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66))
    >>> embed(model, ["ACGTTG", "GGCA"]).shape
    (2, 8)
    """
    check_strand(strand)
    # A list: `series[0]` of a pandas column looks in its index, which may be in another order.
    names, sequences = sequences_of(data, sequence_column)
    alphabet = alphabet_of_model(model)
    if whole or per_base:
        check_dna(model, "embed with whole or per_base")
    lengths = [alphabet.count(sequence) for sequence in sequences]
    by_strand = []
    with borrowed(model, BACKBONE, "embed", device) as borrowed_model:
        _check(borrowed_model.config, lengths, pooling, layer, chunk)
        if whole or per_base:
            check_lengths(borrowed_model, lengths, names)
            reader = _Whole(
                layer, chunk or min(_CHUNK, borrowed_model.config.max_seq_len), batch_bases, progress
            )
            return reader.read(borrowed_model, sequences, strand, None if per_base else pooling)
        pieces = chunks_of(lengths, chunk or borrowed_model.config.max_seq_len)
        batches = batches_of(pieces, batch_bases)
        for which in strands_of(strand, alphabet):
            texts = sequences
            if which == "reverse":
                texts = [reverse_complement(sequence, alphabet) for sequence in sequences]
            vectors = np.zeros((len(pieces), borrowed_model.config.d_model), dtype=np.float32)
            with tqdm(total=sum(lengths), unit="base", unit_scale=True, disable=not progress) as bar:
                results = _pooled(borrowed_model, texts, batches, pieces, pooling, layer)
                for numbers, embeddings in results:
                    vectors[numbers] = embeddings
                    bar.update(int(_sizes(pieces[numbers]).sum()))
            by_strand.append(average(vectors, pieces, len(lengths)))
    return np.mean(by_strand, axis=0, dtype=np.float32)


def _check(
    config: HyenaDNAConfig, lengths: Sequence[int], pooling: str, layer: int, chunk: int | None
) -> None:
    if pooling not in POOLINGS:
        raise InputError(f"pooling is {pooling!r}; use one of {', '.join(POOLINGS)}")
    if not -1 <= layer <= config.n_layer:
        raise InputError(
            f"layer is {layer}; the model has {config.n_layer} blocks: 0 to {config.n_layer}, or -1"
        )
    if chunk is not None and not 1 <= chunk <= config.max_seq_len:
        raise InputError(
            f"chunk is {chunk:,}; the model reads 1 to max_seq_len={config.max_seq_len:,} bases at a time"
        )
    if not len(lengths):
        raise InputError("there are no sequences")
    if min(lengths) == 0:
        raise InputError(f"sequence {list(lengths).index(0)} is empty")


@dataclass
class _Whole:
    """Reads each sequence as one: shorter ones in batches, longer ones through the cache."""

    layer: int
    chunk: int
    batch_bases: int
    progress: bool

    def read(
        self, model: PreTrainedModel, sequences: Sequence[str], strand: str, pooling: str | None
    ) -> np.ndarray | list[np.ndarray]:
        """Return vectors `(sequences, d_model)`, or without a pooling those of the bases."""
        by_strand = []
        for which in strands_of(strand):
            texts = sequences
            if which == "reverse":
                texts = [reverse_complement(sequence) for sequence in sequences]
            parts: list[list[np.ndarray]] = [[] for _ in texts]
            for number, states in self._states(model, texts):
                parts[number].append(states if pooling is None else _part(states, pooling))
            if pooling is not None:
                by_strand.append([_joined(part, pooling) for part in parts])
                continue
            vectors = [np.concatenate(part) for part in parts]
            by_strand.append([rows[::-1] for rows in vectors] if which == "reverse" else vectors)
        means = [np.mean(rows, axis=0, dtype=np.float32) for rows in zip(*by_strand, strict=True)]
        return means if pooling is None else np.stack(means)

    @torch.no_grad()
    def _states(self, model: PreTrainedModel, texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of a sequence and the next of its states, float32 `(positions, d_model)`."""
        lengths = np.array([len(text) for text in texts])
        short = np.flatnonzero(lengths <= self.chunk)
        with tqdm(total=int(lengths.sum()), unit="base", unit_scale=True, disable=not self.progress) as bar:
            pieces = np.stack([short, np.zeros_like(short), lengths[short]], axis=1)
            for numbers in batches_of(pieces, self.batch_bases):
                rows = short[numbers].tolist()
                tokens, counts = pad([encode(texts[i]) for i in rows])
                # No state sees the pads to its right, so no mask is needed.
                states = self._read(model, torch.from_numpy(tokens).to(model.device), None)
                for i, row, count in zip(rows, states, counts.tolist(), strict=True):
                    yield i, row[:count]
                bar.update(int(counts.sum()))
            for i in np.flatnonzero(lengths > self.chunk).tolist():
                ids = torch.from_numpy(pad([encode(texts[i])])[0]).to(model.device)
                cache = DynamicCache(config=model.config)
                for start in range(0, len(texts[i]), self.chunk):
                    states = self._read(model, ids[:, start : start + self.chunk], cache)
                    yield i, states[0]
                    bar.update(states.shape[1])

    def _read(self, model: PreTrainedModel, ids: torch.Tensor, cache: DynamicCache | None) -> np.ndarray:
        is_inner = self.layer not in (-1, model.config.n_layer)
        outputs = model.base_model(input_ids=ids, past_key_values=cache, output_hidden_states=is_inner)
        states = outputs.hidden_states[self.layer] if is_inner else outputs.last_hidden_state
        return states.float().cpu().numpy()


def _part(states: np.ndarray, pooling: str) -> np.ndarray:
    """Return what the pooling needs of a part of a sequence: its sum and count, its maximum or end."""
    if pooling == "mean":
        return np.append(states.sum(0, dtype=np.float64), len(states))
    return states.max(0) if pooling == "max" else states[-1]


def _joined(parts: list[np.ndarray], pooling: str) -> np.ndarray:
    """Return the embedding of a sequence from its parts."""
    if pooling == "mean":
        total = np.sum(parts, axis=0)
        return total[:-1] / total[-1]
    return np.max(parts, axis=0) if pooling == "max" else parts[-1]


def average(vectors: np.ndarray, pieces: np.ndarray, count: int) -> np.ndarray:
    """Return the length-weighted mean of the pieces of each sequence, float32 `(count, d)`."""
    # Sums in float64: a chromosome has thousands of pieces.
    sizes = _sizes(pieces).astype(np.float64)
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, pieces[:, 0], vectors * sizes[:, None])
    lengths = np.bincount(pieces[:, 0], sizes, minlength=count)
    return (sums / lengths[:, None]).astype(np.float32)


# ------------------------------------------------------------------------------ rows


class Rows(NamedTuple):
    """What to embed.

    Attributes:
        ids: The names of the rows.
        sequences: Their sequences; those of genes are read on access.
        lengths: Their lengths in bases.
        labels: Their classes, or None.
    """

    ids: list[str]
    sequences: Sequence[str]
    lengths: list[int]
    labels: list[str] | None


def read_rows(args: EmbedArguments) -> Rows:
    """Read the rows that the settings name, without rare and unwanted classes.

    Raises:
        InputError: The file or folder cannot be read, or no row is left.
    """
    alphabet = alphabet_of_checkpoint(args.model)
    if args.gtf is not None:
        if alphabet != DNA:
            raise InputError(
                f"the genes of a GTF file are DNA, but the alphabet of the model is {alphabet.spec!r}"
            )
        return _gene_rows(args)

    if has_labels(args.data, args.label_column):
        ids, sequences, labels = _labelled_rows(args, alphabet)
    else:
        ids, sequences = read_sequences(args.data, args.sequence_column, args.id_column)
        labels = None
    lengths = []
    for name, sequence in zip(ids, sequences, strict=True):
        try:
            lengths.append(len(encode(sequence, alphabet)))
        except InputError as error:
            raise InputError(f"{args.data}: {name}: {error}") from error
    return Rows(ids, sequences, lengths, labels)


def _gene_rows(args: EmbedArguments) -> Rows:
    genome = SequenceFile(args.fasta)
    genes = read_genes(args.gtf, genome, args.feature)
    known = sorted({gene.biotype for gene in genes})
    unknown = sorted(set(args.biotypes) - set(known))
    if unknown:
        raise InputError(f"{args.gtf} has no biotype {unknown}; it has {known}")
    if args.biotypes:
        genes = [gene for gene in genes if gene.biotype in args.biotypes]

    kept = _rows_of_frequent_classes([gene.biotype for gene in genes], args)
    genes = [genes[i] for i in kept]
    # Check all letters now, so that a bad one does not stop the run after hours.
    for gene in genes:
        sequence = genome.number[gene.chromosome]
        genome.check_letters(sequence, gene.start, genome.read(sequence, gene.start, gene.end))
    return Rows(
        ids=[gene.name for gene in genes],
        sequences=GeneSequences(genes, genome),
        lengths=[gene.end - gene.start for gene in genes],
        labels=[gene.biotype for gene in genes],
    )


def _labelled_rows(args: EmbedArguments, alphabet: Alphabet) -> tuple[list[str], list[str], list[str]]:
    columns = (args.sequence_column, (args.label_column,), args.id_column)
    tables = list(read_parts(args.data, columns).values())
    labels = []
    for table in tables:
        # Without the ids: here the same one may occur twice.
        check_sequences(table.drop(columns="id", errors="ignore"), alphabet)
        labels += [label_text(value, row, table) for row, value in enumerate(table["label"])]
    check_spellings(dict.fromkeys(labels), args.data)

    table = pd.concat(tables, ignore_index=True)
    ids = table["id"].tolist() if "id" in table else [str(row) for row in range(len(table))]
    sequences = table["sequence"].tolist()
    kept = _rows_of_frequent_classes(labels, args)
    return [ids[i] for i in kept], [sequences[i] for i in kept], [labels[i] for i in kept]


def _rows_of_frequent_classes(labels: list[str], args: EmbedArguments) -> list[int]:
    """Return the row numbers of frequent classes, in order, at most `max_rows` of each class."""
    labels = np.array(labels)
    rng = np.random.default_rng(args.seed)
    # A rare class is only a problem for a classifier or a picture.
    min_rows = args.min_rows if args.classifier or args.picture else 1
    kept = []
    rare = []
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        if len(rows) < min_rows:
            rare.append(f"{name} ({len(rows)})")
            continue
        if args.max_rows is not None and len(rows) > args.max_rows:
            rows = rng.choice(rows, args.max_rows, replace=False)
        kept += rows.tolist()

    if rare:
        more = f" and {len(rare) - 20} more" if len(rare) > 20 else ""
        print(f"fewer than min_rows={min_rows} rows, and left out: {', '.join(rare[:20])}{more}")
    if not kept:
        raise InputError(f"no class has min_rows={args.min_rows} rows or more")
    return sorted(kept)


# ------------------------------------------------------------------------------ the command


def run(args: EmbedArguments) -> np.ndarray:
    """Embed, classify and draw as the settings say. Return the embeddings `(rows, d_model)`.

    Each process writes its embeddings into the output folder from time to time, so that an
    interrupted run can go on from there.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used. Nothing was
            written.
    """
    start = time.monotonic()
    state = PartialState(cpu=args.use_cpu)
    rows = read_rows(args)
    # Now, so that hours of embedding are not lost to a classifier that cannot be fitted.
    groups = _check_tasks(args, rows)
    model, config = load_checkpoint(HyenaDNAModel, args.model, {})
    _check(config, rows.lengths, args.pooling, args.layer, args.chunk)
    settings = _settings(args, rows)

    output = Path(args.output_dir)
    parts = Parts(output / ".unfinished", ".npz")
    with ExitStack() as at_end:
        if state.is_main_process:
            at_end.enter_context(locked(output))
            _check_folder(output, settings, args.resume)
        if args.resume and (output / METRICS_FILE).exists():
            print(f"{output} holds this run, and it is finished: nothing to do")
            # A kill may have come between `metrics.json` and the end of the parts.
            if state.is_main_process:
                parts.remove()
            return _read_embeddings(output, args.output_format)

        if state.is_main_process:
            _begin(output, parts, settings)
        state.wait_for_everyone()
        pieces = chunks_of(rows.lengths, args.chunk or config.max_seq_len)
        vectors = _embed_in_parts(model.eval().to(state.device), rows.sequences, pieces, args, parts, state)
        state.wait_for_everyone()
        if not state.is_main_process:
            return vectors

        _read_parts(parts, vectors)
        embeddings = average(vectors, pieces, len(rows.lengths))
        _write_embeddings(output, rows, embeddings, args.output_format)
        results = _results(args, rows, settings, state)
        if args.picture:
            _draw(output, rows, embeddings, args)
        if args.classifier:
            results |= _classify(output, rows, embeddings, groups, args)
        results["train_seconds"] = round(time.monotonic() - start, 1)
        write_json(output / METRICS_FILE, results)
        # After `metrics.json`: until that exists, an interrupted run goes on from the parts.
        parts.remove()
    print(f"{len(rows.ids):,} embeddings of {config.d_model} numbers are in {output}")
    return embeddings


def _begin(output: Path, parts: Parts, settings: dict) -> None:
    """Make the folders of a run, and write the settings that a resumed run is compared with."""
    parts.folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(parts.folder)
    write_json(output / SETTINGS_FILE, settings)


def _check_tasks(args: EmbedArguments, rows: Rows) -> np.ndarray | None:
    """Refuse rows that classifier or picture could not use. Return the groups that share a fold."""
    if (args.classifier or args.picture) and rows.labels is None:
        raise InputError(
            f"{args.data} has no labels ({args.label_column}), which classifier and picture need"
        )
    if args.picture:
        check_map(args.picture, len(rows.ids))
    if not args.classifier:
        return None
    groups = groups_of(rows.sequences, alphabet_of_checkpoint(args.model))
    check_classes(rows.labels, groups, args.folds)
    return groups


def _settings(args: EmbedArguments, rows: Rows) -> dict:
    """Return the settings and digests that decide the result, for `run_settings.json`."""
    # All but where and how it runs.
    names = [f.name for f in fields(args) if f.name not in ("resume", "use_cpu", "output_dir")]
    settings = {name: getattr(args, name) for name in names}
    settings["data_sha256"] = _digest(rows.sequences)
    labels = rows.labels or rows.ids
    pairs = [f"{name}\t{label}" for name, label in zip(rows.ids, labels, strict=True)]
    settings["rows_sha256"] = _digest(pairs)
    return settings


def _results(args: EmbedArguments, rows: Rows, settings: dict, state: PartialState) -> dict:
    """Return the content of `metrics.json` without a classifier's results."""
    return {
        "task": "biotypes" if args.gtf else Path(args.data).stem,
        "rows": {"cross-validation": len(rows.ids)},
        "metrics": {},
        "hardware": hardware(state.device, state.num_processes),
        "versions": versions(),
        "settings": settings,
    }


def _digest(texts: Sequence[str]) -> str:
    content = hashlib.sha256()
    # By number: genes are read one at a time, and never all in memory.
    for i in range(len(texts)):
        content.update(texts[i].encode() + b"\n")
    return content.hexdigest()


def _check_folder(output: Path, settings: dict, resume: bool) -> None:
    """Raise `InputError` if the folder holds another run, or one that needs `resume`."""
    earlier = read_earlier_settings(output)
    check_output_folder(output, settings, resume, ("model", "data", "gtf", "fasta"))
    if not earlier or not (output / ".unfinished").is_dir():
        return
    if not resume:
        raise InputError(f"output_dir {str(output)!r} holds an interrupted run; go on with it by --resume")
    changed = [name for name in changed_settings(earlier, settings) if name in _SETTINGS_OF_VECTORS]
    if changed:
        raise InputError(
            f"output_dir {str(output)!r} holds an interrupted run with another {changed}; choose another "
            "folder"
        )


def _embed_in_parts(
    model: PreTrainedModel,
    sequences: Sequence[str],
    pieces: np.ndarray,
    args: EmbedArguments,
    parts: Parts,
    state: PartialState,
) -> np.ndarray:
    """Embed this process's share of what is missing, and write a part from time to time.

    Returns:
        float32 `(pieces, d_model)`, with 0 for the pieces of other processes.
    """
    vectors = np.zeros((len(pieces), model.config.d_model), dtype=np.float32)
    done = _read_parts(parts, vectors)
    # The same batches as in an uninterrupted run: in others, pieces would be padded and therefore
    # rounded differently.
    batches = [numbers for numbers in batches_of(pieces, args.batch_bases) if not done[numbers].all()]
    batches = share(batches, state.process_index, state.num_processes)
    sizes = _sizes(pieces)

    waiting = []  # the numbers of pieces that are in no part yet
    total = sum(int(sizes[numbers].sum()) for numbers in batches)
    with tqdm(total=total, unit="base", unit_scale=True, disable=not state.is_main_process) as bar:
        for numbers, embeddings in _pooled(model, sequences, batches, pieces, args.pooling, args.layer):
            vectors[numbers] = embeddings
            waiting.append(numbers)
            bar.update(int(sizes[numbers].sum()))
            if sum(int(sizes[n].sum()) for n in waiting) >= _BASES_PER_PART:
                _write_part(parts, vectors, waiting, state.process_index)
                waiting = []
    if waiting:
        _write_part(parts, vectors, waiting, state.process_index)
    return vectors


def _write_part(parts: Parts, vectors: np.ndarray, waiting: list[np.ndarray], rank: int) -> None:
    # The name has the rank of the process, so that no two of them write the same part.
    numbers = np.concatenate(waiting)
    content = {"numbers": numbers, "vectors": vectors[numbers]}
    parts.write(f"{rank}-{waiting[-1][0]}", lambda path: np.savez(path, **content))


def _read_parts(parts: Parts, vectors: np.ndarray) -> np.ndarray:
    """Fill `vectors` from all parts. Return which pieces they hold, bool `(pieces,)`."""
    done = np.zeros(len(vectors), dtype=bool)
    for name in parts.names():
        try:
            with np.load(parts.path(name)) as part:
                numbers = part["numbers"]
                vectors[numbers] = part["vectors"]
        except UNREADABLE as error:
            # A power failure can truncate a file in spite of the rename. Embed its pieces again.
            logger.warning(f"{parts.path(name)} is damaged and passed over: {error}")
            continue
        done[numbers] = True
    return done


def _draw(output: Path, rows: Rows, embeddings: np.ndarray, args: EmbedArguments) -> None:
    title = f"{Path(args.model).name}, {args.pooling} of layer {args.layer}, {args.picture}"
    plane = map_to_plane(embeddings, args.picture, args.seed)
    draw_map(output / "embeddings.png", plane, rows.labels, title)
    write_html(output / "embeddings.html", plane, rows.labels, rows.ids, rows.lengths, title)


def _classify(
    output: Path, rows: Rows, embeddings: np.ndarray, groups: np.ndarray, args: EmbedArguments
) -> dict:
    """Cross-validate the classifier, draw its confusion matrix, and return its results."""
    metrics, predicted = cross_validate(
        embeddings, rows.labels, args.classifier, folds=args.folds, seed=args.seed, groups=groups
    )
    # The picture wants numbers of classes instead of names.
    names = sorted(set(rows.labels))
    number = {name: i for i, name in enumerate(names)}
    true_numbers = np.array([number[name] for name in rows.labels])
    predicted_numbers = np.array([number[name] for name in predicted])
    write_confusion_matrix(output / "confusion_matrix.png", true_numbers, predicted_numbers, names)

    print("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    baseline = {"metrics": {"cross-validation": majority(rows.labels)}, "seconds": 0.0}
    return {
        "metrics": {"cross-validation": metrics},
        "label_names": names,
        "baselines": {"most frequent class": baseline},
    }


def _write_embeddings(output: Path, rows: Rows, embeddings: np.ndarray, kind: str) -> None:
    columns = {"id": rows.ids, "length": rows.lengths}
    if rows.labels is not None:
        columns["label"] = rows.labels
    if kind == "npz":
        arrays = {name: np.array(values) for name, values in columns.items()}
        write_whole(output / "embeddings.npz", lambda path: np.savez(path, **arrays, embedding=embeddings))
        return
    table = pd.DataFrame({**columns, "embedding": list(embeddings)})
    write_whole(output / "embeddings.parquet", lambda path: table.to_parquet(path, index=False))


def _read_embeddings(output: Path, kind: str) -> np.ndarray:
    path = output / f"embeddings.{kind}"
    hint = f". Remove {output / METRICS_FILE}, and --resume writes it again"
    with reading(f"{path} cannot be read", hint):
        if kind == "npz":
            with np.load(path) as content:
                return content["embedding"]
        return np.stack(pd.read_parquet(path)["embedding"])


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna embed` with these arguments (default: those of the command line)."""
    run(parse_settings(EmbedArguments, "embed", "Embeddings of sequences, and what they tell.", argv))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
