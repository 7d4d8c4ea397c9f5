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

    from hyenadna.analysis import variant_effects
    variant_effects(model, ["chr20:1000001:A:G"], "hg38.fa")                  # a row per allele
"""

import argparse
import csv
import math
import re
import time
import warnings
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TextIO

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
from hyenadna.flags import CommandParser
from hyenadna.genomics.fasta import SequenceFile, open_genomes
from hyenadna.genomics.files import is_compressed
from hyenadna.genomics.intervals import merge, read_regions
from hyenadna.genomics.letters import ID_OF_BYTE, UNK, encode, pad, reverse_complement
from hyenadna.genomics.vcf import check_vcf, vcf_lines, vcf_records, write_vcf
from hyenadna.training.runs.files import write_json
from hyenadna.training.runs.folder import SETTINGS_FILE
from hyenadna.training.runs.outputs import inert, locked, remove_unfinished, whole_file
from hyenadna.training.runs.shards import Parts, changed_settings, read_earlier_settings, share

from .likelihoods import target_log_probabilities
from .models import LANGUAGE, ModelOrName, borrowed, check_dna
from .mutations import mutagenesis, read_region, run_mutagenesis

__all__ = ["COLUMNS", "main", "mutagenesis", "run_vcf", "score_variants", "skip_reason", "variant_effects"]

_BASES = re.compile("[ACGT]+")
_SPELLED = re.compile(r"([^\s:]+):(\d+):([A-Za-z]+):([A-Za-z]+)")  # chr20:1000001:A:G
_BREAKEND = re.compile(r"[\[\].]")
_RECORDS_PER_PART = 256
_BATCH_SIZE = 32
_WINDOW = 1024
_LOCAL = 32  # bases after an allele, in reading direction, that `distance_local` averages with it

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
_DISTANCES = ("distance", "distance_at", "distance_local")
_TEXTS = ["chrom", "id", "ref", "alt"]
_NUMBERS = [
    "llr",
    "llr_forward",
    "llr_reverse",
    "llr_per_base",
    "distance",
    "distance_at",
    "distance_local",
]
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
    "llr_per_base",
    "distance",
    "distance_at",
    "distance_local",
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


def variant_effects(
    model: ModelOrName,
    variants: str | Path | pd.DataFrame | Sequence[str | Sequence],
    genome: str | Path | SequenceFile,
    *,
    window: int | None = None,
    regions: str | Sequence[str] | None = None,
    share_prefix: bool = False,
    batch_size: int = _BATCH_SIZE,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Return the effects of alternative alleles: log-likelihood ratios and distances.

    Args:
        model: A language model, a folder, or an id on the Hub. An object is left unchanged.
        variants: A VCF (plain, gzip or bgzip); a table with the columns `chrom`, `pos`, `ref` and
            `alt`, perhaps `id`; or a list of `"chr20:1000001:A:G"` or of `(chrom, pos, ref, alt)`.
            `pos` counts from 1, as in a VCF.
        genome: A FASTA file (plain, bgzip or gzip).
        window: The bases that the model reads around a variant; by default 1,024, or what it can.
        regions: Only variants that overlap these: `"chr20:0-100,000"` (from 0, the end not
            included), a BED file, or a list of them. Others are skipped.
        share_prefix: Read what comes before a variant only once for both alleles. Faster, and equal
            except for rounding.
        batch_size: Windows in one batch.
        device: Where to compute. By default an object stays where it is, and a loaded model goes to
            the GPU if there is one.
        progress: Show a progress bar.

    Returns:
        A row for each alternative allele, in order:

        - `line` (number of the record, from 0), `chrom`, `pos` (from 1), `id`, `ref`, `alt`;
        - `llr`: the log-likelihood of the window with the allele minus that with the reference, in
          nats, the mean of `llr_forward` and `llr_reverse`. Below 0, the allele is less likely;
        - `llr_per_base`: the same for the mean log-probability of a base, which the length of an
          insertion or deletion changes less;
        - `distance`: 1 - cosine of the mean embeddings of the two windows, from 0 to 2. A single
          base hardly moves it: see `distance_at`, of the embeddings at the last base of the allele,
          and `distance_local`, of their means over the allele and 32 bases after it;
        - `skip`: why there is no score, or an empty text.

    Raises:
        InputError: The model is no language model, or the variants or the genome cannot be read.

    Warns:
        UserWarning: Many REF are not what the genome has.

    >>> variant_effects(model, ["chr20:1000001:A:G"], "hg38.fa")            # doctest: +SKIP
    """
    file = genome if isinstance(genome, SequenceFile) else open_genomes([genome])[0]
    inside = None if regions is None else RegionFilter(file, regions)
    records = _records_of(variants)
    rows = []
    check_dna(model, "variant_effects")
    with borrowed(model, LANGUAGE, "variant_effects", device) as lm:
        window = checked_window(lm, window)
        parts = range(0, len(records), _RECORDS_PER_PART)
        for first in tqdm(parts, unit="part", disable=not progress):
            batch = records[first : first + _RECORDS_PER_PART]
            rows += _score_alleles(lm, file, batch, first, window, batch_size, share_prefix, inside)
    advice = _advice_on_mismatches(rows, file)
    if advice:
        warnings.warn(advice, stacklevel=2)
    return pd.DataFrame(rows, columns=COLUMNS)


def checked_window(model: HyenaDNAForCausalLM, window: int | None) -> int:
    """Return the window, or its default. Raise `InputError` if the model cannot read it."""
    longest = model.config.max_seq_len
    if window is None:
        return min(_WINDOW, longest)
    if not 2 <= window <= longest:
        raise InputError(f"window is {window}, but the model reads 2 to max_seq_len={longest:,} bases")
    return window


def _records_of(variants: str | Path | pd.DataFrame | Sequence[str | Sequence]) -> list[Sequence[str]]:
    """Return variants in any form as fields of VCF records: CHROM, POS, ID, REF, ALT.

    Raises:
        InputError: They are in another form, or a position is no whole number above 0.
    """
    if isinstance(variants, str | Path) and not _SPELLED.fullmatch(str(variants)):
        check_vcf(variants)
        return list(vcf_records(variants))
    if isinstance(variants, pd.DataFrame):
        missing = [name for name in ("chrom", "pos", "ref", "alt") if name not in variants]
        if missing:
            raise InputError(f"the table of variants lacks {missing}; it has {list(variants)}")
        ids = variants["id"] if "id" in variants else ["."] * len(variants)
        rows = zip(variants["chrom"], variants["pos"], ids, variants["ref"], variants["alt"], strict=True)
        return [_record(row) for row in rows]
    spelled = [variants] if isinstance(variants, str) else list(variants)
    records = []
    for variant in spelled:
        match = _SPELLED.fullmatch(variant) if isinstance(variant, str) else None
        fields = match.groups() if match else variant
        if isinstance(fields, str) or len(fields) != 4:
            raise InputError(
                f"variant {variant!r}: write 'chr20:1000001:A:G' or (chrom, pos, ref, alt), pos from 1"
            )
        chrom, pos, ref, alt = fields
        records.append(_record((chrom, pos, ".", ref, alt)))
    return records


def _record(fields: Sequence) -> list[str]:
    texts = [str(field) for field in fields]
    if not texts[1].isdecimal() or int(texts[1]) < 1:
        raise InputError(
            f"variant {':'.join(texts)}: the position is {fields[1]!r}; it must be a whole number, counted "
            "from 1 as in a VCF"
        )
    return texts


def _advice_on_mismatches(rows: list[dict], genome: SequenceFile) -> str:
    """Return what to say if many REF are not what the genome has, or an empty text.

    The usual reasons: another genome build, or positions that were counted from 0.
    """
    wrong = [row for row in rows if row["skip"].startswith("REF_mismatch")]
    if len(wrong) < max(1, len(rows) / 10):
        return ""
    fits_next = 0
    for row in wrong:
        sequence = genome.number_of(row["chrom"])
        # `pos` is where REF would be if `pos` had been counted from 0.
        there = genome.letters(sequence, row["pos"], row["pos"] + len(row["ref"]))
        fits_next += there.upper() == row["ref"].upper()
    advice = (
        f"{len(wrong)} of {len(rows)} alleles are skipped: their REF is not what {genome.path} has there. "
    )
    if fits_next > 0.8 * len(wrong):
        return advice + "It is one base further on: are these positions counted from 0? A VCF counts from 1"
    return advice + "Another genome build?"


class RegionFilter:
    """Tells whether a stretch overlaps one of some regions.

    Args:
        genome: The genome.
        regions: See `read_regions`.
    """

    def __init__(self, genome: SequenceFile, regions: str | Sequence[str]):
        specs = [regions] if isinstance(regions, str) else list(regions)
        self.intervals = merge(read_regions(specs, [genome], "regions"))
        # Merged, they are in order and do not overlap, so the last one that starts before the end
        # of a stretch is the only one that may overlap it.
        self._of_sequence: dict[int, tuple[list[int], list[int]]] = {}
        for _, sequence, start, end in self.intervals.tolist():
            starts, ends = self._of_sequence.setdefault(sequence, ([], []))
            starts.append(start)
            ends.append(end)

    def overlaps(self, sequence: int | None, start: int, end: int) -> bool:
        """Return whether [start, end) of a sequence, from 0, shares a base with a region."""
        if sequence not in self._of_sequence:
            return False
        starts, ends = self._of_sequence[sequence]
        before = bisect_left(starts, end) - 1
        return before >= 0 and ends[before] > start


def _score_alleles(
    model: HyenaDNAForCausalLM,
    genome: SequenceFile,
    records: Sequence[Sequence[str]],
    first: int,
    window: int,
    batch_size: int,
    share_prefix: bool,
    inside: RegionFilter | None = None,
) -> list[dict]:
    """Return the rows of `score_variants` as dicts: a pandas table for each part takes longer."""
    rows = []
    scored = []
    readings = []  # for each scored allele two, one per strand
    for row, sequence in _alleles_of(records, genome, first):
        rows.append(row)
        position = row["pos"] - 1
        ref = row["ref"].upper()
        alt = row["alt"].upper()
        if inside is not None and not inside.overlaps(sequence, position, position + len(ref)):
            row["skip"] = "outside_of_regions"
            continue
        row["skip"] = skip_reason(genome, sequence, position, ref, alt, window)
        if row["skip"]:
            continue
        before, after = surroundings(genome, sequence, position, ref, alt, window)
        if UNK in (before + after).encode().translate(ID_OF_BYTE):
            row["skip"] = "no_nucleotide_in_window"
            continue
        scored.append(row)
        readings += readings_of(before, after, ref, alt)

    # A part may have none: on a contig that the FASTA does not have, or with symbolic alleles only.
    if scored:
        _add_scores(scored, *score_readings(model, readings, batch_size, share_prefix))
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


class Reading(NamedTuple):
    """A variant as the model reads it on one strand.

    Attributes:
        before: The bases before the variant. On the reverse strand they are those that follow it on
            the forward strand.
        alleles: The reference and the alternative.
        after: The bases after it.
    """

    before: str
    alleles: tuple[str, str]
    after: str


class Readout(NamedTuple):
    """What the model says about the two alleles of n readings.

    Attributes:
        totals: Log-likelihoods, float64 `(n, 2)`; from a shared prefix on, or of whole windows.
        bases: The number of scored bases of the whole windows, int64 `(n, 2)`.
        vectors: Mean of the last hidden states, float64 `(n, 2, 3, d_model)`: over the window; at
            the last base of the allele; over the allele and the `_LOCAL` bases after it.
    """

    totals: np.ndarray
    bases: np.ndarray
    vectors: np.ndarray


def readings_of(before: str, after: str, ref: str, alt: str) -> list[Reading]:
    """Return a variant as it is read on the forward and on the reverse strand.

    >>> readings_of("AC", "G", "T", "TA")[1]
    Reading(before='C', alleles=('A', 'TA'), after='GT')
    """
    reverse = Reading(
        reverse_complement(after),
        (reverse_complement(ref), reverse_complement(alt)),
        reverse_complement(before),
    )
    return [Reading(before, (ref, alt), after), reverse]


def score_readings(
    model: HyenaDNAForCausalLM, readings: list[Reading], batch_size: int, share_prefix: bool
) -> Readout:
    """Read both alleles of each reading, in full passes or from a shared prefix on."""
    read = score_continuations if share_prefix else score_windows
    totals, vectors = read(model, readings, batch_size)
    bases = np.array([[_scored_bases(r.before + allele + r.after) for allele in r.alleles] for r in readings])
    return Readout(totals, bases, vectors)


def _scored_bases(text: str) -> int:
    # The first base has no context.
    return sum(text.count(base, 1) for base in "ACGT")


def _add_scores(rows: list[dict], totals: np.ndarray, bases: np.ndarray, vectors: np.ndarray) -> None:
    """Write the scores into the rows of n alleles.

    Args:
        rows: Their rows.
        totals: Those of a `Readout` of 2 n readings; forward and reverse strand alternate.
        bases: Likewise.
        vectors: Likewise.
    """
    totals = totals.reshape(len(rows), 2, 2)
    strands = (totals[:, :, 1] - totals[:, :, 0]).tolist()
    # The mean over the window's bases: an insertion adds bases, each of which makes a sum smaller.
    means = (totals / bases.reshape(totals.shape).clip(1)).mean(1)
    per_base = (means[:, 1] - means[:, 0]).tolist()
    # A causal model sees only one side of a base. Adding both strands covers both sides.
    vectors = vectors.reshape(len(rows), 2, 2, 3, -1).sum(1)
    ref = vectors[:, 0]
    alt = vectors[:, 1]
    norms = np.sqrt((ref * ref).sum(-1)) * np.sqrt((alt * alt).sum(-1))
    distances = (1 - (ref * alt).sum(-1) / norms).tolist()
    for row, (forward, reverse), mean, distance in zip(rows, strands, per_base, distances, strict=True):
        row["llr_forward"] = forward
        row["llr_reverse"] = reverse
        row["llr"] = (forward + reverse) / 2
        row["llr_per_base"] = mean
        row.update(zip(_DISTANCES, distance, strict=True))


# ------------------------------------------------------------------------------ windows


def _token_ids(sequences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids `(n, longest)`, padded on the right, and lengths `(n,)`."""
    tokens, lengths = pad([encode(sequence) for sequence in sequences])
    return torch.from_numpy(tokens), torch.from_numpy(lengths)


def _vectors(hidden: torch.Tensor, first: list[int], last: list[int], length: torch.Tensor) -> torch.Tensor:
    """Return the states at and around the alleles of a batch, float64 `(batch, 2, d_model)`.

    Args:
        hidden: The last hidden states `(batch, length, d_model)`.
        first: The position of each allele's first base.
        last: The position of its last base.
        length: The number of positions that are no pads `(batch,)`.
    """
    device = hidden.device
    start = torch.tensor(first, device=device)[:, None]
    end = torch.tensor(last, device=device)[:, None]
    position = torch.arange(hidden.shape[1], device=device)
    stop = torch.minimum(end + _LOCAL, length.to(device)[:, None] - 1)
    is_at = position == end
    is_local = (position >= start) & (position <= stop)
    weights = torch.stack([is_at, is_local], dim=1).to(hidden.dtype)
    # As a product, it makes no copy of `hidden`.
    sums = torch.bmm(weights, hidden).double()
    return sums / weights.double().sum(2, keepdim=True)


@torch.no_grad()
def score_windows(
    model: HyenaDNAForCausalLM, readings: list[Reading], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log-likelihoods and vectors of both alleles' windows, by full passes.

    Returns:
        The `totals` and `vectors` of a `Readout`.
    """
    windows = []
    for before, alleles, after in readings:
        windows += [(before + allele + after, len(before), len(allele)) for allele in alleles]
    # Alternatives of one record have the same reference window. Read each different window once.
    number = {window: i for i, window in enumerate(dict.fromkeys(windows))}
    different = list(number)
    totals = np.zeros(len(different))
    vectors = np.zeros((len(different), 3, model.config.d_model))
    # Only sequences of the same length share a batch. Padding would change the lengths of the
    # transforms, and so the rounding: a score would depend on its neighbours in the VCF.
    by_length = sorted(range(len(different)), key=lambda i: len(different[i][0]))
    for _, group in groupby(by_length, key=lambda i: len(different[i][0])):
        same_length = list(group)
        for start in range(0, len(same_length), batch_size):
            rows = same_length[start : start + batch_size]
            texts, first, count = zip(*(different[i] for i in rows), strict=True)
            ids, lengths = _token_ids(list(texts))
            ids = ids.to(model.device)
            hidden = model.hyena(ids).last_hidden_state
            totals[rows] = target_log_probabilities(model, hidden, ids).double().sum(1).cpu().numpy()
            last = [at + size - 1 for at, size in zip(first, count, strict=True)]
            vectors[rows, 0] = hidden.double().mean(1).cpu().numpy()
            vectors[rows, 1:] = _vectors(hidden, list(first), last, lengths).cpu().numpy()
    index = np.array([number[window] for window in windows]).reshape(-1, 2)
    return totals[index], vectors[index]


@torch.no_grad()
def score_continuations(
    model: HyenaDNAForCausalLM, readings: list[Reading], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Do the same, reading what is before a variant only once for both alleles.

    A prefix adds the same to both log-likelihoods, so their difference is that of whole windows,
    except for rounding: a sum of 1,000 float32 log-probabilities is good to about 1e-5.

    Returns:
        The `totals`, of which only differences count, and `vectors` of a `Readout`.
    """
    totals = np.zeros((len(readings), 2))
    vectors = np.zeros((len(readings), 2, 3, model.config.d_model))
    # The prefixes of a batch go into one cache, so they must have the same length: cut them to the
    # shortest, and give the rest to the continuations. Sorted, little is left over to read twice.
    by_length = sorted(
        range(len(readings)), key=lambda i: (len(readings[i].before), _longest_end(readings[i]))
    )
    readings_at_a_time = max(1, batch_size // 2)
    for start in range(0, len(by_length), readings_at_a_time):
        numbers = by_length[start : start + readings_at_a_time]
        total, vector = _score_ends(model, [readings[i] for i in numbers])
        totals[numbers] = total.view(-1, 2).cpu().numpy()
        vectors[numbers] = vector.view(len(numbers), 2, 3, -1).cpu().numpy()
    return totals, vectors


def _longest_end(reading: Reading) -> int:
    return max(map(len, reading.alleles)) + len(reading.after)


def _score_ends(model: HyenaDNAForCausalLM, readings: list[Reading]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-likelihoods of both alleles' ends, and vectors of their windows.

    The shortest prefix is shared; what the others have more belongs to their ends.

    Returns:
        float64 `(2 n,)` and `(2 n, 3, d_model)`.
    """
    shortest = min(len(reading.before) for reading in readings)
    ends = []
    first = []
    last = []
    for before, alleles, after in readings:
        for allele in alleles:
            ends.append(before[shortest:] + allele + after)
            first.append(len(before) - shortest)
            last.append(len(before) - shortest + len(allele) - 1)
    ids, lengths = _token_ids(ends)
    ids = ids.to(model.device)
    rows = torch.arange(len(readings), device=model.device).repeat_interleave(2)
    is_inside = (torch.arange(ids.shape[1]) < lengths[:, None]).float().to(model.device)

    total = 0
    embedding = 0
    if shortest:
        cache = DynamicCache(config=model.config)
        beginning, _ = _token_ids([reading.before[:shortest] for reading in readings])
        read = model.hyena(beginning.to(model.device), past_key_values=cache).last_hidden_state
        # The last position of the beginning predicts the first base of each end. The padded 0 only
        # moves that base to the place where `target_log_probabilities` expects a target.
        before_end = read[rows, -1:].expand(-1, 2, -1)
        total = target_log_probabilities(model, before_end, F.pad(ids[:, :1], (1, 0))).double().sum(1)
        embedding = read.double().sum(1)[rows]
        with branches(cache, rows):
            hidden = model.hyena(ids, past_key_values=cache).last_hidden_state
    else:
        hidden = model.hyena(ids).last_hidden_state

    total = total + target_log_probabilities(model, hidden, ids).double().sum(1)
    # The sum over the positions that are no pads, as a product: it makes no copy of `hidden`.
    embedding = embedding + torch.bmm(is_inside[:, None].to(hidden.dtype), hidden)[:, 0].double()
    whole = (lengths[:, None] + shortest).to(model.device)
    around = _vectors(hidden, first, last, lengths)
    return total, torch.cat([(embedding / whole)[:, None], around], dim=1)


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
    if counts["REF_mismatch"] > (scored + counts.total()) / 10:
        lines.append("  Many REF are not in the FASTA: another genome build, or positions counted from 0?")
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
    inside: RegionFilter | None = None,
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
        inside: The regions whose variants are scored; None for all.
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
            rows = _score_alleles(model, genome, batch, first, window, batch_size, share_prefix, inside)
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
    parser = CommandParser(
        "variants",
        "Log-likelihood of alternative against reference alleles, or of all substitutions in a region.",
        example="hyenadna variants --model pretrained --vcf calls.vcf --fasta hg38.fa --output_dir effects",
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a language model")
    parser.add_argument("--fasta", required=True, help="the genome, plain or bgzip")
    parser.add_argument("--vcf", help="variants, plain, gzip or bgzip")
    parser.add_argument(
        "--mutagenesis", help="instead of a VCF: a region (from 0, half-open), such as chr20:1000-1200"
    )
    parser.add_argument("--output_dir", required=True, help="folder for everything that the run writes")
    parser.add_argument("--window", type=int, default=_WINDOW, help="bases around a variant to read")
    parser.add_argument("--batch_size", type=int, default=_BATCH_SIZE, help="windows in one batch")
    parser.add_argument(
        "--share_prefix",
        action="store_true",
        help=(
            "read what is before a variant once for both alleles: faster, equal but for rounding (about 1e-5)"
        ),
    )
    parser.add_argument(
        "--regions", nargs="+", help="score only variants in these: a BED file, chr20, or chr20:0-100,000"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1; the GPU if there is one")
    return parser


def _check_arguments(args: argparse.Namespace) -> None:
    if (args.vcf is None) == (args.mutagenesis is None):
        raise InputError("give either --vcf or --mutagenesis")
    if args.window < 2 or args.batch_size < 1:
        raise InputError(
            f"window is {args.window} and batch_size {args.batch_size}; at least 2 and 1 are needed"
        )
    if args.mutagenesis is not None and args.regions:
        raise InputError("--regions choose variants of a VCF; leave them out with --mutagenesis")
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
    inside = None
    if args.regions:
        inside = RegionFilter(genome, args.regions)
        settings["regions"] = [*args.regions, zlib.crc32(inside.intervals.tobytes())]
    _check_folder(output, settings)
    region = None
    if args.mutagenesis is not None:
        # Before anything is written: a mistyped region must not claim the folder.
        region = read_region(genome, args.mutagenesis, args.window)

    device = args.device or (str(state.device) if state.device.type == "cuda" else None)
    with ExitStack() as at_end:
        check_dna(args.model, "variants")
        model = at_end.enter_context(borrowed(args.model, LANGUAGE, "variants", device))
        checked_window(model, args.window)
        # Checked twice: before the model is loaded, which may take minutes, and with its weights.
        settings["weights"] = checksum_of(model)
        _check_folder(output, settings)
        state.wait_for_everyone()
        if state.is_main_process:
            at_end.enter_context(locked(output))
            remove_unfinished(output / "parts")
            write_json(output / SETTINGS_FILE, settings)
        state.wait_for_everyone()
        options = {"batch_size": args.batch_size}
        if region is None:
            options |= {"window": args.window, "share_prefix": args.share_prefix, "inside": inside}
            run_vcf(model, genome, args.vcf, records, output, **options)
        elif state.is_main_process:
            run_mutagenesis(model, genome, region, output, **options)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
