"""Files: their kinds, the names of parts, and what every reader says of a damaged one."""

import gzip
import subprocess
import sys
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from Bio import bgzf

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile, open_genomes, read_fasta, spellings
from hyenadna.genomics.files import (
    FASTA,
    has_suffix,
    part_of_file,
    read_lines,
    read_table,
    read_text,
    reading,
)
from hyenadna.genomics.genes import read_genes
from hyenadna.genomics.intervals import read_bed, read_regions, whole_numbers
from hyenadna.genomics.labelled import read_labelled_data
from hyenadna.genomics.sources import has_labels
from hyenadna.genomics.vcf import check_vcf

from .helpers.genomes import GENOME, random_dna, write_fasta

SEQUENCES = [random_dna(24, seed) for seed in range(40)]
LABELS = ["enhancer" if i % 4 else "background" for i in range(40)]


def write_labelled(path, rows=range(40)) -> None:
    pd.DataFrame({"sequence": [SEQUENCES[i] for i in rows], "label": [LABELS[i] for i in rows]}).to_csv(
        path, index=False
    )


# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_every_name_of_the_validation_part_is_known(name, tmp_path):
    """`val` was passed over without a word, and other rows were split off the training part."""
    assert part_of_file(tmp_path / f"{name}.csv") == "validation"
    write_labelled(tmp_path / "train.csv", range(20))
    write_labelled(tmp_path / f"{name}.csv", range(20, 30))
    write_labelled(tmp_path / "test.csv", range(30, 40))
    data = read_labelled_data(tmp_path)
    assert data.parts["validation"]["sequence"][:] == SEQUENCES[20:30]
    assert len(data.parts["train"]) == 20


def test_bgz_is_fasta_for_every_reader(tmp_path):
    assert all(has_suffix(f"x{suffix.upper()}", FASTA) for suffix in (".fa", ".fasta.gz", ".fna.bgz"))
    with bgzf.BgzfWriter(str(tmp_path / "x.fa.bgz")) as file:
        file.write("".join(f">s{i} {LABELS[i]}\n{SEQUENCES[i]}\n" for i in range(40)).encode())
    assert len(SequenceFile(tmp_path / "x.fa.bgz").names) == 40
    assert read_labelled_data(tmp_path / "x.fa.bgz").label_names == ["background", "enhancer"]
    assert has_labels(tmp_path / "x.fa.bgz", "label")


def test_one_rule_for_chr(tmp_path):
    assert (
        spellings("chr20") == ["chr20", "20"]
        and spellings("20") == ["20", "chr20"]
        and spellings("chr") == ["chr"]
    )
    assert {"MT", "chrM"} <= set(spellings("M")) & set(spellings("chrMT"))
    files = [
        write_fasta(tmp_path / "a.fa", {"chr1": "ACGT", "chrM": "AC"}),
        write_fasta(tmp_path / "b.fa", {"1": "ACGTA", "2": "AC"}),
    ]
    genomes = open_genomes(files)
    # as it is written comes first
    assert read_regions(["1"], genomes, "test").tolist() == [[1, 0, 0, 5]]
    assert read_regions(["chr2", "MT"], genomes, "test").tolist() == [[1, 1, 0, 2], [0, 1, 0, 2]]
    (tmp_path / "b.bed").write_text("1\t0\t2\nMT\t0\t1\n")
    assert read_bed(tmp_path / "b.bed", genomes, 0)[0].tolist() == [[0, 0, 0, 2], [0, 1, 0, 1]]
    (tmp_path / "g.gtf").write_text('1\tx\tgene\t2\t3\t.\t-\t.\tgene_id "a"; gene_type "b";\n')
    assert read_genes(tmp_path / "g.gtf", genomes[0])[0].sequence(genomes[0]) == "CG"


def test_letters_need_no_table_library():
    code = (
        "import sys, hyenadna.genomics.letters; sys.exit('datasets' in sys.modules or 'sklearn' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ------------------------------------------------------------------------------------------- damage


def read_pretraining_table(path):
    return open_genomes([path])


def read_gtf(path):
    genome = SequenceFile(write_fasta(path.with_name("g.fa"), GENOME))
    return read_genes(path, genome)


def read_bed_file(path):
    return read_bed(path, open_genomes([write_fasta(path.with_name("g.fa"), GENOME)]), 0)


TEXT_OF = {
    "csv": "sequence,label\n" + "".join(f"{s},{label}\n" for s, label in zip(SEQUENCES, LABELS, strict=True)),
    "txt": "".join(f"{s}\n" for s in SEQUENCES),
    "fa": "".join(f">s{i} {LABELS[i]}\n{SEQUENCES[i]}\n" for i in range(40)),
    "gtf": "".join(
        f'1\tx\tgene\t{i + 1}\t{i + 9}\t.\t+\t.\tgene_id "{i}"; gene_type "b";\n' for i in range(80)
    ),
    "bed": "".join(f"1\t{i}\t{i + 7}\tname{i * i}\n" for i in range(90)),
    "vcf": "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    + "".join(f"1\t{i + 1}\tid{i * i}\tA\tC\t.\t.\t.\n" for i in range(90)),
}
READERS = [  # a new reader is one line
    ("csv", read_table),
    ("csv", read_pretraining_table),
    ("csv", read_labelled_data),
    ("txt", read_pretraining_table),
    ("fa", read_pretraining_table),
    ("fa", read_labelled_data),
    ("fa", read_fasta),
    ("gtf", read_gtf),
    ("bed", read_bed_file),
    ("vcf", check_vcf),
    ("txt", read_text),
]


def bgzipped(text: str) -> bytes:
    """Packed in small blocks."""
    content = text.encode()
    blocks = b""
    for start in range(0, len(content), 500):
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        piece = content[start : start + 500]
        packed = packer.compress(piece) + packer.flush()
        head = (
            b"\x1f\x8b\x08\x04"
            + b"\0" * 4
            + b"\0\xff\x06\0BC\x02\0"
            + (len(packed) + 25).to_bytes(2, "little")
        )
        blocks += head + packed + zlib.crc32(piece).to_bytes(4, "little") + len(piece).to_bytes(4, "little")
    return blocks + bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def second_block(packed: bytes) -> int:
    return int.from_bytes(packed[16:18], "little") + 1


DAMAGES = {
    "gzip cut": lambda text: gzip.compress(text.encode())[:-20],
    "gzip flipped": lambda text: flipped(gzip.compress(text.encode())),
    "bgzip cut in a block": lambda text: bgzipped(text)[:-60],
    "bgzip cut between blocks": lambda text: bgzipped(text)[: second_block(bgzipped(text))],
    "bgzip flipped": lambda text: flipped(bgzipped(text)),
    "not packed": lambda text: text.encode(),
    "no text": lambda text: gzip.compress(b"\xff\xfe\x00" + text.encode("utf-16-le")),
}


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 40]) + data[middle + 40 :]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "reader"), READERS, ids=lambda value: getattr(value, "__name__", value))
def test_damaged_files_give_one_line(kind, reader, damage, tmp_path):
    path = tmp_path / f"x.{kind}.gz"
    path.write_bytes(DAMAGES[damage](TEXT_OF[kind]))
    if damage == "not packed" and kind == "vcf":
        pytest.skip("a VCF is known by its content alone")
    with pytest.raises(InputError) as raised:
        reader(path)
    message = str(raised.value)
    assert str(path) in message and "\n" not in message and len(message) < 1000


@pytest.mark.parametrize(("kind", "reader"), READERS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("pack", [lambda text: gzip.compress(text.encode()), bgzipped], ids=["gzip", "bgzip"])
@pytest.mark.filterwarnings("ignore:.*packed by gzip:UserWarning")
def test_packed_files_are_read(kind, reader, pack, tmp_path):
    """The damages above are refused because of the damage."""
    (tmp_path / f"x.{kind}.gz").write_bytes(pack(TEXT_OF[kind]))
    reader(tmp_path / f"x.{kind}.gz")


def test_damaged_parquet(tmp_path):
    table = pd.DataFrame({"sequence": SEQUENCES, "label": LABELS})
    table.to_parquet(tmp_path / "whole.parquet")
    data = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-50])
    # its footer; pages have no checksum
    (tmp_path / "flipped.parquet").write_bytes(data[:-200] + flipped(data[-200:]))
    for name in ("cut", "flipped"):
        for reader in (read_table, read_labelled_data, read_pretraining_table):
            with pytest.raises(InputError, match=rf"{name}.parquet cannot be read as parquet"):
                reader(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize("note", ['{"index_columns": ["gone"], "columns": []}', "nonsense", "[]", "{}"])
def test_a_damaged_note_of_pandas_does_not_matter(note, tmp_path):
    table = pd.DataFrame({"sequence": SEQUENCES, "label": LABELS})
    arrow = pa.Table.from_pandas(table).replace_schema_metadata({b"pandas": note.encode()})
    pa.parquet.write_table(arrow, tmp_path / "x.parquet")
    assert read_table(tmp_path / "x.parquet").equals(table)


def test_errors_of_reading_name_the_file():
    with pytest.raises(InputError, match=r"^x\.gz cannot be read as csv: a b$"), reading("x.gz", "csv"):
        raise ValueError("a\n  b")
    with pytest.raises(InputError, match="as it is"), reading("x.gz"):
        raise InputError("as it is")
    with pytest.raises(ZeroDivisionError), reading("x.gz"):
        raise ZeroDivisionError  # a fault of ours is not dressed up as one of the file


# ---------------------------------------------------------------------------------- silently others


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_headers_hold_any_character(character, tmp_path):
    """`str.splitlines` made sequence of the rest of such a header."""
    path = tmp_path / "x.fa"
    path.write_text(f">a label=0 note{character}ACGT\nGGCC\nAA\n", encoding="utf-8")
    assert read_fasta(path) == [(f"a label=0 note{character}ACGT", "GGCCAA")]
    (tmp_path / "x.txt").write_text(f"a{character}b\nc\r\n", encoding="utf-8")
    assert list(read_lines(tmp_path / "x.txt")) == [f"a{character}b", "c"]


def test_a_lone_carriage_return_is_refused(tmp_path):
    (tmp_path / "x.fa").write_bytes(b">a 1\rACGT\nGG\n")
    with pytest.raises(InputError, match="line 1 has a carriage return in its middle"):
        read_fasta(tmp_path / "x.fa")
    (tmp_path / "x.fa").write_bytes(b">a 1\r\nACGT\r\nGG\r\n")
    assert read_fasta(tmp_path / "x.fa") == [("a 1", "ACGTGG")]


@pytest.mark.parametrize("column", ["label", "sequence", "id"])
def test_a_column_that_comes_twice_is_refused(column, tmp_path):
    names = ["id", "sequence", "label", column]
    table = pd.DataFrame(np.array([[str(i), SEQUENCES[i], LABELS[i], "x"] for i in range(40)]), columns=names)
    table.to_csv(tmp_path / "x.csv", index=False)
    table.to_csv(tmp_path / "x.tsv.gz", index=False, sep="\t")
    pa.parquet.write_table(pa.table(list(table.to_numpy().T), names=names), tmp_path / "x.parquet")
    for name in ("x.csv", "x.tsv.gz", "x.parquet"):
        with pytest.raises(InputError, match=rf"{name} has the column '{column}' 2 times"):
            read_labelled_data(tmp_path / name)
    extra = table.set_axis(["id", "sequence", "label", "label.1"], axis=1).assign(a="", b="")
    extra.set_axis(["id", "sequence", "label", "label.1", "note", "note"], axis=1).to_csv(
        tmp_path / "x.csv", index=False
    )
    # other columns may be as they are
    assert len(read_labelled_data(tmp_path / "x.csv").label_names) == 2


def test_one_number_in_two_spellings_is_refused(tmp_path):
    table = pd.DataFrame({"sequence": SEQUENCES[:8], "label": ["0", "0.0", "1", "1.0"] * 2})
    table.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(InputError, match=r"the labels '0' and '0.0' are the same number; write them alike"):
        read_labelled_data(tmp_path / "x.csv")
    pd.DataFrame({"sequence": SEQUENCES[:8], "label": ["1.1", "1.10"] * 4}).to_csv(
        tmp_path / "x.csv", index=False
    )
    assert read_labelled_data(tmp_path / "x.csv").label_names == ["1.1", "1.10"]  # versions, say


def test_lists_of_labels_ask_for_their_problem_type(tmp_path):
    pd.DataFrame({"sequence": SEQUENCES[:8], "label": [[0, 1], [1, 0]] * 4}).to_parquet(
        tmp_path / "x.parquet"
    )
    with pytest.raises(InputError, match=r"row 0 is array\(\[0, 1\]\).*set problem_type to 'multi_label"):
        read_labelled_data(tmp_path / "x.parquet")
    pd.DataFrame({"sequence": SEQUENCES[:8], "label": [["a", "b"]] * 8}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="labels are lists of 0 and 1, but could not convert"):
        read_labelled_data(tmp_path / "x.parquet", problem_type="multi_label_classification")


def test_numbers_of_5000_digits(tmp_path):
    digits = "9" * 5000
    genomes = open_genomes([write_fasta(tmp_path / "g.fa", GENOME)])
    (tmp_path / "x.bed").write_text(f"1\t0\t{digits}\n")
    (tmp_path / "x.gtf").write_text(f'1\tx\tgene\t1\t{digits}\t.\t+\t.\tgene_id "a"; gene_type "b";\n')
    cases = [
        (lambda: read_bed(tmp_path / "x.bed", genomes, 0), "expected chromosome, start and end"),
        (lambda: read_genes(tmp_path / "x.gtf", genomes[0]), "nine columns"),
        (lambda: read_regions([f"1:0-{digits}"], genomes, "test"), "expected a region such as"),
        (lambda: read_regions(["1:,-,"], genomes, "test"), "expected a region such as"),
        (lambda: whole_numbers(pd.DataFrame({"start": [digits]}), "start", "x.csv"), "not a whole number"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message) as raised:
            call()
        assert len(str(raised.value)) < 6000
    labels = [digits, "1"] * 4
    pd.DataFrame({"sequence": SEQUENCES[:8], "label": labels}).to_csv(tmp_path / "x.csv", index=False)
    assert read_labelled_data(tmp_path / "x.csv").label_names == ["1", digits]
    with pytest.raises(InputError, match="not a finite number"):
        read_labelled_data(tmp_path / "x.csv", problem_type="regression")
