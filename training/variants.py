"""Variant effects: `hyenadna variants --model FOLDER --vcf v.vcf.gz --fasta genome.fa --output_dir out`.

    hyenadna variants --model FOLDER --fasta genome.fa --mutagenesis chr20:1,000,000-1,000,200 --output_dir out
    accelerate launch --num_processes 4 -m hyenadna.training.variants --model ...

The score of an alternative allele is the log-likelihood (natural logarithm) of a window of the genome with it minus
that with the reference allele, averaged over both strands: below 0, the model finds it less likely. Only A, C, G and T
count as targets. `distance` is one minus the cosine between the mean embeddings of the two windows.

`variants.tsv` has one line per alternative allele, in the order of the VCF, with the reason where there is no score;
`variants.vcf` is the input with `HYENA_LLR` and `HYENA_SKIP` in INFO. Work is done in parts of 256 lines that are
written whole: a run that was killed goes on where it was. Positions of a VCF count from 1; all others here from 0.
"""

import argparse
import copy
import gzip
import json
import math
import re
import shutil
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import DynamicCache

from hyenadna import HyenaDNAForCausalLM

from .dna import reverse_complement
from .errors import InputError
from .genome import FIRST_BASE, LAST_BASE, SOFT_MASKED, VOCABULARY, SequenceFile, open_genomes, read_regions
from .results import write_json, write_whole
from .score import encode, load_language_model

_PART = 256  # lines of a VCF that are scored and written at a time
COLUMNS = ["line", "chrom", "pos", "id", "ref", "alt", "llr", "llr_forward", "llr_reverse", "distance", "skip"]


# ------------------------------------------------------------------------------------------------ files


def read_lines(path: str) -> Iterator[str]:
    """Yield the lines of a VCF, plain, gzip or bgzip, without their ends.

    Raises:
        InputError: It cannot be read to its end.
    """
    try:
        with (gzip.open if path.endswith((".gz", ".bgz")) else open)(path, "rt") as file:
            for line in file:
                if not line.endswith("\n"):
                    raise InputError(f"{path} is truncated: its last line has no end: {line[:60]!r}")
                yield line[:-1]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path} cannot be read to its end: {error}") from error


def check_vcf(path: str) -> int:
    """Read a VCF once, and return the number of its records.

    Raises:
        InputError: There is no header, or a line has too few fields or no position.
    """
    header, records = False, 0
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith("#"):
            header |= line.startswith("#CHROM\tPOS\tID\tREF\tALT")
            continue
        if not header:
            raise InputError(f"{path}: line {number} comes before the header (#CHROM, POS, ID, REF, ALT ...): no VCF?")
        fields = line.split("\t", 8)
        if len(fields) < 8 or not fields[1].isdecimal():
            raise InputError(
                f"{path}: line {number} is {line[:60]!r}; expected at least 8 fields separated by tabs, the second of "
                "them a position"
            )
        records += 1
    if not header:
        raise InputError(f"{path} has no header line (#CHROM, POS, ID, REF, ALT ...)")
    return records


def records_of(path: str) -> Iterator[list[str]]:
    """The first eight fields of each record."""
    return (line.split("\t", 8)[:8] for line in read_lines(path) if not line.startswith("#"))


def find_sequence(genome: SequenceFile, name: str) -> int | None:
    """Number of a chromosome, with or without `chr` in front; None if there is none."""
    for spelling in (name, f"chr{name}", name.removeprefix("chr"), {"MT": "chrM", "chrM": "MT"}.get(name, name)):
        if spelling in genome.number:
            return genome.number[spelling]
    return None


# ------------------------------------------------------------------------------------------------ scores


def skip_reason(genome: SequenceFile, sequence: int | None, position: int, ref: str, alt: str, window: int) -> str:
    """Why an allele cannot be scored; empty if it can. `position` counts from 0."""
    if sequence is None:
        return "contig_not_in_fasta"
    if alt in (".", ref):
        return "no_alternative"
    if alt == "*":
        return "spanning_deletion"
    if alt.startswith("<"):
        return "symbolic_allele"
    if re.search(r"[\[\].]", alt):
        return "breakend"
    if not re.fullmatch("[ACGT]+", alt) or not re.fullmatch("[ACGT]+", ref):
        return "letters_other_than_ACGT"
    if position < 0 or position + len(ref) > genome.lengths[sequence]:
        return "outside_of_contig"
    found = genome.letters(sequence, position, position + len(ref)).upper()
    if found != ref:
        return "REF_is_N_in_fasta" if set(found) == {"N"} else f"REF_mismatch_fasta_has_{found[:20]}"
    if max(len(ref), len(alt)) >= window:
        return "longer_than_window"
    return ""


def alleles(genome: SequenceFile, sequence: int, position: int, ref: str, alt: str, window: int) -> tuple[str, str]:
    """The window around a variant with the reference and with the alternative allele.

    Both have the variant in the middle, and the same bases around it: `window` of them together with the longer
    allele, fewer at the ends of the chromosome.
    """
    around = window - max(len(ref), len(alt))
    start, end = max(0, position - around // 2), position + len(ref) + around - around // 2
    end = min(end, int(genome.lengths[sequence]))
    before = genome.letters(sequence, start, position).upper()
    after = genome.letters(sequence, position + len(ref), end).upper()
    return before + ref + after, before + alt + after


@torch.no_grad()
def likelihoods_and_embeddings(
    model: HyenaDNAForCausalLM, sequences: list[str], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood of each sequence, float64 (n,), and its mean embedding, float32 (n, d_model)."""
    totals, means = np.zeros(len(sequences)), np.zeros((len(sequences), model.config.d_model), np.float32)
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
        lengths = torch.tensor([len(sequences[i]) for i in rows])
        ids = torch.full((len(rows), int(lengths.max())), VOCABULARY["[PAD]"])
        for row, i in enumerate(rows):
            ids[row, : lengths[row]] = torch.from_numpy(encode(sequences[i]) % SOFT_MASKED)
        ids = ids.to(model.device)
        hidden = model.hyena(ids).last_hidden_state  # pads stand on the right, where they have no effect
        p = model.lm_head(hidden[:, :-1]).float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        scored = (ids[:, 1:] >= FIRST_BASE) & (ids[:, 1:] <= LAST_BASE)
        totals[rows] = p.double().masked_fill(~scored, 0).sum(1).cpu().numpy()
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths.to(ids.device)[:, None]
        mean = (hidden.float() * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
        means[rows] = mean.cpu().numpy()
    return totals, means


def score_part(
    model: HyenaDNAForCausalLM, genome: SequenceFile, records: list[list[str]], first: int, window: int, batch_size: int
) -> pd.DataFrame:
    """Score the alternative alleles of VCF records, the first of which has the number `first`, counted from 0."""
    rows, sequences, number = [], [], {}
    for line, (chrom, pos, name, ref, alts, *_) in enumerate(records, first):
        sequence = find_sequence(genome, chrom)
        for alt in alts.split(","):
            row = dict.fromkeys(COLUMNS, math.nan)
            row |= {"line": line, "chrom": chrom, "pos": int(pos), "id": name, "ref": ref, "alt": alt}
            row["skip"] = skip_reason(genome, sequence, int(pos) - 1, ref.upper(), alt.upper(), window)
            rows.append(row)
            if not row["skip"]:
                pair = alleles(genome, sequence, int(pos) - 1, ref.upper(), alt.upper(), window)
                strands = [*pair, *map(reverse_complement, pair)]
                for s in strands:  # the reference of several alternatives is read once
                    if s not in number:
                        number[s] = len(sequences)
                        sequences.append(s)
                row["windows"] = [number[s] for s in strands]
    totals, means = likelihoods_and_embeddings(model, sequences, batch_size)
    for row in rows:
        if not row["skip"]:
            ref, alt, ref_reverse, alt_reverse = row.pop("windows")
            row["llr_forward"] = totals[alt] - totals[ref]
            row["llr_reverse"] = totals[alt_reverse] - totals[ref_reverse]
            row["llr"] = (row["llr_forward"] + row["llr_reverse"]) / 2
            a, b = (means[list(pair)].sum(0, dtype=np.float64) for pair in ((ref, ref_reverse), (alt, alt_reverse)))
            row["distance"] = 1 - float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return pd.DataFrame(rows, columns=COLUMNS)


# ------------------------------------------------------------------------------------------------ mutagenesis


@torch.no_grad()
def _mutate(model: HyenaDNAForCausalLM, ids: np.ndarray, first: int, last: int) -> np.ndarray:
    """Log-likelihood of the sequence with each of A, C, G, T at the positions [first, last), float64 (n, 4).

    What stands before a position is read once for all that follow it: a copy of the cache goes on with each base.
    """
    x = torch.from_numpy(ids.astype(np.int64)).to(model.device)[None]
    scored = (x >= FIRST_BASE) & (x <= LAST_BASE)
    cache, total = DynamicCache(config=model.config), 0.0
    result = np.zeros((last - first, 4))
    following = None  # log-probabilities of the base at the position that the cache has reached
    if first:
        p = model(x[:, :first], past_key_values=cache).logits.float().log_softmax(-1)
        seen = p[0, :-1].gather(1, x[0, 1:first, None])[:, 0].double()
        total, following = float(seen[scored[0, 1:first]].sum()), p[0, -1]
    p = model(x).logits[0, :-1].float().log_softmax(-1)
    whole = p.gather(1, x[0, 1:, None])[:, 0].double().masked_fill(~scored[0, 1:], 0).sum().item()
    every = torch.arange(FIRST_BASE, LAST_BASE + 1, device=x.device)
    for i in range(first, last):
        bases = every[every != x[0, i]]
        rows = x[:, i:].repeat(len(bases), 1)
        rows[:, 0] = bases
        branch = copy.deepcopy(cache)
        branch.batch_repeat_interleave(len(bases))
        p = model(rows, past_key_values=branch).logits[:, :-1].float().log_softmax(-1)
        after = p.gather(2, rows[:, 1:, None])[..., 0].double().masked_fill(~scored[:, i + 1 :], 0).sum(1)
        own = torch.zeros(len(bases), device=x.device) if following is None else following[bases].double()
        result[i - first] = whole
        result[i - first, (bases - FIRST_BASE).cpu().numpy()] = (total + own + after).cpu().numpy()
        logits = model(x[:, i : i + 1], past_key_values=cache).logits
        if following is not None and scored[0, i]:
            total += float(following[x[0, i]])
        following = logits[0, -1].float().log_softmax(-1)
    return result


def mutagenesis(model: HyenaDNAForCausalLM, sequence: str, first: int, last: int) -> np.ndarray:
    """Score all substitutions of a window: log-likelihood with each base minus that of the window as it is.

    Args:
        model: In evaluation mode.
        sequence: The window.
        first: Positions [first, last) of it are mutated, counted from 0.
        last: See `first`.

    Returns:
        float64 (last - first, 4), for A, C, G, T, averaged over both strands; 0 for the base that is there, and NaN
        where the window has none of the four.
    """
    ids, other = encode(sequence) % SOFT_MASKED, encode(reverse_complement(sequence)) % SOFT_MASKED
    length = len(ids)
    forward = _mutate(model, ids, first, last)
    reverse = _mutate(model, other, length - last, length - first)[::-1, ::-1]  # T, G, C, A are complements
    letters = ids[first:last].astype(int) - FIRST_BASE
    known = (letters >= 0) & (letters < 4)
    reference = np.where(known, letters, 0)[:, None]
    scores = sum(s - np.take_along_axis(s, reference, 1) for s in (forward, reverse)) / 2
    return np.where(known[:, None], scores, math.nan)


def heat_map(path: Path, scores: np.ndarray, start: int, title: str) -> None:
    """Draw scores (positions, 4) as a picture, blue for less likely, red for more."""
    figure = Figure(figsize=(min(30.0, 4 + len(scores) / 12), 2.6), layout="constrained")
    axis, limit = figure.subplots(), float(np.nanmax(np.abs(scores), initial=1e-6))
    where = (start - 0.5, start + len(scores) - 0.5, 3.5, -0.5)
    picture = axis.imshow(scores.T, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=where)
    axis.set_yticks(range(4), list("ACGT"))
    axis.ticklabel_format(axis="x", useOffset=False, style="plain")
    axis.set(title=title, xlabel="position, counted from 0")
    figure.colorbar(picture, ax=axis, label="log-likelihood ratio")
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150))


# ------------------------------------------------------------------------------------------------ commands


def run_mutagenesis(args: argparse.Namespace, model: HyenaDNAForCausalLM, genome: SequenceFile, output: Path) -> None:
    if args.mutagenesis.endswith(".bed"):
        raise InputError("mutagenesis takes one region, such as chr20:1000-1200")
    ((_, sequence, start, end),) = read_regions([args.mutagenesis], [genome], "mutagenesis").tolist()
    if end - start > args.window:
        raise InputError(f"the region of mutagenesis has {end - start:,} bases, but the window has {args.window:,}")
    left = max(0, start - (args.window - (end - start)) // 2)
    right = min(left + args.window, int(genome.lengths[sequence]))
    scores = mutagenesis(model, genome.letters(sequence, left, right), start - left, end - left)
    letters = genome.letters(sequence, start, end).upper()
    name = genome.names[sequence]
    table = pd.DataFrame(
        [
            {"chrom": name, "position": start + i, "ref": letters[i], "alt": base, "llr": scores[i, j]}
            for i in range(end - start)
            for j, base in enumerate("ACGT")
            if base != letters[i]
        ]
    )
    path = output / "mutagenesis.tsv"
    write_whole(path, lambda temporary: table.to_csv(temporary, sep="\t", index=False, na_rep="nan"))
    heat_map(output / "mutagenesis.png", scores, start, f"{name}:{start:,}-{end:,}")
    print(f"{len(table):,} substitutions of {name}:{start:,}-{end:,}: {path} and .png")


def part_path(output: Path, part: int) -> Path:
    return output / "parts" / f"{part:06d}.tsv"


def read_part(path: Path) -> pd.DataFrame:
    text = dict.fromkeys(("chrom", "id", "ref", "alt", "skip"), str)
    return pd.read_csv(path, sep="\t", dtype=text, keep_default_na=False, na_values={c: ["nan"] for c in COLUMNS[6:10]})


def finish(args: argparse.Namespace, output: Path, parts: int) -> None:
    """Join the parts to `variants.tsv`, and write the VCF again with the scores in INFO."""
    table = pd.concat([read_part(part_path(output, i)) for i in range(parts)] or [pd.DataFrame(columns=COLUMNS)])
    path = output / "variants.tsv"
    write_whole(path, lambda temporary: table.to_csv(temporary, sep="\t", index=False, na_rep="nan"))
    by_line = table.groupby("line")
    llr = by_line["llr"].agg(lambda v: ",".join("." if math.isnan(x) else f"{x:.6g}" for x in v)).to_dict()
    skip = by_line["skip"].agg(lambda v: ",".join(x or "." for x in v)).to_dict()
    info = [
        '##INFO=<ID=HYENA_LLR,Number=A,Type=Float,Description="Log-likelihood ratio of ALT against REF, HyenaDNA, mean '
        'of both strands">',
        '##INFO=<ID=HYENA_SKIP,Number=A,Type=String,Description="Why there is no HYENA_LLR">',
    ]

    def write(temporary: Path) -> None:
        number = 0
        with open(temporary, "w") as file:
            for line in read_lines(args.vcf):
                if line.startswith("#CHROM"):
                    file.write("\n".join([*info, ""]))
                elif not line.startswith("#"):
                    fields = line.split("\t")
                    added = f"HYENA_LLR={llr[number]}"
                    if set(skip[number]) - set(".,"):
                        added += f";HYENA_SKIP={skip[number]}"
                    fields[7] = added if fields[7] in (".", "") else f"{fields[7]};{added}"
                    line, number = "\t".join(fields), number + 1
                file.write(line + "\n")

    write_whole(output / "variants.vcf", write)
    shutil.rmtree(output / "parts", ignore_errors=True)
    skipped = table["skip"][table["skip"] != ""]
    reasons = skipped.str.replace(r"(REF_mismatch).*", r"\1", regex=True).value_counts()
    told = "".join(f"\n  skipped {count:,}: {reason}" for reason, count in reasons.items())
    print(f"{len(table) - len(skipped):,} of {len(table):,} alleles scored: {path} and .vcf{told}")


def run_vcf(args: argparse.Namespace, model: HyenaDNAForCausalLM, genome: SequenceFile, output: Path) -> None:
    state = PartialState()
    parts = -(-check_vcf(args.vcf) // _PART)
    (output / "parts").mkdir(exist_ok=True)
    records = records_of(args.vcf)
    with tqdm(total=parts, unit="part", disable=not state.is_local_main_process) as bar:
        for part in range(parts):
            here, path = list(islice(records, _PART)), part_path(output, part)
            if part % state.num_processes == state.process_index and not path.exists():
                table = score_part(model, genome, here, part * _PART, args.window, args.batch_size)
                write = table.to_csv
                write_whole(path, lambda temporary, write=write: write(temporary, sep="\t", index=False, na_rep="nan"))
            bar.update()
    state.wait_for_everyone()
    if state.is_main_process:
        finish(args, output, parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hyenadna variants", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder or Hub id of a language model")
    parser.add_argument("--fasta", required=True, help="the genome, plain or bgzip")
    parser.add_argument("--vcf", help="variants, plain or bgzip")
    parser.add_argument("--mutagenesis", help="instead of a VCF: a region (from 0, half-open), such as chr20:1000-1200")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--window", type=int, default=1024, help="bases around a variant that are read")
    parser.add_argument("--batch_size", type=int, default=32, help="windows in one batch")
    parser.add_argument("--device", help="such as cpu or cuda:1")
    args = parser.parse_args(argv)
    if (args.vcf is None) == (args.mutagenesis is None):
        raise InputError("give --vcf or --mutagenesis: one of them")
    if args.window < 2 or args.batch_size < 1:
        raise InputError(f"window is {args.window} and batch_size {args.batch_size}; at least 2 and 1 are needed")
    if args.vcf is not None and not Path(args.vcf).is_file():
        raise InputError(f"{args.vcf}: there is no such file")
    (genome,) = open_genomes([args.fasta])
    output, state = Path(args.output_dir), PartialState()
    settings = {name: getattr(args, name) for name in ("model", "fasta", "vcf", "mutagenesis", "window")}
    written = output / "run_settings.json"
    if written.is_file() and json.loads(written.read_text()) != settings:
        raise InputError(f"{output} holds results of other settings ({written.name}): choose another folder")
    if not written.is_file() and output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output} holds something else: choose another folder")
    if args.vcf is not None:
        check_vcf(args.vcf)
    model = load_language_model(args.model, args.device or (str(state.device) if state.device.type == "cuda" else None))
    if args.window > model.config.max_seq_len:
        raise InputError(f"window is {args.window}, but the model reads at most max_seq_len={model.config.max_seq_len}")
    state.wait_for_everyone()
    if state.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_json(written, settings)
    state.wait_for_everyone()
    if args.vcf is None:
        if state.is_main_process:
            run_mutagenesis(args, model, genome, output)
    else:
        run_vcf(args, model, genome, output)


if __name__ == "__main__":
    main()
