"""Log-likelihoods of sequences: `hyenadna score --model FOLDER --data sequences.fa --output scores.tsv`.

    from hyenadna.analysis.score import log_likelihoods
    log_likelihoods(model, ["ACGTTG", "GGCA"])               # for each sequence the log-probability of each base

A base's log-probability (natural logarithm) is that of the language model's softmax over its whole vocabulary, given
all the bases before it, as in the loss. The first base has no context and no score, and neither have letters other than
A, C, G, T (and, if asked, lower-case ones), which are context only: NaN. On the reverse strand the context of a base is
what follows it; both strands are scored and averaged unless one is asked for.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.files import TABLES
from hyenadna.genomics.letters import FIRST_BASE, LAST_BASE, SOFT_MASKED, VOCABULARY, encode, reverse_complement
from hyenadna.genomics.sources import read_parts
from hyenadna.training.runs.files import write_whole
from hyenadna.training.runs.models import load_language_model

STRANDS = ("both", "forward", "reverse")


@torch.no_grad()
def base_log_probabilities(model: HyenaDNAForCausalLM, ids: torch.Tensor, chunk: int) -> torch.Tensor:
    """Log-probability of each token given those before it, float32 (batch, length); of the first one NaN.

    Args:
        model: In evaluation mode.
        ids: Of shape (batch, length). Padding stands on the right, where it has no effect.
        chunk: Positions to read at a time. Longer rows are streamed through the generation cache, which is exact.
    """
    scores = torch.full(ids.shape, math.nan, device=ids.device)
    length = ids.shape[1]
    cache = DynamicCache(config=model.config) if length > chunk else None
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        logits = model(ids[:, start:end], past_key_values=cache).logits
        targets = ids[:, start + 1 : end + 1]  # the last position of all predicts nothing
        p = logits[:, : targets.shape[1]].float().log_softmax(-1)
        scores[:, start + 1 : end + 1] = p.gather(2, targets[..., None])[..., 0]
    return scores


def check_lengths(model: HyenaDNAForCausalLM, lengths: Sequence[int], names: Sequence[str]) -> None:
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if lengths[longest] > model.config.max_seq_len:
        raise InputError(
            f"{names[longest]} has {lengths[longest]:,} bases, but the model reads at most max_seq_len="
            f"{model.config.max_seq_len:,}: cut it into windows, or use a checkpoint with a longer max_seq_len"
        )


def log_likelihoods(
    model: HyenaDNAForCausalLM,
    sequences: Sequence[str],
    *,
    strand: str = "forward",
    ignore_soft_masked: bool = False,
    batch_bases: int = 2**16,
    chunk: int = 2**16,
    progress: bool = False,
) -> list[np.ndarray]:
    """Score sequences, in batches of similar length.

    Args:
        model: A language model; it is put into evaluation mode.
        sequences: Of IUPAC letters, none empty and none longer than `max_seq_len`.
        strand: `"forward"` or `"reverse"`: the strand that is read.
        ignore_soft_masked: Give lower-case letters no score.
        batch_bases: Bases in one batch, padding included.
        chunk: See `base_log_probabilities`.
        progress: Show a progress bar.

    Returns:
        For each sequence the log-probabilities of its bases, float32 (length,), in the order of `sequences` and of the
        bases in it, whatever the strand; NaN where there is no score.

    Raises:
        InputError: A sequence is empty, too long, or has other characters; there is no such strand.
    """
    if strand not in STRANDS[1:]:
        raise InputError(f"strand is {strand!r}; it must be 'forward' or 'reverse', one at a time")
    if batch_bases < 1 or chunk < 1:
        raise InputError(f"batch_bases is {batch_bases} and chunk is {chunk}; both must be at least 1")
    names = [f"sequence {i}" for i in range(len(sequences))]
    ids = []
    for name, sequence in zip(names, sequences, strict=True):
        try:
            ids.append(encode(reverse_complement(sequence) if strand == "reverse" else sequence))
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if not len(sequence):
            raise InputError(f"{name} is empty")
    if not ids:
        return []
    check_lengths(model, [len(i) for i in ids], names)
    model.eval()
    results: list[np.ndarray] = [np.empty(0)] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    with tqdm(total=sum(map(len, ids)), unit="base", unit_scale=True, disable=not progress) as bar:
        while order:
            longest = len(ids[order[-1]])
            count = max(1, batch_bases // longest)
            rows, order = order[-count:], order[:-count]
            batch = np.full((len(rows), longest), VOCABULARY["[PAD]"], dtype=np.int64)
            for row, i in enumerate(rows):
                batch[row, : len(ids[i])] = ids[i] % SOFT_MASKED
            scores = base_log_probabilities(model, torch.from_numpy(batch).to(model.device), chunk).cpu().numpy()
            for row, i in enumerate(rows):
                letters = ids[i] % SOFT_MASKED
                scored = (letters >= FIRST_BASE) & (letters <= LAST_BASE)
                if ignore_soft_masked:
                    scored &= ids[i] < SOFT_MASKED
                result = np.where(scored, scores[row, : len(letters)], np.float32(math.nan))
                results[i] = result[::-1].copy() if strand == "reverse" else result
                bar.update(len(letters))
    return results


def summary(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Sum and per-base perplexity of one sequence: `scores` has the log-probabilities of each strand that was read."""
    row, sums, counts = {}, [], []
    for strand, values in scores.items():
        counts.append(int(np.isfinite(values).sum()))
        sums.append(float(np.nansum(values, dtype=np.float64)) if counts[-1] else math.nan)
        row[f"log_likelihood_{strand}"] = sums[-1]
    row["log_likelihood"], row["scored_bases"] = float(np.mean(sums)), max(counts)
    row["perplexity"] = math.exp(-np.nansum(sums) / sum(counts)) if sum(counts) else math.nan
    return row


def read_sequences(path: str, sequence_column: str, id_column: str) -> tuple[list[str], list[str]]:
    """Return ids and sequences of a FASTA file (plain or bgzip), a table or a text file.

    Raises:
        InputError: It cannot be read, or holds no sequences.
    """
    if not path.lower().endswith(TABLES):
        (file,) = open_genomes([path])
        return list(file.names), [file.letters(i, 0, length) for i, length in enumerate(file.lengths.tolist())]
    table = read_parts(path, (sequence_column, (), id_column))["train"]
    if not len(table):
        raise InputError(f"{path} has no rows")
    for row, sequence in enumerate(table["sequence"]):
        if not isinstance(sequence, str):
            raise InputError(f"{path}: the sequence of row {row} is {sequence!r}, not text")
    return list(table["id"] if "id" in table else map(str, table["row"])), table["sequence"].tolist()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hyenadna score", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder or Hub id of a language model")
    parser.add_argument("--data", required=True, help="FASTA (plain or bgzip), csv, tsv, parquet, or text")
    parser.add_argument("--output", required=True, help="table to write (.tsv)")
    parser.add_argument("--per_position", help="also write this table (.tsv): a line per base, positions from 0")
    parser.add_argument("--strand", choices=STRANDS, default="both")
    parser.add_argument("--ignore_soft_masked", action="store_true", help="lower-case letters are context only")
    parser.add_argument("--sequence_column", default="sequence")
    parser.add_argument("--id_column", default="id")
    parser.add_argument("--batch_bases", type=int, default=2**16, help="bases in one batch")
    parser.add_argument("--chunk", type=int, default=2**16, help="bases of a long sequence to read at a time")
    parser.add_argument("--device", help="such as cpu or cuda:1")
    args = parser.parse_args(argv)
    files = [path for path in (args.data, args.output, args.per_position) if path is not None]
    if len({Path(path).resolve() for path in files}) < len(files):
        raise InputError(f"data, output and per_position must be different files: {files}")
    names, sequences = read_sequences(args.data, args.sequence_column, args.id_column)
    for name, sequence in zip(names, sequences, strict=True):
        if not sequence:
            raise InputError(f"{args.data}: {name} is empty")
        try:
            encode(sequence)
        except InputError as error:
            raise InputError(f"{args.data}: {name}: {error}") from error
    for path in files[1:]:
        if not Path(path).resolve().parent.is_dir():
            raise InputError(f"the folder of {path} does not exist")
    model = load_language_model(args.model, args.device)
    check_lengths(model, [len(s) for s in sequences], names)
    strands = ("forward", "reverse") if args.strand == "both" else (args.strand,)
    options = {name: getattr(args, name) for name in ("ignore_soft_masked", "batch_bases", "chunk")}
    scores = {s: log_likelihoods(model, sequences, strand=s, progress=True, **options) for s in strands}
    rows = [
        {"id": name, "length": len(sequence)} | summary({s: scores[s][i] for s in strands})
        for i, (name, sequence) in enumerate(zip(names, sequences, strict=True))
    ]
    table = pd.DataFrame(rows)
    write_whole(Path(args.output), lambda temporary: table.to_csv(temporary, sep="\t", index=False, na_rep="nan"))
    if args.per_position:

        def write(temporary: Path) -> None:
            for i, (name, sequence) in enumerate(zip(names, sequences, strict=True)):
                columns = {f"log_probability_{s}": scores[s][i] for s in strands}
                part = pd.DataFrame({"id": name, "position": range(len(sequence)), "base": list(sequence), **columns})
                part.to_csv(temporary, sep="\t", index=False, na_rep="nan", mode="a" if i else "w", header=not i)

        write_whole(Path(args.per_position), write)
    total = sum(int(np.isfinite(v).sum()) for s in strands for v in scores[s])
    loss = -sum(float(np.nansum(v, dtype=np.float64)) for s in strands for v in scores[s]) / max(total, 1)
    perplexity = math.exp(loss) if total else math.nan
    print(f"{len(rows):,} sequences, {total:,} scores: perplexity {perplexity:.4f}; {args.output}")


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
