"""Log-likelihoods of sequences: `hyenadna score --model M --data x.fa --output scores.tsv`.

    from hyenadna.analysis.score import log_likelihoods
    log_likelihoods(model, ["ACGTTG", "GGCA"])          # the log-probability of each base

The score of a base is its log-probability given all bases before it, as in the loss: the natural
logarithm of the language model's softmax over the whole vocabulary. The first base has no context
and no score. Letters other than A, C, G and T have no score either; they are context only. So are
lower-case letters with `--ignore_soft_masked`.

On the reverse strand, the context of a base is what follows it. By default both strands are scored
and averaged. A model of letters without a complement, such as one of proteins, reads the forward
strand alone.

The command reads, scores and writes a block of sequences at a time, so a file may hold any number
of them.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError
from hyenadna.tokenization import Alphabet
from hyenadna.training.runs.models import alphabet_of_checkpoint, load_language_model
from hyenadna.training.runs.outputs import inert, locked, whole_file

from .likelihoods import STRANDS, alphabet_of_model, check_lengths, log_likelihoods
from .sequences import encode_named, open_sequences, read_sequences

__all__ = ["log_likelihoods", "main", "read_sequences", "score_file", "summary"]

# A block is scored and written at once. A larger one makes batches of more similar lengths, but
# costs more memory.
_BASES_PER_BLOCK = 2**21
_SEQUENCES_PER_BLOCK = 2**15


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


def blocks_of(lengths: Sequence[int]) -> Iterator[range]:
    """Yield ranges of sequences to score at once. Each has one at least.

    >>> list(blocks_of([2**20, 2**20, 5]))
    [range(0, 2), range(2, 3)]
    """
    start = 0
    bases = 0
    # Limited in bases and in number: a million reads of 100 bases are few bases but many objects.
    for i, length in enumerate(lengths):
        is_full = bases + length > _BASES_PER_BLOCK or i - start == _SEQUENCES_PER_BLOCK
        if is_full and i > start:
            yield range(start, i)
            start = i
            bases = 0
        bases += length
    if start < len(lengths):
        yield range(start, len(lengths))


def score_file(
    model: HyenaDNAForCausalLM,
    names: Sequence[str],
    sequences: Sequence[str],
    lengths: Sequence[int],
    table: TextIO,
    per_position: TextIO | None = None,
    *,
    strands: Sequence[str] = ("forward", "reverse"),
    ignore_soft_masked: bool = False,
    batch_bases: int = 2**16,
    chunk: int = 2**16,
) -> Totals:
    """Score sequences on each strand, and write the results of each block as soon as it is done.

    Args:
        model: A language model.
        names: The ids of the sequences.
        sequences: The sequences; they are read when their block is scored.
        lengths: Their lengths in bases.
        table: An open file for a line per sequence, separated by tabs.
        per_position: An open file for a line per base, or None. Positions count from 0.
        strands: The strands to read.
        ignore_soft_masked: See `log_likelihoods`, as for `batch_bases` and `chunk`.

    Returns:
        The totals over all sequences.
    """
    options = {"ignore_soft_masked": ignore_soft_masked, "batch_bases": batch_bases, "chunk": chunk}
    totals = Totals()
    alphabet = alphabet_of_model(model)
    with tqdm(total=sum(lengths) * len(strands), unit="base", unit_scale=True) as bar:
        for block in blocks_of(lengths):
            texts = [sequences[i] for i in block]
            scores = {}
            for strand in strands:
                scores[strand] = log_likelihoods(model, texts, strand=strand, **options)
                bar.update(sum(lengths[i] for i in block))

            # The header goes before the first block only.
            ids = [inert(str(names[i])) for i in block]
            is_first = block.start == 0
            sizes = [lengths[i] for i in block]
            _write_table(_summary_table(ids, sizes, scores), table, is_first)
            if per_position is not None:
                table_of_block = _position_table(ids, texts, scores, alphabet)
                _write_table(table_of_block, per_position, is_first)
            totals.add(scores)
    return totals


def _summary_table(ids: list[str], lengths: list[int], scores: dict[str, list[np.ndarray]]) -> pd.DataFrame:
    rows = []
    for i, (name, length) in enumerate(zip(ids, lengths, strict=True)):
        scores_of_sequence = {strand: values[i] for strand, values in scores.items()}
        rows.append({"id": name, "length": length, **summary(scores_of_sequence)})
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
    parser = argparse.ArgumentParser(
        prog="hyenadna score", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a language model")
    parser.add_argument("--data", required=True, help="FASTA (plain or bgzip), csv, tsv, parquet, or text")
    parser.add_argument("--output", required=True, help="table to write (.tsv)")
    parser.add_argument(
        "--per_position", help="also write this table (.tsv): a line per base, positions from 0"
    )
    parser.add_argument(
        "--strand", choices=STRANDS, help="strand to read (default: both, if the letters have a complement)"
    )
    parser.add_argument(
        "--ignore_soft_masked", action="store_true", help="lower-case letters are context only"
    )
    parser.add_argument(
        "--sequence_column", default="sequence", help="column with the sequences (default: sequence)"
    )
    parser.add_argument(
        "--id_column", default="id", help="column with the ids, if there is one (default: id)"
    )
    parser.add_argument("--batch_bases", type=int, default=2**16, help="bases in one batch (default: 65536)")
    parser.add_argument(
        "--chunk", type=int, default=2**16, help="bases of a long sequence to read at a time (default: 65536)"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1")
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


def _strands(asked: str | None, alphabet: Alphabet) -> tuple[str, ...]:
    """Return which strands the model reads, `forward` or `reverse` or both."""
    if alphabet.complement is None:
        if asked not in (None, "forward"):
            raise InputError(
                f"strand is {asked!r}, but the alphabet {alphabet.spec!r} of the model has no complement: "
                "use forward"
            )
        return ("forward",)
    # "both" is the first of `STRANDS`; the others are what the model reads.
    return STRANDS[1:] if asked in (None, "both") else (asked,)


def _check_sequences(
    path: str, names: Sequence[str], sequences: Sequence[str], alphabet: Alphabet
) -> list[int]:
    """Read and check all sequences once, and return their lengths."""
    # A bad letter in the last sequence should not be found after hours of work.
    lengths = []
    for name, sequence in zip(names, sequences, strict=True):
        lengths.append(len(encode_named(sequence, f"{path}: {name}", alphabet)))
    return lengths


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna score` with these arguments (default: those of the command line)."""
    args = _parser().parse_args(argv)
    if args.batch_bases < 1 or args.chunk < 1:
        raise InputError(
            f"batch_bases is {args.batch_bases} and chunk is {args.chunk}; both must be at least 1"
        )
    alphabet = alphabet_of_checkpoint(args.model)
    strands = _strands(args.strand, alphabet)
    names, sequences = open_sequences(args.data, args.sequence_column, args.id_column, alphabet)
    lengths = _check_sequences(args.data, names, sequences, alphabet)
    outputs = _check_files(args)
    model = load_language_model(args.model, args.device)
    check_lengths(model, lengths, names, args.data)

    options = {name: getattr(args, name) for name in ("ignore_soft_masked", "batch_bases", "chunk")}
    with ExitStack() as at_end:
        # Take both locks before opening a file: a run that is refused must not have begun one.
        for path in outputs:
            at_end.enter_context(locked(path, is_file=True))
        files = [at_end.enter_context(whole_file(path)) for path in outputs]
        totals = score_file(model, names, sequences, lengths, *files, strands=strands, **options)
    print(
        f"{len(names):,} sequences, {totals.scores:,} scores: perplexity {totals.perplexity:.4f}; "
        f"{args.output}"
    )


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
