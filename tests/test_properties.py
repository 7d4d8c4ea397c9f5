"""Readers and interval algebra against a slow, obvious second implementation, on inputs that
`hypothesis` makes up.

The inputs are the same in every run. To look further:

    EXAMPLES=5000 python -m pytest tests/test_properties.py --hypothesis-seed=7
"""

import gzip
import os
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyenadna.analysis.variants import ADDED, annotated
from hyenadna.errors import InputError
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.intervals import (
    Intervals,
    centre,
    merge,
    overlapping,
    read_bed,
    read_regions,
    subtract,
    tile,
)
from hyenadna.genomics.labelled import read_labelled_data
from hyenadna.genomics.sources import read_parts
from hyenadna.genomics.vcf import check_vcf, vcf_lines, vcf_records, write_vcf

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
property_based = settings(
    max_examples=EXAMPLES or 80,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,  # of one example: the machine may be busy
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One folder for all examples of a test, which write over each other."""
    return tmp_path_factory.mktemp("properties")


# ------------------------------------------------------------------------------ interval algebra


def rows_up_to(longest: int, most: int = 10):
    row = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, longest), st.integers(1, 12))
    return st.lists(row.map(lambda r: [r[0], r[1], r[2], r[2] + r[3]]), max_size=most)


def bases(rows) -> set[tuple[int, int, int]]:
    return {(file, sequence, i) for file, sequence, start, end in rows for i in range(start, end)}


def joined(rows) -> list[list[int]]:
    """Join two that share a base, until no two do."""
    rows = sorted(rows)
    for one in rows:
        for other in rows:
            if one is not other and bases([one]) & bases([other]):
                rest = [row for row in rows if row is not one and row is not other]
                return joined([*rest, [*one[:2], min(one[2], other[2]), max(one[3], other[3])]])
    return rows


@property_based
@given(rows_up_to(40))
def test_merge_joins_what_shares_a_base(rows):
    assert merge(Intervals.of(rows)).tolist() == joined(rows)


@property_based
@given(rows_up_to(40), rows_up_to(40))
def test_subtract_leaves_the_runs_of_uncovered_bases(regions, others):
    taken = bases(others)
    expected = []
    for file, sequence, start, end in regions:
        run = []
        for i in range(start, end + 1):
            if i < end and (file, sequence, i) not in taken:
                run.append(i)
            elif run:
                expected.append([file, sequence, run[0], run[-1] + 1])
                run = []
    assert subtract(Intervals.of(regions), Intervals.of(others)).tolist() == expected


@property_based
@given(rows_up_to(40), rows_up_to(40))
def test_overlapping_shares_a_base(rows, others):
    taken = bases(others)
    expected = [bool(bases([row]) & taken) for row in rows]
    assert overlapping(Intervals.of(rows), Intervals.of(others)).tolist() == expected


@property_based
@given(rows_up_to(40), st.integers(1, 15))
def test_tiles(rows, window):
    expected = []
    for file, sequence, start, end in rows:
        while start < end:
            expected.append([file, sequence, start, min(start + window, end)])
            start += window
    assert tile(Intervals.of(rows), window).tolist() == expected


@property_based
@given(rows_up_to(40), st.integers(1, 60))
def test_centres_are_windows_around_the_middle(rows, window):
    length = 52
    genomes = [SimpleNamespace(lengths=np.array([length] * 3))] * 2
    expected = []
    for file, sequence, start, end in rows:
        first = (start + end) // 2 - window // 2
        inside = [i for i in range(first, first + window) if 0 <= i < length]
        expected.append([file, sequence, inside[0], inside[-1] + 1])
    assert centre(Intervals.of(rows), window, genomes).tolist() == expected


# ------------------------------------------------------------------------------ regions and BED

NAMES = {"1": 30, "chr2": 25, "20": 9, "chr20": 12, "M": 7, "HLA:1-2": 20, "X": 5}


@pytest.fixture(scope="module")
def genomes(folder):
    text = "".join(f">{name} a chromosome\n{'ACGTN' * 6:.{length}}\n" for name, length in NAMES.items())
    (folder / "g.fa").write_text(text)
    return open_genomes([folder / "g.fa"])


def number_of(name: str) -> int | None:
    """Where a chromosome stands in the file; `chr` may be there or not."""
    names = list(NAMES)
    bare = name[3:] if name.startswith("chr") else name
    mitochondrial = ["MT", "M", "chrM", "chrMT"] if bare in ("M", "MT") else []
    for spelling in [name, bare, "chr" + bare, *mitochondrial]:
        if spelling in names:
            return names.index(spelling)
    return None


def number_in(text: str) -> int | None:
    digits = [letter for letter in text if letter != ","]
    if not digits or len(digits) > 15 or any(letter not in "0123456789" for letter in digits):
        return None
    value = 0
    for letter in digits:
        value = 10 * value + "0123456789".index(letter)
    return value


def row_or_none(name: str, start: int | None, end: int | None) -> list[int] | None:
    number = number_of(name)
    if number is None or start is None or end is None:
        return None
    if not 0 <= start < end <= list(NAMES.values())[number]:
        return None
    return [0, number, start, end]


def region_by_hand(text: str) -> list[int] | None:
    if text in NAMES:
        return row_or_none(text, 0, NAMES[text])
    name, colon, place = text.rpartition(":")
    start, dash, end = place.partition("-")
    if name and colon and dash and start and end and all(c.isdecimal() or c == "," for c in start + end):
        return row_or_none(name, number_in(start), number_in(end))
    number = number_of(text)
    return None if number is None else [0, number, 0, list(NAMES.values())[number]]


some_name = st.sampled_from([*NAMES, "chr1", "2", "chrX", "MT", "chrMT", "chr", "7", "HLA", "", "chrchr2"])
some_number = st.one_of(
    st.integers(0, 40).map(str), st.text("0123456789,-: \u0663x", max_size=4), st.just("9" * 16)
)
region_text = st.one_of(
    some_name,
    st.builds("{}:{}-{}".format, some_name, some_number, some_number),
    st.text("chr120XM:-, ", max_size=9),
)


@property_based
@given(region_text)
def test_regions_as_a_person_reads_them(genomes, text):
    expected = region_by_hand(text)
    try:
        rows = read_regions([text], genomes, "test").tolist()
    except InputError:
        rows = [None]
    assert rows == [expected]


bed_line = st.one_of(
    st.builds(
        "{1}{0}{2}{0}{3}{0}{4}".format,
        st.sampled_from(["\t", "\t", " ", "  "]),
        some_name,
        st.integers(0, 30).map(str),
        some_number,
        st.sampled_from(["train", "TEST", "dev", "gene", "", "a b"]),
    ),
    st.sampled_from(
        ["", "#comment", "track name=x", "browser position", "   ", "1\t0\t5", "1\t0", "1 2 \u2028"]
    ),
)


def bed_by_hand(lines: list[str]) -> tuple[list[list[int]], list[str] | None] | None:
    rows, names = [], []
    for line in lines:
        words = line.split()
        if not words or words[0].startswith("#") or words[0] in ("track", "browser"):
            continue
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else words
        if len(fields) < 3 or "," in fields[1] + fields[2]:
            return None
        row = row_or_none(fields[0], number_in(fields[1]), number_in(fields[2]))
        if row is None:
            return None
        rows.append(row)
        names.append(fields[3].lower() if len(fields) > 3 else "")
    parts = {"train": "train", "test": "test", "dev": "validation"}
    is_part = [name in parts for name in names]
    if not rows or (any(is_part) and not all(is_part)):
        return None
    return rows, [parts[name] for name in names] if any(is_part) else None


@property_based
@given(st.lists(bed_line, max_size=4), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_bed_line_by_line(genomes, folder, lines, end, packed):
    content = "".join(line + end for line in lines).encode()
    path = folder / "b.bed"
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        intervals, parts = read_bed(path, genomes, 0)
        found = intervals.tolist(), parts
    except InputError:
        found = None
    assert found == bed_by_hand(lines)


# ------------------------------------------------------------------------------ VCF

letters = st.text("ACGTacgt0;=,.<>\x0b\x0c\x1c\x85\u2028\r \ufeff\u00e9", max_size=5)
position = st.one_of(
    st.integers(0, 60).map(str), st.sampled_from(["x", "-1", "", "2147483647", "2147483648", "\u0663", "1_0"])
)
record_line = st.one_of(
    st.builds(
        lambda chrom, pos, fields: "\t".join([chrom, pos, *fields]),
        letters,
        position,
        st.lists(letters, min_size=3, max_size=9),
    ),
    st.lists(letters, max_size=9).map("\t".join),
)
good_record = st.builds(
    "{}\t{}\trs\tA\t{}\t.\tPASS\t{}".format,
    st.sampled_from(["1", "2"]),
    st.integers(1, 60),
    st.sampled_from(["C", "G,T", "<DEL>", "*"]),
    st.sampled_from([".", "AC=1", "END=50", "HYENA_LLR=1;AC=2", "AC=1;;HYENA_SKIP", ""]),
)
header_line = st.sampled_from(
    ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO", "#CHROM\tPOS", "##x=\u2028"]
)
vcf_text = st.lists(st.one_of(header_line, good_record, record_line), max_size=6)


HEADER = ["#CHROM", "POS", "ID", "REF"]


def vcf_by_hand(content: bytes) -> tuple[list[str], int] | None:
    """The lines, and the number of records; None for what is no VCF."""
    if content.startswith(b"\xef\xbb\xbf"):
        content = content[3:]
    if content and content[-1:] != b"\n":
        return None
    lines, has_header, records = [], False, 0
    while content:
        at = content.index(b"\n")
        try:
            line = content[:at].decode()
        except UnicodeDecodeError:
            return None
        content = content[at + 1 :]
        lines.append(line)
        if line[:1] == "#":
            names = line.split("\t")
            if names[:4] == HEADER and names[4:] and names[4][:3] == "ALT":
                has_header = True
            continue
        fields = line.split("\t")
        if not has_header or len(fields) < 8:
            return None
        value = None if "," in fields[1] or len(fields[1]) > 10 else number_in(fields[1])
        if value is None or value > 2147483647:
            return None
        records += 1
    return (lines, records) if has_header else None


PACKED = {"plain": lambda content: content, "gzip": gzip.compress}


@property_based
@given(
    vcf_text,
    st.sampled_from(["plain", "gzip", "bgzip"]),
    st.sampled_from(["", "\ufeff", "cut", "latin"]),
)
def test_vcf_line_by_line(folder, lines, packing, fault):
    content = "".join(line + "\n" for line in lines).encode()
    if fault == "\ufeff":
        content = fault.encode() + content
    if fault == "cut":
        content = content[:-1]
    if fault == "latin":
        content = content.replace("\u00e9".encode(), b"\xe9")
    path = folder / "x.vcf"
    if packing == "bgzip":
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(content)
    else:
        path.write_bytes(PACKED[packing](content))

    expected = vcf_by_hand(content)
    try:
        count, checksum = check_vcf(path)
    except InputError:
        assert expected is None
        return
    assert expected == (list(vcf_lines(path)), count)
    plain = content.removeprefix("\ufeff".encode())
    assert checksum == zlib.crc32(plain)
    assert list(vcf_records(path)) == [line.split("\t")[:8] for line in expected[0] if line[:1] != "#"]


def reach(line: str) -> range:
    """The positions of a record, from 0."""
    fields = line.split("\t")
    start = int(fields[1]) - 1
    end = start + len(fields[3])
    for item in fields[7].split(";"):
        if item.startswith("END="):
            end = max(end, int(item[4:]))
    return range(start, end)


@property_based
@given(st.lists(good_record, max_size=12), st.integers(0, 60), st.integers(1, 30))
def test_a_written_vcf_finds_its_records(folder, records, start, size):
    header = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    path = folder / "y.vcf.gz"
    written = write_vcf(path, [*header, *records])
    assert list(vcf_lines(path)) == [*header, *records]
    keys = [(line.split("\t")[0], int(line.split("\t")[1])) for line in records]
    positions = {name: [p for n, p in keys if n == name] for name, _ in keys}
    in_order = [(name, p) for name in dict.fromkeys(n for n, _ in keys) for p in sorted(positions[name])]
    assert (written.index is not None) == (keys == in_order)
    if written.index is None:
        return
    with pysam.TabixFile(str(path), index=str(written.index)) as file:
        for name in positions:
            expected = [
                line
                for line in records
                if line.startswith(f"{name}\t") and any(start <= i < start + size for i in reach(line))
            ]
            assert list(file.fetch(name, start, start + size)) == expected


@property_based
@given(
    st.lists(
        st.tuples(good_record, st.lists(st.sampled_from(["nan", "-1.25", "3.0000001"]), min_size=3)),
        max_size=6,
    )
)
def test_annotations_are_the_old_items_and_the_new(records):
    lines, rows, expected = [], [], []
    for number, (line, scores) in enumerate(records):
        fields = line.split("\t")
        alts = fields[4].split(",")
        values = [scores[i % len(scores)] for i in range(len(alts))]
        for alt, value in zip(alts, values, strict=True):
            skip = "because" if value == "nan" else ""
            rows.append({"line": str(number), "alt": alt, "llr": value, "distance": value, "skip": skip})
        numbers = ["." if value == "nan" else format(float(value), ".6g") for value in values]
        reasons = ["because" if value == "nan" else "." for value in values]
        items = [item for item in fields[7].split(";") if item not in ("", ".")]
        items = [item for item in items if item.split("=")[0] not in ("HYENA_LLR", "HYENA_SKIP")]
        for key, texts in (("HYENA_LLR", numbers), ("HYENA_DISTANCE", numbers), ("HYENA_SKIP", reasons)):
            if set(texts) != {"."}:
                items.append(f"{key}={','.join(texts)}")
        lines.append(line)
        expected.append("\t".join([*fields[:7], ";".join(items)]))
    assert list(annotated(lines, rows)) == expected
    assert list(ADDED) == ["HYENA_LLR", "HYENA_DISTANCE", "HYENA_SKIP"]


# ------------------------------------------------------------------------------ labelled tables

cell = st.one_of(
    st.text("ACGTN", min_size=1, max_size=5),
    st.sampled_from(
        ["", "NA", "nan", "None", " a b ", "1", "1.0", 'q"q', "x,y", "two\nlines", "\u00e9\u2028", "\t"]
    ),
)


def quoted(text: str, always: bool, separator: str) -> str:
    if always or any(letter in text for letter in f'{separator}"\n\r') or text[:1] in (" ", "\t"):
        return '"' + text.replace('"', '""') + '"'
    return text


def csv_by_hand(text: str, separator: str) -> list[list[str]]:
    """The cells, letter by letter; blank lines are no rows, and spaces after a separator no content."""
    rows, row, content, is_quoted, at = [], [], "", False, 0
    started = False  # whether the cell has begun
    while at < len(text):
        letter = text[at]
        if is_quoted:
            if letter == '"' and text[at + 1 : at + 2] == '"':
                content += '"'
                at += 1
            elif letter == '"':
                is_quoted = False
            else:
                content += letter
        elif letter == '"' and not started:
            is_quoted = started = True
        elif letter == separator:
            row.append(content)
            content, started = "", False
        elif letter == "\n":
            if row or content or started:
                rows.append([*row, content])
            row, content, started = [], "", False
        elif letter != "\r" and (started or letter != " "):
            content += letter
            started = True
        at += 1
    return rows


@property_based
@given(
    st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=6),
    st.permutations(["sequence", "label", "id"]),
    st.sampled_from([",", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_tables_letter_by_letter(folder, rows, columns, separator, end, always, packed):
    lines = [separator.join(columns)]
    lines += [separator.join(quoted(text, always, separator) for text in row) for row in rows]
    text = end.join([*lines, ""])
    name = {",": "t.csv", "\t": "t.tsv"}[separator]
    path = folder / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    header, *expected = csv_by_hand(text, separator)
    assert header == list(columns)
    table = read_parts(path, ("sequence", ("label",), "id"))["train"]
    for column in ("sequence", "label"):
        found = ["" if value != value else value for value in table[column].tolist()]
        assert found == [row[header.index(column)] for row in expected], column


sequence_text = st.text("ACGTNacgtRYU", max_size=6)
label_value = st.sampled_from(["a", "b", " a", "b ", "A", "", "nan", "NaN", "NA", "0", "1"])


def labels_by_hand(rows: list[tuple[str, str]]) -> list[str] | None:
    """The class of each row; None if a row cannot be used."""
    labels = [label.strip(" ") for _, label in rows]
    if any(not sequence for sequence, _ in rows) or any(label.lower() in ("", "nan") for label in labels):
        return None
    return labels if len(set(labels)) > 1 else None


def sorted_classes(labels: list[str]) -> list[str]:
    if all(label in "0123456789" for label in labels):
        return sorted(set(labels), key=int)
    return sorted(set(labels))


@property_based
@given(
    st.lists(st.tuples(sequence_text, label_value), min_size=1, max_size=8),
    st.sampled_from(["csv", "tsv", "fasta"]),
)
@pytest.mark.filterwarnings("ignore")
def test_labelled_rows_one_by_one(folder, rows, kind):
    path = folder / f"labelled.{kind}"
    if kind == "fasta":
        rows = [(sequence, label) for sequence, label in rows if label.strip()] or [("A", "b")]
        lines = [f">r{i} {label}\n{sequence[:3]}\n{sequence[3:]}" for i, (sequence, label) in enumerate(rows)]
    else:
        separator = "," if kind == "csv" else "\t"
        lines = [f"label{separator}sequence", *(f"{label}{separator}{sequence}" for sequence, label in rows)]
    path.write_text("\n".join([*lines, ""]))
    # the same rows again as the validation part, so that none is split off
    expected = labels_by_hand(rows)
    try:
        data = read_labelled_data(path, path)
    except InputError:
        assert expected is None
        return
    assert expected is not None
    assert data.label_names == sorted_classes(expected)
    for part in ("train", "validation"):
        found = [(row["row"], row["sequence"], data.label_names[row["label"]]) for row in data.parts[part]]
        assert found == [
            (i, sequence, label) for i, ((sequence, _), label) in enumerate(zip(rows, expected, strict=True))
        ]
