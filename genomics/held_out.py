"""Training, validation and test windows that share no base.

    from hyenadna.genomics.fasta import open_genomes
    from hyenadna.genomics.held_out import split_windows
    genomes = open_genomes(["hg38.fa"])
    parts = split_windows(genomes, window=1024, validation=["chr20"], test=["chr21:0-20,000,000", "chr22"])
    parts["train"]                                           # `Intervals`: file, sequence, start, end

Held-out regions are taken out of the training data first. The rest is then cut into windows.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyenadna.errors import InputError

from .fasta import SequenceFile
from .files import PARTS
from .intervals import (
    Intervals,
    centre,
    merge,
    overlapping,
    read_bed,
    read_regions,
    subtract,
    tile,
    whole_sequences,
)
from .letters import SOFT_MASKED, is_exact

__all__ = ["count_bases", "last_bases", "split_windows"]

_ONCE = 2**23  # bases to count at a time: their running sums take 64 MiB


def split_windows(
    genomes: list[SequenceFile],
    window: int,
    *,
    bed: Sequence[str | Path] = (),
    bed_windows: str = "centre",
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
    validation_fraction: float = 0.05,
    ignore_soft_masked: bool = False,
) -> dict[str, Intervals]:
    """Cut genomes into windows of at most `window` bases, in parts that share no base.

    Args:
        genomes: From `open_genomes`.
        window: The longest window in bases, without `[SEP]`.
        bed: One BED file for each genome. Without any, all chromosomes are used whole.
        bed_windows: `"centre"` puts one window around the centre of each interval, as published.
            `"tile"` cuts each interval into windows; where intervals overlap, each base comes once.
        validation: Held-out chromosomes, regions or BED files; see `read_regions`. A BED file or
            table with a split column may name one part and these arguments the other.
        test: Likewise.
        validation_fraction: If nothing is held out for validation, the last bases of each file
            are: this fraction of its training bases.
        ignore_soft_masked: Lower-case letters are not targets.

    Returns:
        The windows of `train`, `validation` and, if there are any, `test`, in the order of the
        files. Windows without a target (an A, C, G or T) are left out. Held-out regions are always
        tiled.

    Raises:
        InputError: An interval does not fit its genome, a part is empty, or parts overlap.

    >>> split_windows(open_genomes(["g.fa"]), 8, validation=["chrX"])       # doctest: +SKIP
    {'train': Intervals(...), 'validation': Intervals(...)}
    """
    _check_settings(genomes, window, bed, bed_windows)
    # Two sources name parts: the arguments (held out) and split columns of the data (listed).
    held_out = {
        "validation": read_regions(validation, genomes, "validation"),
        "test": read_regions(test, genomes, "test"),
    }
    listed = _listed_parts(genomes, window, bed, bed_windows, held_out)

    # By fraction only now: the last bases are those of what neither the test regions nor the test
    # split of the data have taken.
    by_fraction = not len(listed["validation"]) and not len(held_out["validation"])
    if by_fraction:
        taken = Intervals.joined([held_out["test"], listed["test"]])
        free = subtract(merge(listed["train"]), taken)
        held_out["validation"] = _last_fraction(free, validation_fraction)
    _check_held_out(held_out, genomes)

    parts = {
        "train": _training_windows(listed["train"], Intervals.joined(held_out.values()), window, bool(bed)),
        "validation": tile(Intervals.joined([listed["validation"], merge(held_out["validation"])]), window),
        "test": tile(Intervals.joined([listed["test"], merge(held_out["test"])]), window),
    }
    has_test = bool(len(test) or len(listed["test"]))
    for part in PARTS:
        parts[part], has_targets = _with_targets(genomes, parts[part], ignore_soft_masked)
        if not has_targets and (part != "test" or has_test):
            fraction = validation_fraction if by_fraction and part == "validation" else None
            raise InputError(_empty_message(part, fraction, ignore_soft_masked))
    # Last, because only the final windows tell: `centre` may have widened an interval of one part
    # into one of another.
    _check_disjoint(parts, genomes, window)
    if not len(parts["test"]):
        del parts["test"]
    return parts


# ---------------------------------------------------------------------------------------- the steps


def _check_settings(
    genomes: list[SequenceFile], window: int, bed: Sequence[str | Path], bed_windows: str
) -> None:
    if window < 1:
        raise InputError(f"window is {window}; it must be at least 1")
    if bed_windows not in ("centre", "tile"):
        raise InputError(f"bed_windows is {bed_windows!r}; use 'centre' or 'tile'")
    if bed and len(bed) != len(genomes):
        raise InputError(
            f"{len(bed)} BED files for {len(genomes)} data files; give one for each, in the same order"
        )


def _listed_parts(
    genomes: list[SequenceFile],
    window: int,
    bed: Sequence[str | Path],
    bed_windows: str,
    held_out: dict[str, Intervals],
) -> dict[str, Intervals]:
    """Return what the data list for each part. Without a split column, everything is `train`.

    Intervals of BED files become windows at once, because a window may be wider than its interval,
    and the held-out regions have to be compared with what is read.
    """
    chosen: dict[str, list[Intervals]] = {part: [] for part in PARTS}
    whole = whole_sequences(genomes)
    for file, genome in enumerate(genomes):
        if bed:
            intervals, names = read_bed(bed[file], genomes, file)
            source = str(bed[file])
        else:
            intervals = whole[whole.file == file]
            names = genome.parts and [genome.parts[i] for i in intervals.sequence]
            source = genome.path

        # A part may be named by the data or by the arguments, not by both.
        for part, of_part in _by_part(intervals, names).items():
            if len(of_part) and len(held_out.get(part, ())):
                raise InputError(f"{source} has splits that name {part}; leave out {part}")
            if bed and bed_windows == "centre":
                of_part = centre(of_part, window, genomes)
            elif bed:
                of_part = tile(merge(of_part), window)
            chosen[part].append(of_part)
    return {part: Intervals.joined(tables) for part, tables in chosen.items()}


def _by_part(intervals: Intervals, names: list[str] | None) -> dict[str, Intervals]:
    if names is None:
        return {"train": intervals}
    part_of_row = np.array(names)
    return {part: intervals[part_of_row == part] for part in PARTS}


def _last_fraction(free: Intervals, fraction: float) -> Intervals:
    if not 0 < fraction < 1:
        raise InputError(f"validation_fraction is {fraction}; it must lie between 0 and 1")
    return last_bases(free, fraction)


def _check_held_out(held_out: dict[str, Intervals], genomes: list[SequenceFile]) -> None:
    # What the user named, compared before windows are made: the message can name the regions.
    clash = overlapping(held_out["validation"], held_out["test"])
    if clash.any():
        name = held_out["validation"].name(int(clash.argmax()), genomes)
        raise InputError(f"validation and test overlap: {name} of validation shares bases with test")


def _training_windows(listed: Intervals, held_out: Intervals, window: int, from_bed: bool) -> Intervals:
    """Return the windows of `listed` without the held-out regions."""
    if not from_bed:
        return tile(subtract(listed, held_out), window)

    # A window around an interval is kept whole or dropped. Trimmed, it would no longer have the
    # interval in its middle.
    leaks = overlapping(listed, held_out)
    if leaks.any():
        print(f"{leaks.sum():,} of {len(leaks):,} BED windows overlap held-out regions and are left out")
    return tile(listed[~leaks], window)


def _with_targets(
    genomes: list[SequenceFile], windows: Intervals, ignore_soft_masked: bool
) -> tuple[Intervals, bool]:
    """Return the windows with at least one base, sorted, and whether any base has a prediction."""
    windows = windows.in_order()
    counts = count_bases(genomes, windows, ignore_soft_masked)
    kept = windows[counts > 0]
    if counts.max(initial=0) >= 2:
        return kept, True

    # The first base of a window has no prediction. If no window has two bases, look whether all of
    # them are first ones: the loss would be a mean over nothing.
    counts = count_bases(genomes, windows.at(windows.start + 1, windows.end), ignore_soft_masked)
    return kept, bool(counts.any())


def _empty_message(part: str, fraction: float | None, ignore_soft_masked: bool) -> str:
    letters = "upper-case A, C, G or T (soft_masked is 'ignore')" if ignore_soft_masked else "A, C, G or T"
    message = f"the {part} part is empty: no window of it has an {letters} after its first base"
    if fraction is None:
        return message
    return (
        f"{message}. It is the last {fraction:.3g} of the training bases of each file: name regions by "
        f"validation, or take a larger validation_fraction"
    )


def _check_disjoint(parts: dict[str, Intervals], genomes: list[SequenceFile], window: int) -> None:
    for part, other in itertools.combinations(PARTS, 2):
        shared = overlapping(parts[part], parts[other])
        if not shared.any():
            continue
        first = int(shared.argmax())
        file = genomes[parts[part].file[first]]
        raise InputError(
            f"{shared.sum():,} {part} windows share bases with {other} windows, the first is "
            f"{parts[part].name(first, genomes)} of {file.path}. Intervals of BED files are widened to "
            f"{window} bases: use a shorter window, or intervals further apart"
        )


# -------------------------------------------------------------------------------------------- bases


def last_bases(regions: Intervals, fraction: float) -> Intervals:
    """Return the last `fraction` of the bases of each file, cut off from its end.

    >>> last_bases(Intervals.of([(0, 0, 0, 10), (0, 1, 0, 10)]), 0.6).tolist()
    [[0, 1, 0, 10], [0, 0, 8, 10]]
    """
    chosen = []
    for file in np.unique(regions.file):
        of_file = regions[regions.file == file].in_order()
        missing = round(fraction * of_file.lengths.sum())
        for _, sequence, start, end in reversed(of_file.tolist()):
            bases = min(missing, end - start)
            if bases:
                chosen.append((file, sequence, end - bases, end))
            missing -= bases
    return Intervals.of(chosen)


def count_bases(
    genomes: list[SequenceFile], windows: Intervals, upper_case: bool = False
) -> npt.NDArray[np.int64]:
    """Return how many A, C, G and T each window has, int64 `(windows,)`.

    Of another alphabet: how many letters that stand for themselves alone.

    This is also where every letter is checked, before any work is done with it.

    Args:
        genomes: From `open_genomes`.
        windows: They may overlap; each base is read once.
        upper_case: Count upper-case letters only.

    Raises:
        InputError: A character is no letter of the alphabet. The message names the file and the
            line.

    >>> count_bases(genomes, Intervals.of([(0, 0, 0, 8)])).tolist()         # doctest: +SKIP
    [8]
    """
    # The span of each sequence: from its first window to its last. File and sequence make one key,
    # so that `unique` groups the windows in one call.
    keys, row = np.unique((windows.file << 32) + windows.sequence, return_inverse=True)
    first = np.full(len(keys), np.iinfo(np.int64).max)
    last = np.zeros(len(keys), dtype=np.int64)
    np.minimum.at(first, row, windows.start)
    np.maximum.at(last, row, windows.end)
    spans = Intervals(keys >> 32, keys & (2**32 - 1), first, last)

    # Prefix sums: lay the spans end to end on one axis, and count the bases before each start and
    # each end of a window. A window has the difference of the two. So the genome is read once, a
    # piece at a time, however much the windows overlap.
    shift = spans.lengths.cumsum() - last
    ends = np.stack([windows.start, windows.end], axis=1) + shift[row, None]
    places, index = np.unique(ends, return_inverse=True)
    before = np.zeros(len(places), dtype=np.int64)
    position = 0
    total = 0
    # By id, soft-masking included: one lookup for each piece.
    counts = np.tile(is_exact(genomes[0].alphabet), 2)
    if upper_case:
        counts[SOFT_MASKED:] = False
    for letters in _read_in_groups(genomes, tile(spans, _ONCE)):
        sums = np.concatenate([[0], np.cumsum(counts[letters])])
        inside = slice(*np.searchsorted(places, [position, position + len(letters) + 1]))
        before[inside] = total + sums[places[inside] - position]
        position += len(letters)
        total += int(sums[-1])
    index = index.reshape(-1, 2)
    return before[index[:, 1]] - before[index[:, 0]]


def _read_in_groups(genomes: list[SequenceFile], pieces: Intervals):
    """Yield the ids of these pieces, uint8 `(bases,)`, about `_ONCE` bases at a time.

    Thousands of short scaffolds would otherwise cost a round of numpy calls each.
    """
    group = (pieces.lengths.cumsum() - pieces.lengths) // _ONCE
    first_of_group = np.flatnonzero(np.diff(group)) + 1
    for start, end in itertools.pairwise([0, *first_of_group.tolist(), len(pieces)]):
        texts = []
        for file, sequence, first, last in pieces[start:end].tolist():
            ids = genomes[file].read(sequence, first, last)
            genomes[file].check_letters(sequence, first, ids)
            texts.append(ids)
        yield np.frombuffer(b"".join(texts), np.uint8)
