"""Log-likelihoods of sequences: `hyenadna score --model M --data x.fa --output scores.tsv`.

    from hyenadna.analysis import score
    score(model, ["ACGTTG", "GGCA"])                    # a table with a row for each sequence

The score of a base is its log-probability given all bases before it, as in the loss: the natural
logarithm of the language model's softmax over the whole vocabulary. The first base has no context
and no score. Letters other than A, C, G and T have no score either; they are context only. So are
lower-case letters with `--ignore_soft_masked`.

On the reverse strand, the context of a base is what follows it. By default both strands are scored
and averaged. A model of letters without a complement, such as one of proteins, reads the forward
strand alone.

The command reads FASTA and text twice: once to check every letter, then to score a block of sequences
at a time. So a file may hold any number of them.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError
from hyenadna.flags import CommandParser
from hyenadna.tokenization import Alphabet
from hyenadna.training.runs.outputs import inert, locked, whole_file

from .likelihoods import STRANDS, check_lengths, check_strand, log_likelihoods, strands_of
from .models import LANGUAGE, ModelOrName, alphabet_of_model, borrowed
from .sequences import Data, NamedSequences, blocks_of, encode_named, read_sequences, sequences_of

__all__ = ["log_likelihoods", "main", "read_sequences", "score", "score_file", "summary"]


def score(
    model: ModelOrName,
    data: Data,
    *,
    strand: str | None = None,
    ignore_soft_masked: bool = False,
    per_base: bool = False,
    batch_bases: int = 2**16,
    chunk: int = 2**16,
    device: str | torch.device | None = None,
    progress: bool = False,
    sequence_column: str = "sequence",
    id_column: str = "id",
) -> pd.DataFrame:
    """Return the log-likelihoods (natural logarithm) of sequences, or of each of their bases.

    Args:
        model: A language model, a folder, or an id on the Hub. An object is left unchanged.
        data: Sequences; see `sequences_of`. None may be longer than `max_seq_len`.
        strand: The strand that the model reads: `"forward"`, `"reverse"` or `"both"`. By default
            both, or the only one of letters without a complement.
        ignore_soft_masked: Give lower-case letters no score; they are still context.
        per_base: Return a row for each base.
        batch_bases: The most bases in one batch, padding included.
        chunk: The most positions of a long sequence to read at once. A longer one is streamed
            through the cache, with the same result.
        device: Where to compute. By default an object stays where it is, and a loaded model goes to
            the GPU if there is one.
        progress: Show a progress bar.
        sequence_column: The column of a table that holds the sequences.
        id_column: The column of a table that holds the names, if there is one.

    Returns:
        A row for each sequence, as `hyenadna score` writes it: `id`, `length`,
        `log_likelihood_STRAND`, `log_likelihood` (the mean of the strands), `scored_bases` and
        `perplexity`. With `per_base`: `id`, `position` (from 0), `base` and
        `log_probability_STRAND`. NaN where there is no score.

    Raises:
        InputError: The model has no head of a language model, or a sequence is empty, too long, or
            has other letters.

    >>> from hyenadna import HyenaDNAConfig
    >>> model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66))
    >>> score(model, ["ACGTTG", "GGCA"])["scored_bases"].tolist()
    [5, 3]
    """
    check_strand(strand)
    names, sequences = sequences_of(data, sequence_column, id_column)
    texts = list(sequences)
    alphabet = alphabet_of_model(model)
    lengths = []
    for name, text in zip(names, texts, strict=True):
        lengths.append(len(encode_named(text, name, alphabet)))
    scores = {}
    with borrowed(model, LANGUAGE, "score", device) as lm:
        check_lengths(lm, lengths, names)
        options = {"ignore_soft_masked": ignore_soft_masked, "batch_bases": batch_bases, "chunk": chunk}
        for which in strands_of(strand, alphabet):
            scores[which] = log_likelihoods(lm, texts, strand=which, progress=progress, **options)
    table = _position_table if per_base else _summary_table
    return table(names, texts, scores, alphabet)


def summary(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the log-likelihood and the per-base perplexity of one sequence.

    Args:
        scores: For each strand, the log-probabilities of the bases `(length,)`, NaN where there is
            none.

    Returns:
        `log_likelihood_STRAND` of each strand, `log_likelihood` (their mean), `scored_bases` and
        `perplexity`. NaN if no base has a score.

    >>> summary({"forward": np.array([math.nan, -1.0, -3.0])})["log_likelihood"]
    -4.0
    """
    row: dict[str, float] = {}
    sums = []
    counts = []
    for strand, values in scores.items():
        has_score = np.isfinite(values)
        count = int(np.count_nonzero(has_score))
        total = math.nan
        if count:
            total = float(np.where(has_score, values, 0).sum(dtype=np.float64))
        row[f"log_likelihood_{strand}"] = total
        sums.append(total)
        counts.append(count)

    # The mean over the strands. If one of them has no score, the mean has none either (NaN).
    row["log_likelihood"] = sum(sums) / len(sums)
    row["scored_bases"] = max(counts)
    row["perplexity"] = math.nan
    if sum(counts):
        # One strand may have no score: in "AN", only the A does, read on the reverse strand.
        known = sum(total for total in sums if not math.isnan(total))
        row["perplexity"] = math.exp(-known / sum(counts))
    return row


# ------------------------------------------------------------------------------ the command


@dataclass
class Totals:
    """The number and the sum of all scores of a run, on both strands."""

    scores: int = 0
    log_likelihood: float = 0.0

    def add(self, scores: dict[str, list[np.ndarray]]) -> None:
        for rows in scores.values():
            values = np.concatenate(rows)
            values = values[np.isfinite(values)]
            self.scores += len(values)
            self.log_likelihood += float(values.sum(dtype=np.float64))

    @property
    def perplexity(self) -> float:
        if not self.scores:
            return math.nan
        return math.exp(-self.log_likelihood / self.scores)


def score_file(
    model: HyenaDNAForCausalLM,
    sequences: Iterable[tuple[str, str]],
    table: TextIO,
    per_position: TextIO | None = None,
    *,
    bases: int | None = None,
    strands: Sequence[str] = ("forward", "reverse"),
    ignore_soft_masked: bool = False,
    batch_bases: int = 2**16,
    chunk: int = 2**16,
) -> Totals:
    """Score sequences on each strand, and write the results of each block as soon as it is done.

    Args:
        model: A language model.
        sequences: The ids and the sequences, `NamedSequences` for instance.
        table: An open file for a line per sequence, separated by tabs.
        per_position: An open file for a line per base, or None. Positions count from 0.
        bases: How many bases the sequences have in all, for the progress bar.
        strands: The strands to read.
        ignore_soft_masked: See `log_likelihoods`, as for `batch_bases` and `chunk`.

    Returns:
        The totals over all sequences.
    """
    options = {"ignore_soft_masked": ignore_soft_masked, "batch_bases": batch_bases, "chunk": chunk}
    totals = Totals()
    alphabet = alphabet_of_model(model)
    steps = None if bases is None else bases * len(strands)
    with tqdm(total=steps, unit="base", unit_scale=True) as bar:
        for number, block in enumerate(blocks_of(sequences)):
            texts = [sequence for _, sequence in block]
            scores = {}
            for strand in strands:
                scores[strand] = log_likelihoods(model, texts, strand=strand, **options)
                bar.update(sum(map(len, texts)))

            # The header goes before the first block only.
            ids = [inert(name) for name, _ in block]
            is_first = number == 0
            _write_table(_summary_table(ids, texts, scores, alphabet), table, is_first)
            if per_position is not None:
                table_of_block = _position_table(ids, texts, scores, alphabet)
                _write_table(table_of_block, per_position, is_first)
            totals.add(scores)
    return totals


def _summary_table(
    ids: list[str], sequences: list[str], scores: dict[str, list[np.ndarray]], alphabet: Alphabet
) -> pd.DataFrame:
    rows = []
    for i, (name, sequence) in enumerate(zip(ids, sequences, strict=True)):
        scores_of_sequence = {strand: values[i] for strand, values in scores.items()}
        rows.append({"id": name, "length": alphabet.count(sequence), **summary(scores_of_sequence)})
    return pd.DataFrame(rows)


def _position_table(
    ids: list[str], sequences: list[str], scores: dict[str, list[np.ndarray]], alphabet: Alphabet
) -> pd.DataFrame:
    lengths = [alphabet.count(sequence) for sequence in sequences]
    columns = {
        "id": np.repeat(np.array(ids, dtype=object), lengths),
        "position": np.concatenate([np.arange(length) for length in lengths]),
        "base": [token for sequence in sequences for token in alphabet.tokens(alphabet.pack(sequence))],
    }
    for strand, values in scores.items():
        columns[f"log_probability_{strand}"] = np.concatenate(values)
    return pd.DataFrame(columns)


def _write_table(table: pd.DataFrame, file: TextIO, with_header: bool) -> None:
    table.to_csv(file, sep="\t", index=False, na_rep="nan", header=with_header)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "score",
        "Log-likelihood and perplexity of sequences, on both strands.",
        example="hyenadna score --model pretrained --data genes.fa --output scores.tsv",
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a language model")
    parser.add_argument("--data", required=True, help="FASTA (plain or bgzip), csv, tsv, parquet, or text")
    parser.add_argument("--output", required=True, help="table to write (.tsv)")
    parser.add_argument(
        "--per_position", help="also write this table (.tsv): a line per base, positions from 0"
    )
    parser.add_argument(
        "--strand", choices=STRANDS, help="strand to read (both, if the letters have a complement)"
    )
    parser.add_argument(
        "--ignore_soft_masked", action="store_true", help="lower-case letters are context only"
    )
    parser.add_argument("--sequence_column", default="sequence", help="column with the sequences")
    parser.add_argument("--id_column", default="id", help="column with the ids, if there is one")
    parser.add_argument("--batch_bases", type=int, default=2**16, help="bases in one batch")
    parser.add_argument("--chunk", type=int, default=2**16, help="bases of a long sequence to read at a time")
    parser.add_argument("--device", help="such as cpu or cuda:1; the GPU if there is one")
    return parser


def _check_files(args: argparse.Namespace) -> list[Path]:
    """Return the files to write. Refuse the input file, one file twice, and a missing folder."""
    paths = [path for path in (args.data, args.output, args.per_position) if path is not None]
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError(f"data, output and per_position must be different files: {paths}")

    outputs = [Path(path) for path in paths[1:]]
    for path in outputs:
        if not path.resolve().parent.is_dir():
            raise InputError(f"the folder of {path} does not exist")
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file")
    return outputs


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna score` with these arguments (default: those of the command line)."""
    args = _parser().parse_args(argv)
    if args.batch_bases < 1 or args.chunk < 1:
        raise InputError(
            f"batch_bases is {args.batch_bases} and chunk is {args.chunk}; both must be at least 1"
        )
    alphabet = alphabet_of_model(args.model)
    strands = strands_of(args.strand, alphabet)
    sequences = NamedSequences(args.data, args.sequence_column, args.id_column, alphabet)
    extent = sequences.check()
    outputs = _check_files(args)
    options = {name: getattr(args, name) for name in ("ignore_soft_masked", "batch_bases", "chunk")}
    with ExitStack() as at_end:
        model = at_end.enter_context(borrowed(args.model, LANGUAGE, "score", args.device))
        check_lengths(model, [extent.longest], [extent.name_of_longest], args.data)
        # Take both locks before opening a file: a run that is refused must not have begun one.
        for path in outputs:
            at_end.enter_context(locked(path, is_file=True))
        files = [at_end.enter_context(whole_file(path)) for path in outputs]
        totals = score_file(model, sequences, *files, bases=extent.bases, strands=strands, **options)
    print(
        f"{extent.sequences:,} sequences, {totals.scores:,} scores: perplexity {totals.perplexity:.4f}; "
        f"{args.output}"
    )


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
