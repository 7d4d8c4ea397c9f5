"""Variant effects: `hyenadna variants --model M --vcf v.vcf.gz --fasta g.fa --output_dir out`.

    hyenadna variants --model M --fasta g.fa --mutagenesis chr20:1,000,000-1,000,200 --output_dir out
    accelerate launch --multi_gpu --num_processes 4 -m hyenadna variants --model ...   # also on CPUs

The score of an alternative allele is a log-likelihood ratio (natural logarithm): that of a window
of the genome with the allele minus that with the reference, averaged over both strands. Below 0,
the model finds the allele less likely. Only A, C, G and T count as targets. `distance` is one minus
the cosine between the mean embeddings of the two windows.

`variants.tsv` has one line per alternative allele, in the order of the VCF, with a reason if there
is no score. `variants.vcf` is the input with `HYENA_LLR`, `HYENA_DISTANCE` and `HYENA_SKIP` in
INFO. If the input is compressed, so is the output (`variants.vcf.gz`, bgzip), with an index.
Records are scored and written in parts of 256, each completely or not at all, so a killed run goes
on where it was. Positions of a VCF count from 1, all others from 0.

    from hyenadna.analysis.variants import score_variants
    score_variants(model, genome, [["chr20", "1000001", "rs1", "A", "G"]])    # a row per allele
"""

import argparse
import csv
import math
import re
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import DynamicCache

from hyenadna import HyenaDNAForCausalLM
from hyenadna.cache_hyenadna import branches
from hyenadna.errors import InputError, reading
from hyenadna.genomics.fasta import SequenceFile, open_genomes
from hyenadna.genomics.files import is_compressed
from hyenadna.genomics.letters import ID_OF_BYTE, UNK, encode, pad, reverse_complement
from hyenadna.genomics.vcf import check_vcf, vcf_lines, vcf_records, write_vcf
from hyenadna.training.runs.files import write_json
from hyenadna.training.runs.folder import SETTINGS_FILE
from hyenadna.training.runs.models import load_language_model
from hyenadna.training.runs.outputs import inert, locked, remove_unfinished, whole_file
from hyenadna.training.runs.shards import Parts, changed_settings, read_earlier_settings, share

from .likelihoods import check_dna, target_log_probabilities
from .mutagenesis import mutagenesis, read_region, run_mutagenesis

__all__ = ["COLUMNS", "main", "mutagenesis", "run_vcf", "score_variants", "skip_reason"]

_BASES = re.compile("[ACGT]+")
_BREAKEND = re.compile(r"[\[\].]")
_RECORDS_PER_PART = 256
_BATCH_SIZE = 32
_WINDOW = 1024

# Key in INFO -> column of the table, type, description.
ADDED = {
    "HYENA_LLR": ("llr", "Float", "Log-likelihood ratio of ALT against REF, HyenaDNA, mean of both strands"),
    "HYENA_DISTANCE": (
        "distance",
        "Float",
        "1 - cosine of the mean embeddings with REF and with ALT, both strands",
    ),
    "HYENA_SKIP": ("skip", "String", "Why there is no HYENA_LLR"),
}
_TEXTS = ["chrom", "id", "ref", "alt"]
_NUMBERS = ["llr", "llr_forward", "llr_reverse", "distance"]
COLUMNS = [
    "line",
    "chrom",
    "pos",
    "id",
    "ref",
    "alt",
    "llr",
    "llr_forward",
    "llr_reverse",
    "distance",
    "skip",
]


# ------------------------------------------------------------------------------ alleles


def skip_reason(
    genome: SequenceFile, sequence: int | None, position: int, ref: str, alt: str, window: int
) -> str:
    """Return why an allele cannot be scored, or an empty text if it can.

    Args:
        genome: The genome.
        sequence: The number of the chromosome; None if the genome does not have it.
        position: The position of the first reference base, from 0.
        ref: The reference allele, in capitals.
        alt: The alternative allele, in capitals.
        window: The number of bases that the model reads.

    >>> skip_reason(genome, 0, 1000, "A", "<DEL>", 1024)                    # doctest: +SKIP
    'symbolic_allele'
    """
    if sequence is None:
        return "contig_not_in_fasta"
    if alt in (".", ref):
        return "no_alternative"
    if alt == "*":
        return "spanning_deletion"
    if alt.startswith("<"):
        return "symbolic_allele"
    if _BREAKEND.search(alt):
        return "breakend"
    if not _BASES.fullmatch(alt) or not _BASES.fullmatch(ref):
        return "letters_other_than_ACGT"
    if position < 0 or position + len(ref) > genome.lengths[sequence]:
        return "outside_of_contig"

    letters = genome.letters(sequence, position, position + len(ref)).upper()
    if letters != ref:
        if set(letters) == {"N"}:
            return "REF_is_N_in_fasta"
        return f"REF_mismatch_fasta_has_{letters[:20]}"
    if max(len(ref), len(alt)) >= window:
        return "longer_than_window"
    return ""


def surroundings(
    genome: SequenceFile, sequence: int, position: int, ref: str, alt: str, window: int
) -> tuple[str, str]:
    """Return the bases before and after a variant in its window, in capitals.

    They are the same for both alleles. With the longer allele in the middle they make `window`
    bases, or fewer at the ends of the chromosome. `position` counts from 0.
    """
    # Centred on the longer allele, so that neither window is longer than the model reads.
    around = window - max(len(ref), len(alt))
    after = position + len(ref)
    start = max(0, position - around // 2)
    end = min(after + around - around // 2, int(genome.lengths[sequence]))
    return genome.letters(sequence, start, position).upper(), genome.letters(sequence, after, end).upper()


def score_variants(
    model: HyenaDNAForCausalLM,
    genome: SequenceFile,
    records: Sequence[Sequence[str]],
    first: int = 0,
    window: int = _WINDOW,
    batch_size: int = _BATCH_SIZE,
    share_prefix: bool = False,
) -> pd.DataFrame:
    """Score the alternative alleles of VCF records.

    Args:
        model: A language model in evaluation mode.
        genome: The genome.
        records: The fields of each record as text: CHROM, POS (from 1), ID, REF, ALT and perhaps
            more.
        first: The number of the first record, for the column `line`.
        window: The number of bases that the model reads around a variant.
        batch_size: The number of windows in one batch.
        share_prefix: Read what comes before a variant only once for both alleles. Faster, and equal
            except for rounding.

    Returns:
        A row for each alternative allele, with the columns `COLUMNS`. Where `llr` is NaN, `skip` is
        the reason.

    >>> score_variants(model, genome, [["chr20", "1000001", "rs1", "A", "G"]])  # doctest: +SKIP
    """
    rows = _score_alleles(model, genome, records, first, window, batch_size, share_prefix)
    return pd.DataFrame(rows, columns=COLUMNS)


def _score_alleles(
    model: HyenaDNAForCausalLM,
    genome: SequenceFile,
    records: Sequence[Sequence[str]],
    first: int,
    window: int,
    batch_size: int,
    share_prefix: bool,
) -> list[dict]:
    """Return the rows of `score_variants` as dicts: a pandas table for each part takes longer."""
    rows = []
    scored = []
    # For each scored allele two of each, one per strand: a prefix, which is what the model reads
    # before the variant, and a pair, which is the rest with the reference and with the alternative.
    # On the reverse strand, the prefix is what comes after the variant on the forward strand.
    prefixes = []
    pairs = []
    for row, sequence in _alleles_of(records, genome, first):
        rows.append(row)
        position = row["pos"] - 1
        ref = row["ref"].upper()
        alt = row["alt"].upper()
        row["skip"] = skip_reason(genome, sequence, position, ref, alt, window)
        if row["skip"]:
            continue
        before, after = surroundings(genome, sequence, position, ref, alt, window)
        if UNK in (before + after).encode().translate(ID_OF_BYTE):
            row["skip"] = "no_nucleotide_in_window"
            continue
        scored.append(row)
        prefixes += [before, reverse_complement(after)]
        pairs.append((ref + after, alt + after))
        pairs.append((reverse_complement(before + ref), reverse_complement(before + alt)))

    # A part may have none: on a contig that the FASTA does not have, or with symbolic alleles only.
    if scored:
        _add_scores(scored, *_score_pairs(model, prefixes, pairs, batch_size, share_prefix))
    return rows


def _alleles_of(
    records: Iterable[Sequence[str]], genome: SequenceFile, first: int
) -> Iterator[tuple[dict, int | None]]:
    """Yield for each alternative allele a row without scores, and the number of its chromosome."""
    for line, record in enumerate(records, first):
        chrom, pos, name, ref, alts = record[:5]
        sequence = genome.number_of(chrom)
        for alt in alts.split(","):
            row = dict.fromkeys(COLUMNS, math.nan)
            row |= {"line": line, "chrom": chrom, "pos": int(pos), "id": name, "ref": ref, "alt": alt}
            yield row, sequence


def _score_pairs(
    model: HyenaDNAForCausalLM,
    prefixes: list[str],
    pairs: list[tuple[str, str]],
    batch_size: int,
    share_prefix: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return log-likelihoods `(n, 2)` of the pairs, and mean embeddings `(n, 2, d_model)`."""
    if share_prefix:
        return score_continuations(model, prefixes, pairs, batch_size)

    windows = [prefix + end for prefix, pair in zip(prefixes, pairs, strict=True) for end in pair]
    # Alternatives of one record have the same reference window. Read each different window once.
    number = {text: i for i, text in enumerate(dict.fromkeys(windows))}
    index = np.array([number[text] for text in windows]).reshape(-1, 2)
    totals, means = score_windows(model, list(number), batch_size)
    return totals[index], means[index]


def _add_scores(rows: list[dict], totals: np.ndarray, means: np.ndarray) -> None:
    """Write the scores into rows.

    Args:
        rows: The rows of n alleles.
        totals: Log-likelihoods of REF and ALT `(2 n, 2)`; forward and reverse strand alternate.
        means: Mean embeddings `(2 n, 2, d_model)`, likewise.
    """
    totals = totals.reshape(len(rows), 2, 2)
    strands = (totals[:, :, 1] - totals[:, :, 0]).tolist()
    # A causal model sees only one side of a base. Adding both strands covers both sides.
    embeddings = means.reshape(len(rows), 2, 2, -1).sum(1)
    for row, (forward, reverse), (ref_mean, alt_mean) in zip(rows, strands, embeddings, strict=True):
        row["llr_forward"] = forward
        row["llr_reverse"] = reverse
        row["llr"] = (forward + reverse) / 2
        # `np.linalg.norm` gives the same, but takes longer than all the rest.
        norms = math.sqrt(ref_mean @ ref_mean) * math.sqrt(alt_mean @ alt_mean)
        row["distance"] = 1 - float(ref_mean @ alt_mean / norms)


# ------------------------------------------------------------------------------ windows


def _token_ids(sequences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids `(n, longest)`, padded on the right, and lengths `(n,)`."""
    tokens, lengths = pad([encode(sequence) for sequence in sequences])
    return torch.from_numpy(tokens), torch.from_numpy(lengths)


@torch.no_grad()
def score_windows(
    model: HyenaDNAForCausalLM, sequences: list[str], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-likelihood and the mean embedding of each sequence.

    Returns:
        float64 `(n,)` and float64 `(n, d_model)`.
    """
    totals = np.zeros(len(sequences))
    means = np.zeros((len(sequences), model.config.d_model))
    # Only sequences of the same length share a batch. Padding would change the lengths of the
    # transforms, and so the rounding: a score would depend on its neighbours in the VCF.
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for _, group in groupby(by_length, key=lambda i: len(sequences[i])):
        same_length = list(group)
        for start in range(0, len(same_length), batch_size):
            rows = same_length[start : start + batch_size]
            ids, _ = _token_ids([sequences[i] for i in rows])
            ids = ids.to(model.device)
            hidden = model.hyena(ids).last_hidden_state
            totals[rows] = target_log_probabilities(model, hidden, ids).double().sum(1).cpu().numpy()
            means[rows] = hidden.double().mean(1).cpu().numpy()
    return totals, means


@torch.no_grad()
def score_continuations(
    model: HyenaDNAForCausalLM, prefixes: list[str], pairs: list[tuple[str, str]], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Score two continuations of each prefix, reading the prefix only once.

    A prefix adds the same to both log-likelihoods, so their difference is that of whole windows,
    except for rounding: a sum of 1,000 float32 log-probabilities is good to about 1e-5.

    Returns:
        The log-likelihood of each continuation given its prefix, float64 `(n, 2)`, and the mean
        embedding of prefix and continuation, float64 `(n, 2, d_model)`.
    """
    totals = np.zeros((len(pairs), 2))
    means = np.zeros((len(pairs), 2, model.config.d_model))
    # The prefixes of a batch go into one cache, so they must have the same length: cut them to the
    # shortest, and give the rest to the continuations. Sorted, little is left over to read twice.
    by_length = sorted(range(len(pairs)), key=lambda i: (len(prefixes[i]), max(map(len, pairs[i]))))
    pairs_at_a_time = max(1, batch_size // 2)
    for start in range(0, len(by_length), pairs_at_a_time):
        numbers = by_length[start : start + pairs_at_a_time]
        shortest = len(prefixes[numbers[0]])
        shared = [prefixes[i][:shortest] for i in numbers]
        ends = [prefixes[i][shortest:] + end for i in numbers for end in pairs[i]]
        total, mean = _score_ends(model, shared, ends)
        totals[numbers] = total.view(-1, 2).cpu().numpy()
        means[numbers] = mean.view(len(numbers), 2, -1).cpu().numpy()
    return totals, means


def _score_ends(
    model: HyenaDNAForCausalLM, shared: list[str], ends: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-likelihoods of ends, two for each shared beginning, and mean embeddings.

    An embedding is the mean over beginning and end together.

    Args:
        model: A language model.
        shared: n beginnings, all of the same length, which may be 0.
        ends: 2 n ends of any length.

    Returns:
        float64 `(2 n,)` and `(2 n, d_model)`.
    """
    ids, lengths = _token_ids(ends)
    ids = ids.to(model.device)
    rows = torch.arange(len(shared), device=model.device).repeat_interleave(2)
    is_inside = (torch.arange(ids.shape[1]) < lengths[:, None]).float().to(model.device)

    total = 0
    embedding = 0
    if shared[0]:
        cache = DynamicCache(config=model.config)
        beginning, _ = _token_ids(shared)
        read = model.hyena(beginning.to(model.device), past_key_values=cache).last_hidden_state
        # The last position of the beginning predicts the first base of each end. The padded 0 only
        # moves that base to the place where `target_log_probabilities` expects a target.
        last = read[rows, -1:].expand(-1, 2, -1)
        total = target_log_probabilities(model, last, F.pad(ids[:, :1], (1, 0))).double().sum(1)
        embedding = read.double().sum(1)[rows]
        with branches(cache, rows):
            hidden = model.hyena(ids, past_key_values=cache).last_hidden_state
    else:
        hidden = model.hyena(ids).last_hidden_state

    total = total + target_log_probabilities(model, hidden, ids).double().sum(1)
    # The sum over the positions that are no pads, as a product: it makes no copy of `hidden`.
    embedding = embedding + torch.bmm(is_inside[:, None].to(hidden.dtype), hidden)[:, 0].double()
    whole = (lengths[:, None] + len(shared[0])).to(model.device)
    return total, embedding / whole


# ------------------------------------------------------------------------------ parts


def _write_rows(path: Path, rows: list[dict]) -> None:
    """Write a part as a table separated by tabs."""
    # `csv` writes floats by `repr`, so nothing is rounded.
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(itemgetter(*COLUMNS), rows))


def _read_rows(parts: Parts, names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of all parts as text, in order.

    Raises:
        InputError: A part is damaged.
    """
    for name in names:
        path = parts.path(name)
        hint = ". Remove it, and the same command makes it again"
        with reading(f"{path} is damaged", hint), open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file, delimiter="\t", strict=True)
            if next(reader, None) != COLUMNS:
                raise ValueError("its header is not ours")
            for values in reader:
                row = dict(zip(COLUMNS, values, strict=True))
                # A damaged number must be found here, before it is joined to the others.
                for column in _NUMBERS:
                    float(row[column])
                yield row


# ------------------------------------------------------------------------------ joining


def _score_text(text: str) -> str:
    return "." if text == "nan" else f"{float(text):.6g}"


def _info_items(alleles: list[dict[str, str]]) -> list[str]:
    """Return the INFO items of one record, each with a value per allele, `.` for none."""
    items = []
    for key, (column, kind, _) in ADDED.items():
        values = [allele[column] for allele in alleles]
        if kind == "Float":
            texts = [_score_text(value) for value in values]
        else:
            texts = [value or "." for value in values]
        if any(text != "." for text in texts):
            items.append(f"{key}={','.join(texts)}")
    return items


def annotated(lines: Iterable[str], rows: Iterable[dict[str, str]]) -> Iterator[str]:
    """Yield the lines of a VCF with the scores in INFO.

    Both inputs are read once, a record at a time.

    Args:
        lines: The lines of the VCF, without line breaks.
        rows: The rows of the table of scores, in the order of the VCF.

    Raises:
        InputError: The rows do not belong to the VCF.
    """
    alleles_of_records = groupby(rows, key=lambda row: row["line"])
    # If an earlier run has annotated the input, replace its values.
    old_headers = tuple(f"##INFO=<ID={key}," for key in ADDED)
    old_keys = {*ADDED, ".", ""}
    number = 0
    for line in lines:
        if line.startswith(old_headers):
            continue
        if line.startswith("#CHROM"):
            for key, (_, kind, description) in ADDED.items():
                yield f'##INFO=<ID={key},Number=A,Type={kind},Description="{description}">'
        elif not line.startswith("#"):
            fields = line.split("\t", 8)
            alleles = list(next(alleles_of_records, (None, []))[1])
            # If a part lost its last lines in a power failure, all scores after it would shift.
            if len(alleles) != fields[4].count(",") + 1 or alleles[0]["line"] != str(number):
                raise InputError(
                    f"the parts have no scores of record {number} (from 0): remove them and start again"
                )
            number += 1
            # "." stands for an empty INFO, and must not stay beside real items.
            kept = [item for item in fields[7].split(";") if item.partition("=")[0] not in old_keys]
            fields[7] = ";".join([*kept, *_info_items(alleles)])
            line = "\t".join(fields)
        yield line


def _write_annotated(vcf: str, output: Path, rows: Iterable[dict[str, str]]) -> str:
    """Write the annotated VCF, compressed and indexed if the input is. Return what was written."""
    name = "variants.vcf.gz" if is_compressed(vcf) else "variants.vcf"
    written = write_vcf(output / name, annotated(vcf_lines(vcf), rows))
    if written.problem:
        return f"{name}, without an index: {written.problem}"
    if written.index is None:
        return name
    return f"{name} and {written.index.suffix}"


def _written_rows(
    rows: Iterable[dict[str, str]], file: TextIO, counts: Counter[str]
) -> Iterator[dict[str, str]]:
    """Write each row into `variants.tsv` and pass it on; count the reasons why there is no score."""
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([inert(text) if column in _TEXTS else text for column, text in row.items()])
        reason = row["skip"]
        if reason.startswith("REF_mismatch"):
            reason = "REF_mismatch"
        counts[reason] += 1
        yield row


def _join(vcf: str, output: Path, parts: Parts, names: Sequence[str]) -> None:
    """Join the parts to `variants.tsv`, and write the VCF with the scores in INFO.

    One record is in memory at a time, and the parts are read once, for both files: a VCF of whole
    genomes has millions of records.
    """
    counts: Counter[str] = Counter()
    path = output / "variants.tsv"
    with whole_file(path) as file:
        rows = _written_rows(_read_rows(parts, names), file, counts)
        written = _write_annotated(vcf, output, rows)
        for _ in rows:  # what is left, if the VCF has become shorter
            pass
    # Last: as long as the parts are there, an interrupted join can be done again.
    parts.remove()
    scored = counts.pop("", 0)
    lines = [f"{scored:,} of {scored + counts.total():,} alleles scored: {path}; {written}"]
    lines += [f"  skipped {count:,}: {reason}" for reason, count in counts.most_common()]
    print("\n".join(lines))


# ------------------------------------------------------------------------------ the command


def run_vcf(
    model: HyenaDNAForCausalLM,
    genome: SequenceFile,
    vcf: str,
    records: int,
    output: Path,
    window: int = _WINDOW,
    batch_size: int = _BATCH_SIZE,
    share_prefix: bool = False,
) -> None:
    """Score the alleles of a VCF, and write `variants.tsv` and the annotated VCF into a folder.

    Several processes share the work. Parts that an interrupted run left are used as they are: the
    caller must have compared the settings.

    Args:
        model: A language model in evaluation mode.
        genome: The genome.
        vcf: The file of variants, plain, gzip or bgzip.
        records: The number of its records, from `check_vcf`.
        output: The folder, which must exist.
        window: See `score_variants`, as for `batch_size` and `share_prefix`.
    """
    state = PartialState()
    parts = Parts(output / "parts", ".tsv")
    # Parts are removed last. A table beside them is from an interrupted join.
    is_finished = (output / "variants.tsv").exists() and not parts.folder.exists()
    # Every process must have looked before the fastest makes the folder of parts.
    state.wait_for_everyone()
    if is_finished:
        if state.is_main_process:
            print(f"{output} holds this run, and it is finished: nothing to do")
        return

    parts.folder.mkdir(exist_ok=True)
    names = [f"{number:06d}" for number in range(-(-records // _RECORDS_PER_PART))]
    mine = set(share(parts.missing(names), state.process_index, state.num_processes))
    # Every process must have listed the missing parts before any of them writes one, or their
    # shares would not fit together.
    state.wait_for_everyone()
    start = time.perf_counter()
    scored = 0
    fields = vcf_records(vcf)
    with tqdm(total=len(mine), unit="part", disable=not state.is_local_main_process) as bar:
        for number, name in enumerate(names):
            # Read the records of all parts, ours or not: there is no index to jump to a line.
            batch = list(islice(fields, _RECORDS_PER_PART))
            if name not in mine:
                continue
            first = number * _RECORDS_PER_PART
            rows = _score_alleles(model, genome, batch, first, window, batch_size, share_prefix)
            parts.write(name, lambda path, rows=rows: _write_rows(path, rows))
            scored += sum(not row["skip"] for row in rows)
            bar.update()
    if scored:
        seconds = time.perf_counter() - start
        process = f"process {state.process_index}: " if state.num_processes > 1 else ""
        print(f"{process}{scored:,} alleles in {seconds:,.0f} s, {scored / seconds:.1f} a second")

    state.wait_for_everyone()
    if state.is_main_process:
        _join(vcf, output, parts, names)


def checksum_of(model: HyenaDNAForCausalLM) -> int:
    """Return a checksum (CRC-32) of the weights of a model."""
    checksum = 0
    for weight in model.state_dict().values():
        checksum = zlib.crc32(weight.cpu().numpy().tobytes(), checksum)
    return checksum


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hyenadna variants", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a language model")
    parser.add_argument("--fasta", required=True, help="the genome, plain or bgzip")
    parser.add_argument("--vcf", help="variants, plain, gzip or bgzip")
    parser.add_argument(
        "--mutagenesis", help="instead of a VCF: a region (from 0, half-open), such as chr20:1000-1200"
    )
    parser.add_argument("--output_dir", required=True, help="folder for everything that the run writes")
    parser.add_argument(
        "--window", type=int, default=_WINDOW, help="bases around a variant to read (default: 1024)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=_BATCH_SIZE, help="windows in one batch (default: 32)"
    )
    parser.add_argument(
        "--share_prefix",
        action="store_true",
        help=(
            "read what is before a variant once for both alleles: faster, equal but for rounding (about 1e-5)"
        ),
    )
    parser.add_argument("--device", help="such as cpu or cuda:1")
    return parser


def _check_arguments(args: argparse.Namespace) -> None:
    if (args.vcf is None) == (args.mutagenesis is None):
        raise InputError("give either --vcf or --mutagenesis")
    if args.window < 2 or args.batch_size < 1:
        raise InputError(
            f"window is {args.window} and batch_size {args.batch_size}; at least 2 and 1 are needed"
        )
    if args.vcf is not None and not Path(args.vcf).is_file():
        raise InputError(f"{args.vcf}: there is no such file")


def _check_folder(output: Path, settings: dict) -> None:
    """Raise `InputError` if the folder holds something else, or results with other settings."""
    earlier = read_earlier_settings(output)
    if not earlier and _holds_something(output):
        raise InputError(f"{output} holds something else: choose another folder")
    changed = [f"{name} {value!r}" for name, value in changed_settings(earlier, settings).items()]
    if changed:
        raise InputError(
            f"{output} holds results with other settings ({', '.join(changed)}): choose another folder"
        )


def _holds_something(output: Path) -> bool:
    if output.is_file():
        return True
    return output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir())


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna variants` with these arguments (default: those of the command line)."""
    args = _parser().parse_args(argv)
    _check_arguments(args)
    (genome,) = open_genomes([args.fasta])
    # Without `cpu=True`, accelerate treats each process on a CPU as a run of its own. The timeout
    # is long because fast processes wait for the slowest.
    on_cpu = args.device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=7))
    output = Path(args.output_dir)
    records = 0
    checksum = 0
    if args.vcf is not None:
        records, checksum = check_vcf(args.vcf)
    names = ("model", "fasta", "vcf", "mutagenesis", "window", "share_prefix")
    settings = {name: getattr(args, name) for name in names}
    # Names are not enough: files may change under the same name, and parts of different runs must
    # not be mixed.
    settings |= {"vcf_checksum": checksum, "fasta_bases": int(genome.lengths.sum())}
    _check_folder(output, settings)
    region = None
    if args.mutagenesis is not None:
        # Before anything is written: a mistyped region must not claim the folder.
        region = read_region(genome, args.mutagenesis, args.window)

    device = args.device or (str(state.device) if state.device.type == "cuda" else None)
    model = load_language_model(args.model, device)
    check_dna(model, "variants")
    if args.window > model.config.max_seq_len:
        raise InputError(
            f"window is {args.window}, but the model reads at most max_seq_len={model.config.max_seq_len}"
        )
    # Checked twice: before the model is loaded, which may take minutes, and with its weights.
    settings["weights"] = checksum_of(model)
    _check_folder(output, settings)
    state.wait_for_everyone()
    with ExitStack() as at_end:
        if state.is_main_process:
            at_end.enter_context(locked(output))
            remove_unfinished(output / "parts")
            write_json(output / SETTINGS_FILE, settings)
        state.wait_for_everyone()
        options = {"batch_size": args.batch_size}
        if region is None:
            options |= {"window": args.window, "share_prefix": args.share_prefix}
            run_vcf(model, genome, args.vcf, records, output, **options)
        elif state.is_main_process:
            run_mutagenesis(model, genome, region, output, **options)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
