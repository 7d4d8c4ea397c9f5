"""Variant effects: `hyenadna variants --model FOLDER --vcf v.vcf.gz --fasta genome.fa --output_dir out`.

    hyenadna variants --model FOLDER --fasta genome.fa --mutagenesis chr20:1,000,000-1,000,200 --output_dir out
    accelerate launch --multi_gpu --num_processes 4 -m hyenadna variants --model ...   # CPUs, too

The score of an alternative allele is the log-likelihood (natural logarithm) of a window of the genome with it minus
that with the reference allele, averaged over both strands: below 0, the model finds it less likely. Only A, C, G and T
count as targets. `distance` is one minus the cosine between the mean embeddings of the two windows.

`variants.tsv` has one line per alternative allele, in the order of the VCF, with the reason where there is no score;
`variants.vcf` is the input with `HYENA_LLR` and `HYENA_SKIP` in INFO, `variants.vcf.gz` (bgzip) with an index if the
input is compressed. Work is done in parts of 256 lines that are written whole: a run that was killed goes on where it
was. Positions of a VCF count from 1; all others here from 0.
"""

import argparse
import json
import math
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import PartialState
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import DynamicCache

from hyenadna import HyenaDNAForCausalLM
from hyenadna.cache_hyenadna import branches
from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile, open_genomes
from hyenadna.genomics.files import is_compressed
from hyenadna.genomics.intervals import read_regions
from hyenadna.genomics.letters import (
    FIRST_BASE,
    ID_OF_BYTE,
    LAST_BASE,
    SOFT_MASKED,
    VOCABULARY,
    encode,
    reverse_complement,
)
from hyenadna.genomics.vcf import check_vcf, vcf_lines, vcf_records, write_vcf
from hyenadna.training.runs.files import write_json, write_whole
from hyenadna.training.runs.models import load_language_model

_PART = 256  # lines of a VCF that are scored and written at a time
ADDED = {  # keys of INFO: column, type, description
    "HYENA_LLR": ("llr", "Float", "Log-likelihood ratio of ALT against REF, HyenaDNA, mean of both strands"),
    "HYENA_DISTANCE": ("distance", "Float", "1 - cosine of the mean embeddings with REF and with ALT, both strands"),
    "HYENA_SKIP": ("skip", "String", "Why there is no HYENA_LLR"),
}
COLUMNS = ["line", "chrom", "pos", "id", "ref", "alt", "llr", "llr_forward", "llr_reverse", "distance", "skip"]


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


def surroundings(
    genome: SequenceFile, sequence: int, position: int, ref: str, alt: str, window: int
) -> tuple[str, str]:
    """What stands before and after a variant in its window, the same for both alleles.

    Together with the longer allele, in the middle, they are `window` bases; fewer at the ends of the chromosome.
    """
    around = window - max(len(ref), len(alt))
    start, end = max(0, position - around // 2), position + len(ref) + around - around // 2
    end = min(end, int(genome.lengths[sequence]))
    before = genome.letters(sequence, start, position).upper()
    return before, genome.letters(sequence, position + len(ref), end).upper()


def to_ids(sequences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, longest), with pads on the right, where a causal model does not see them, and lengths (n,)."""
    lengths = torch.tensor([len(s) for s in sequences])
    ids = torch.full((len(sequences), int(lengths.max())), VOCABULARY["[PAD]"])
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(encode(sequence) % SOFT_MASKED)
    return ids, lengths


def target_log_probabilities(model: HyenaDNAForCausalLM, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token but the first, 0 where it is none of A, C, G and T: float32 (batch, length - 1).

    Args:
        model: Its head is used.
        hidden: The backbone's output for `ids`, of shape (batch, length, d_model).
        ids: Of shape (batch, length).
    """
    targets = ids[:, 1:]
    p = model.lm_head(hidden[:, :-1]).float().log_softmax(-1).gather(2, targets[..., None])[..., 0]
    return p.masked_fill_((targets < FIRST_BASE) | (targets > LAST_BASE), 0)


@torch.no_grad()
def read_windows(model: HyenaDNAForCausalLM, sequences: list[str], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood of each sequence, float64 (n,), and its mean embedding, float64 (n, d_model).

    Only sequences of one length share a batch: then they are rounded as each of them alone.
    """
    totals, means = np.zeros(len(sequences)), np.zeros((len(sequences), model.config.d_model))
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for _, group in groupby(order, key=lambda i: len(sequences[i])):
        same = list(group)
        for rows in (same[i : i + batch_size] for i in range(0, len(same), batch_size)):
            ids = to_ids([sequences[i] for i in rows])[0].to(model.device)
            hidden = model.hyena(ids).last_hidden_state
            totals[rows] = target_log_probabilities(model, hidden, ids).double().sum(1).cpu().numpy()
            means[rows] = hidden.double().mean(1).cpu().numpy()
    return totals, means


@torch.no_grad()
def read_pairs(
    model: HyenaDNAForCausalLM, prefixes: list[str], pairs: list[tuple[str, str]], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read two continuations of each prefix, which is read once.

    Equal to whole windows but for rounding: a sum over 1,000 float32 log-probabilities is not determined to 1e-5.

    Returns:
        Log-likelihood of each continuation given its prefix, float64 (n, 2), and the mean embedding of prefix and
        continuation, float64 (n, 2, d_model).
    """
    totals, means = np.zeros((len(pairs), 2)), np.zeros((len(pairs), 2, model.config.d_model))
    order = sorted(range(len(pairs)), key=lambda i: (len(prefixes[i]), max(map(len, pairs[i]))))
    for batch in (order[i : i + max(1, batch_size // 2)] for i in range(0, len(order), max(1, batch_size // 2))):
        cut = len(prefixes[batch[0]])  # the shortest; what the others have beyond it is read twice
        ids, lengths = to_ids([prefixes[i][cut:] + s for i in batch for s in pairs[i]])
        ids, rows = ids.to(model.device), torch.arange(len(batch), device=model.device).repeat_interleave(2)
        inside = (torch.arange(ids.shape[1]) < lengths[:, None]).float().to(model.device)
        total, embedding = 0, 0
        if cut:
            cache = DynamicCache(config=model.config)
            prefix = model.hyena(to_ids([prefixes[i][:cut] for i in batch])[0].to(model.device), past_key_values=cache)
            hidden = prefix.last_hidden_state
            total = target_log_probabilities(model, hidden[rows, -1:].expand(-1, 2, -1), F.pad(ids[:, :1], (1, 0)))
            total, embedding = total.double().sum(1), hidden.double().sum(1)[rows]
            with branches(cache, rows):
                hidden = model.hyena(ids, past_key_values=cache).last_hidden_state
        else:
            hidden = model.hyena(ids).last_hidden_state
        total = total + target_log_probabilities(model, hidden, ids).double().sum(1)
        embedding = embedding + torch.bmm(inside[:, None].to(hidden.dtype), hidden)[:, 0].double()
        totals[batch] = total.view(-1, 2).cpu().numpy()
        means[batch] = (embedding / (lengths[:, None] + cut).to(model.device)).view(len(batch), 2, -1).cpu().numpy()
    return totals, means


def score_part(
    model: HyenaDNAForCausalLM,
    genome: SequenceFile,
    records: list[list[str]],
    first: int,
    window: int,
    batch_size: int,
    share_prefix: bool = False,
) -> pd.DataFrame:
    """Score the alternative alleles of VCF records, the first of which has the number `first`, counted from 0."""
    rows, scored, prefixes, pairs = [], [], [], []
    for line, (chrom, pos, name, ref, alts, *_) in enumerate(records, first):
        sequence = genome.number_of(chrom)
        for alt in alts.split(","):
            row = dict.fromkeys(COLUMNS, math.nan)
            row |= {"line": line, "chrom": chrom, "pos": int(pos), "id": name, "ref": ref, "alt": alt}
            row["skip"] = skip_reason(genome, sequence, int(pos) - 1, ref.upper(), alt.upper(), window)
            rows.append(row)
            if not row["skip"]:
                before, after = surroundings(genome, sequence, int(pos) - 1, ref, alt, window)
                if VOCABULARY["[UNK]"] in (before + after).encode().translate(ID_OF_BYTE):
                    row["skip"] = "no_nucleotide_in_window"
                    continue
                scored.append(row)
                pair = (ref.upper() + after, alt.upper() + after)
                prefixes += [before, reverse_complement(after)]
                pairs += [pair, tuple(reverse_complement(before + allele.upper()) for allele in (ref, alt))]
    if not scored:  # a contig that the FASTA lacks, or symbolic alleles only
        return pd.DataFrame(rows, columns=COLUMNS)
    if share_prefix:
        totals, means = read_pairs(model, prefixes, pairs, batch_size)
    else:
        windows = [prefix + s for prefix, pair in zip(prefixes, pairs, strict=True) for s in pair]
        number = {s: i for i, s in enumerate(dict.fromkeys(windows))}  # the reference of several alternatives is one
        where = [number[s] for s in windows]
        totals, means = (x[where] for x in read_windows(model, list(number), batch_size))
    for row, total, mean in zip(scored, totals.reshape(-1, 2, 2), means.reshape(len(scored), 2, 2, -1), strict=True):
        row["llr_forward"], row["llr_reverse"] = total[:, 1] - total[:, 0]
        row["llr"] = (row["llr_forward"] + row["llr_reverse"]) / 2
        a, b = mean.sum(0)
        row["distance"] = 1 - float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return pd.DataFrame(rows, columns=COLUMNS)


# ------------------------------------------------------------------------------------------------ mutagenesis


@torch.no_grad()
def _mutate(
    model: HyenaDNAForCausalLM, ids: np.ndarray, first: int, last: int, batch_size: int, progress: bool
) -> np.ndarray:
    """Log-likelihood of the sequence with each of A, C, G, T at the positions [first, last), float64 (n, 4).

    What stands before a few neighbouring positions is read once, and what follows it once for each substitution.
    """
    x = torch.from_numpy(ids.astype(np.int64)).to(model.device)
    log_p = model(x[None]).logits[0].float().log_softmax(-1)
    scored = (x >= FIRST_BASE) & (x <= LAST_BASE)
    p = F.pad(log_p[:-1].gather(1, x[1:, None])[:, 0].double().masked_fill(~scored[1:], 0), (1, 0))
    before = p.cumsum(0) - p  # of the bases before a position
    result = torch.full((last - first, 4), float(p.sum()), dtype=torch.float64, device=x.device)
    every, cache, read = torch.arange(FIRST_BASE, LAST_BASE + 1, device=x.device), DynamicCache(config=model.config), 0
    some = max(1, batch_size // 3)
    for start in tqdm(range(first, last, some), unit="batch", disable=not progress):
        positions = torch.arange(start, min(start + some, last), device=x.device)
        where, base = torch.nonzero(x[positions, None] != every, as_tuple=True)
        rows = x[start:].repeat(len(where), 1)
        rows[torch.arange(len(where)), where] = every[base]
        if start == 0:
            hidden = model.hyena(rows).last_hidden_state
        else:
            model.hyena(x[None, read:start], past_key_values=cache)
            read = start
            with branches(cache, torch.zeros_like(where)):
                hidden = model.hyena(rows, past_key_values=cache).last_hidden_state
        after = target_log_probabilities(model, hidden, rows)
        after.masked_fill_(torch.arange(1, rows.shape[1], device=x.device) <= where[:, None], 0)
        at = positions[where]
        own = log_p[(at - 1).clamp(min=0), every[base]].double().masked_fill(at == 0, 0)
        result[at - first, base] = before[at] + own + after.double().sum(1)
    return result.cpu().numpy()


def mutagenesis(
    model: HyenaDNAForCausalLM, sequence: str, first: int, last: int, batch_size: int = 32, progress: bool = False
) -> np.ndarray:
    """Score all substitutions of a window: log-likelihood with each base minus that of the window as it is.

    Args:
        model: A language model; it is put into evaluation mode.
        sequence: The window.
        first: Positions [first, last) of it are mutated, counted from 0.
        last: See `first`.
        batch_size: Substitutions to read at a time.
        progress: Show a progress bar for each strand.

    Returns:
        float64 (last - first, 4), for A, C, G, T, averaged over both strands; 0 for the base that is there, and NaN
        where the window has none of the four.

    Raises:
        InputError: The positions are not in the sequence, or it has other characters.
    """
    if not 0 <= first < last <= len(sequence):
        raise InputError(f"positions {first} to {last} are to be mutated, but the sequence has {len(sequence)} bases")
    model.eval()
    ids, other = encode(sequence) % SOFT_MASKED, encode(reverse_complement(sequence)) % SOFT_MASKED
    length = len(ids)
    forward = _mutate(model, ids, first, last, batch_size, progress)
    reverse = _mutate(model, other, length - last, length - first, batch_size, progress)
    reverse = reverse[::-1, ::-1]  # T, G, C, A are complements
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
    genome.check_letters(sequence, left, genome.read(sequence, left, right))
    scores = mutagenesis(model, genome.letters(sequence, left, right), start - left, end - left, args.batch_size, True)
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


def checksum_of(model: HyenaDNAForCausalLM) -> int:
    """Of its weights."""
    checksum = 0
    for weight in model.state_dict().values():
        checksum = zlib.crc32(weight.cpu().numpy().tobytes(), checksum)
    return checksum


def part_path(output: Path, part: int) -> Path:
    return output / "parts" / f"{part:06d}.tsv"


def read_part(path: Path) -> pd.DataFrame:
    text = dict.fromkeys(("chrom", "id", "ref", "alt", "skip"), str)
    return pd.read_csv(path, sep="\t", dtype=text, keep_default_na=False, na_values={c: ["nan"] for c in COLUMNS[6:10]})


def annotated(vcf: str, table: pd.DataFrame) -> Iterator[str]:
    """Yield the lines of a VCF with the scores in INFO."""

    def text(x: str | float) -> str:
        return (x or ".") if isinstance(x, str) else "." if math.isnan(x) else f"{x:.6g}"

    values = {
        key: table[of].map(text).groupby(table["line"]).agg(",".join).to_dict() for key, (of, *_) in ADDED.items()
    }
    number = 0
    for line in vcf_lines(vcf):
        if line.startswith(tuple(f"##INFO=<ID={key}," for key in ADDED)):
            continue  # of an earlier run, as are the values below
        if line.startswith("#CHROM"):
            for key, (_, kind, description) in ADDED.items():
                yield f'##INFO=<ID={key},Number=A,Type={kind},Description="{description}">'
        elif not line.startswith("#"):
            fields = line.split("\t", 8)
            items = [item for item in fields[7].split(";") if item.partition("=")[0] not in (*ADDED, ".", "")]
            items += [f"{key}={of[number]}" for key, of in values.items() if set(of[number]) - set(".,")]
            fields[7] = ";".join(items)
            line, number = "\t".join(fields), number + 1
        yield line


def write_annotated(args: argparse.Namespace, output: Path, table: pd.DataFrame) -> str:
    """Write the annotated VCF, compressed and indexed if the input is compressed; return what was written."""
    name = "variants.vcf.gz" if is_compressed(args.vcf) else "variants.vcf"
    written = write_vcf(output / name, annotated(args.vcf, table))
    if written.problem:
        return f"{name}, without an index: {written.problem}"
    return f"{name} and {written.index.suffix}" if written.index else name


def finish(args: argparse.Namespace, output: Path, parts: int) -> None:
    """Join the parts to `variants.tsv`, and write the VCF again with the scores in INFO."""
    table = pd.concat([read_part(part_path(output, i)) for i in range(parts)] or [pd.DataFrame(columns=COLUMNS)])
    path = output / "variants.tsv"
    write_whole(path, lambda temporary: table.to_csv(temporary, sep="\t", index=False, na_rep="nan"))
    written = write_annotated(args, output, table)
    shutil.rmtree(output / "parts", ignore_errors=True)
    skipped = table["skip"][table["skip"] != ""]
    reasons = skipped.str.replace(r"(REF_mismatch).*", r"\1", regex=True).value_counts()
    told = "".join(f"\n  skipped {count:,}: {reason}" for reason, count in reasons.items())
    print(f"{len(table) - len(skipped):,} of {len(table):,} alleles scored: {path}; {written}{told}")


def run_vcf(
    args: argparse.Namespace, model: HyenaDNAForCausalLM, genome: SequenceFile, output: Path, records: int
) -> None:
    state, parts = PartialState(), -(-records // _PART)
    finished = (output / "variants.tsv").exists() and not (output / "parts").exists()
    state.wait_for_everyone()
    if finished:
        if state.is_main_process:
            print(f"{output} holds this run, and it is finished: nothing to do")
        return
    (output / "parts").mkdir(exist_ok=True)
    missing = [part for part in range(parts) if not part_path(output, part).exists()]
    state.wait_for_everyone()  # before one of them writes what another has not looked for yet
    mine, alleles, start = set(missing[state.process_index :: state.num_processes]), 0, time.perf_counter()
    lines = vcf_records(args.vcf)
    with tqdm(total=len(mine), unit="part", disable=not state.is_local_main_process) as bar:
        for part in range(parts):
            here, path = list(islice(lines, _PART)), part_path(output, part)
            if part in mine:
                table = score_part(model, genome, here, part * _PART, args.window, args.batch_size, args.share_prefix)
                write = table.to_csv
                write_whole(path, lambda temporary, write=write: write(temporary, sep="\t", index=False, na_rep="nan"))
                alleles += int((table["skip"] == "").sum())
                bar.update()
    if alleles:
        seconds = time.perf_counter() - start
        name = f"process {state.process_index}: " if state.num_processes > 1 else ""
        print(f"{name}{alleles:,} alleles in {seconds:,.0f} s, {alleles / seconds:.1f} a second")
    state.wait_for_everyone()
    if state.is_main_process:
        finish(args, output, parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hyenadna variants", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder or Hub id of a language model")
    parser.add_argument("--fasta", required=True, help="the genome, plain or bgzip")
    parser.add_argument("--vcf", help="variants, plain, gzip or bgzip")
    parser.add_argument("--mutagenesis", help="instead of a VCF: a region (from 0, half-open), such as chr20:1000-1200")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--window", type=int, default=1024, help="bases around a variant that are read")
    parser.add_argument("--batch_size", type=int, default=32, help="windows in one batch")
    parser.add_argument(
        "--share_prefix",
        action="store_true",
        help="read what is before a variant once for both alleles: faster, equal but for rounding (about 1e-5)",
    )
    parser.add_argument("--device", help="such as cpu or cuda:1")
    args = parser.parse_args(argv)
    if (args.vcf is None) == (args.mutagenesis is None):
        raise InputError("give --vcf or --mutagenesis: one of them")
    if args.window < 2 or args.batch_size < 1:
        raise InputError(f"window is {args.window} and batch_size {args.batch_size}; at least 2 and 1 are needed")
    if args.vcf is not None and not Path(args.vcf).is_file():
        raise InputError(f"{args.vcf}: there is no such file")
    (genome,) = open_genomes([args.fasta])
    # Accelerate takes several processes for one each if it is not told that there is no GPU; one may wait for the last.
    cpu = args.device == "cpu" or not torch.accelerator.is_available()
    output, state = Path(args.output_dir), PartialState(cpu=cpu, timeout=timedelta(days=7))
    written = output / "run_settings.json"
    if not written.is_file() and output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output} holds something else: choose another folder")
    records, checksum = (0, 0) if args.vcf is None else check_vcf(args.vcf)
    model = load_language_model(args.model, args.device or (str(state.device) if state.device.type == "cuda" else None))
    if args.window > model.config.max_seq_len:
        raise InputError(f"window is {args.window}, but the model reads at most max_seq_len={model.config.max_seq_len}")
    names = ("model", "fasta", "vcf", "mutagenesis", "window", "share_prefix")
    settings = {name: getattr(args, name) for name in names}
    # Files may change under the same name, and the parts of two runs must not be mixed.
    settings |= {"vcf_checksum": checksum, "fasta_bases": int(genome.lengths.sum()), "weights": checksum_of(model)}
    earlier = json.loads(written.read_text()) if written.is_file() else {}
    changed = [f"{name} {earlier[name]!r}" for name in settings if earlier.get(name, settings[name]) != settings[name]]
    if changed:
        raise InputError(f"{output} holds results of other settings ({', '.join(changed)}): choose another folder")
    state.wait_for_everyone()
    if state.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_json(written, settings)
    state.wait_for_everyone()
    if args.vcf is None:
        if state.is_main_process:
            run_mutagenesis(args, model, genome, output)
    else:
        run_vcf(args, model, genome, output, records)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
