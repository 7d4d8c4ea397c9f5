"""Make the data on which the checkpoint in the package, `starter_1k`, was pretrained.

    python benchmarks/checkpoint_data.py --downloads downloads --out data \\
        --leave_out gb_chr20.tsv tf_0/test.csv prom_300_tata/test.csv

`--downloads` is the folder into which these packages were unpacked, all into the same one. How to
fetch them: docs/starter_1k.md.

vt-examples 0.57721+ds-3, MIT: human chromosome 20 (GRCh37)
    usr/share/doc/vt/examples/ref/20.fa.gz
subread-data 2.0.3+dfsg-1, GPL-3+: RefSeq exons of hg19
    usr/share/doc/subread/examples/annotation/hg19_RefSeq_exon.txt.gz
hisat2 2.2.1-4+b2, GPL-3+: 1 Mb of human chromosome 22
    usr/share/doc/hisat2/examples/reference/22_20-21M.fa
emboss-test 6.6.0+dfsg-12, EMBOSS licence (GPL and LGPL): human entries of EMBL, HLA region
    usr/share/EMBOSS/test/embl/hum1.dat
augustus-doc 3.5.0+dfsg-2, Artistic: one locus of eight vertebrates; chromosome arm 2R of the fly
    usr/share/doc/augustus/tutorial-cgp/data/genomes/*.fa
    usr/share/doc/augustus/tutorial/data/chr2R.fa
dnadiffusion 0.0.0.dev0, MIT: open chromatin of four human cell types
    dnadiffusion/data/K562_hESCT0_HepG2_GM12878_12k_sequences_per_group.txt
ilearnplus 1.5, MIT: mouse lncRNAs and other transcripts
    ilearnplus/data/lncRNA_sequences.txt

The first five are Debian packages (12), the last two are wheels. The licences are those of the
packages.

`--leave_out` names csv or tsv files with a column `sequence`. If they also have a column `split`,
only its rows `test` count. Where 64 bases of such a row occur, on either strand, the whole stretch
that the row would cover is cut out of what is trained on. The order of the files matters in one
case: where two rows share 64 bases, the first one says how far the stretch reaches.

Every sequence file gets a BED file of what is trained on. Chromosome 20 stays whole, since
validation and test lie in its last 8 Mb; its BED file avoids these, and names the class of each
tile. `*_held_out.bed` are the ends of fly and vertebrates that are not trained on. Those of fly
are counted in `fly_whole.fa`, because `fly.fa` ends before them.
"""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from Bio import SeqIO

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import fasta_records
from hyenadna.genomics.files import part_name, read_table, reading
from hyenadna.genomics.intervals import Intervals, subtract, tile
from hyenadna.genomics.letters import reverse_complement
from hyenadna.training.runs.files import write_whole

# Two sequences are taken for the same DNA if they share that many bases. Shorter pieces are useless.
WORD = 64
TILE = 1024
CHR20_END = 55_025_520  # what follows is for validation (3 Mb) and test (5 Mb)
FLY_END = 10_485_760

# In each class, the bases of a tile that have to belong to it. The first that fits counts.
LEAST_PROMOTER = 300
LEAST_EXON = 100
UPSTREAM = 700
DOWNSTREAM = 300
EXON_MARGIN = 50  # splice sites, and what is around them
LONGEST_GENE = 3_000_000  # the exons of one id that lie further apart are copies of a gene

GENOMES = "usr/share/doc/augustus/tutorial-cgp/data/genomes"
SPECIES = ("rheMac3", "mm10", "rn6", "bosTau8", "canFam3", "monDom5", "galGal4")
SOURCES = {  # path below --downloads, and the package that has it
    "chr20": ("usr/share/doc/vt/examples/ref/20.fa.gz", "vt-examples"),
    "exons": ("usr/share/doc/subread/examples/annotation/hg19_RefSeq_exon.txt.gz", "subread-data"),
    "chr22": ("usr/share/doc/hisat2/examples/reference/22_20-21M.fa", "hisat2"),
    "embl": ("usr/share/EMBOSS/test/embl/hum1.dat", "emboss-test"),
    "hg38": (f"{GENOMES}/hg38.fa", "augustus-doc"),
    **{species: (f"{GENOMES}/{species}.fa", "augustus-doc") for species in SPECIES},
    "fly": ("usr/share/doc/augustus/tutorial/data/chr2R.fa", "augustus-doc"),
    "open_chromatin": (
        "dnadiffusion/data/K562_hESCT0_HepG2_GM12878_12k_sequences_per_group.txt",
        "dnadiffusion",
    ),
    "transcripts": ("ilearnplus/data/lncRNA_sequences.txt", "ilearnplus"),
}

Record = tuple[str, str]  # name, sequence
Words = dict[str, tuple[int, int]]  # 64 bases -> length of the row that holds them, and where in it
BedLine = tuple[str, int, int, str]


def find_sources(downloads: Path) -> dict[str, Path]:
    """Return the path of each source.

    Raises:
        InputError: One is missing.
    """
    paths = {}
    for source, (path, package) in SOURCES.items():
        paths[source] = downloads / path
        if not paths[source].is_file():
            raise InputError(f"{paths[source]}: there is no such file; unpack {package} into {downloads}")
    return paths


# ---------------------------------------------------------------------------------- what is left out


def rows_to_leave_out(paths: Iterable[Path]) -> list[str]:
    """Return the test rows of csv and tsv files: upper-case sequences.

    Raises:
        InputError: A file cannot be read, has no column `sequence`, or has no test row.
    """
    rows = []
    for path in paths:
        table = read_table(path, ("sequence", "split"))
        if "sequence" not in table:
            raise InputError(f"{path}: there is no column 'sequence', only {list(table)}")
        if "split" in table:
            is_test = [part_name(value, str(path)) == "test" for value in table["split"]]
            table = table[is_test]
        if not len(table):
            raise InputError(f"{path}: no row is left out; those with the split 'test' would be")
        rows += table["sequence"].str.upper().tolist()
    return rows


def words_of(rows: Iterable[str]) -> Words:
    """Return every stretch of 64 bases of these rows, on both strands."""
    words: Words = {}
    for row in rows:
        for strand in (row, reverse_complement(row)):
            for offset in range(len(strand) - WORD + 1):
                word = strand[offset : offset + WORD]
                if "N" not in word:
                    words.setdefault(word, (len(row), offset))
    return words


def covered(sequence: str, words: Words) -> Intervals:
    """Return the stretches of a sequence that the rows cover. They may overlap.

    >>> covered("G" * 10 + "A" * 64, words_of(["A" * 64])).tolist()
    [[0, 0, 10, 74]]
    """
    sequence = sequence.upper()
    spans = {}  # a dictionary, because all words of a row give the same span
    for position in range(len(sequence) - WORD + 1):
        hit = words.get(sequence[position : position + WORD])
        if hit is None:
            continue
        # The word says where the row begins, so where its end is, too: a few bases of a row may
        # differ (other assembly, other individual), and they are left out with the rest.
        length, offset = hit
        start = position - offset
        spans[0, 0, max(0, start), min(len(sequence), start + length)] = None
    return Intervals.of(spans)


def cut(records: Iterable[Record], words: Words) -> list[Record]:
    """Cut what the rows cover out of sequences. Pieces are named after their first base, from 0."""
    pieces = []
    for name, sequence in records:
        taken = covered(sequence, words)
        if not len(taken):
            pieces.append((name, sequence))
            continue
        left = subtract(Intervals.of([(0, 0, 0, len(sequence))]), taken)
        for _, _, start, end in left[left.lengths >= WORD].tolist():
            pieces.append((f"{name}_{start}", sequence[start:end]))
    return pieces


def drop(records: Iterable[Record], words: Words) -> list[Record]:
    """Drop the sequences that share 64 bases with a row."""
    return [record for record in records if not len(covered(record[1], words))]


# ------------------------------------------------------------------------------------- chromosome 20


def training_tiles(taken: Intervals, end: int) -> Intervals:
    """Cut the bases from 0 to `end` into tiles of 1,024, around what is taken."""
    tiles = tile(subtract(Intervals.of([(0, 0, 0, end)]), taken), TILE)
    return tiles[tiles.lengths >= WORD]


def tile_classes(tiles: Intervals, exons: pd.DataFrame, length: int) -> list[str]:
    """Return the class of each tile: promoter, exon, intron or intergenic.

    Args:
        tiles: Intervals of one chromosome.
        exons: Its exons: GeneID, Start, End (from 1, inclusive) and Strand.
        length: The bases of the chromosome.
    """
    genes = exons.groupby(["GeneID", "Strand"], as_index=False).agg({"Start": "min", "End": "max"})
    is_gene = np.zeros(length, bool)
    is_promoter = np.zeros(length, bool)
    for gene in genes.itertuples():
        if gene.End - gene.Start < LONGEST_GENE:
            is_gene[gene.Start - 1 : gene.End] = True
        if gene.Strand == "+":
            start = gene.Start - 1 - UPSTREAM
            end = gene.Start - 1 + DOWNSTREAM
        else:
            start = gene.End - DOWNSTREAM
            end = gene.End + UPSTREAM
        is_promoter[max(0, start) : end] = True

    is_exon = np.zeros(length, bool)
    for exon in exons.itertuples():
        is_exon[max(0, exon.Start - 1 - EXON_MARGIN) : exon.End + EXON_MARGIN] = True

    classes = []
    for start, end in zip(tiles.start, tiles.end, strict=True):
        if is_promoter[start:end].sum() >= LEAST_PROMOTER:
            classes.append("promoter")
        elif is_exon[start:end].sum() >= LEAST_EXON:
            classes.append("exon")
        elif is_gene[start:end].mean() > 0.5:
            classes.append("intron")
        else:
            classes.append("intergenic")
    return classes


def make_chr20(paths: dict[str, Path], words: Words, out: Path) -> None:
    ((header, sequence),) = fasta_records(paths["chr20"])
    name = header.split()[0]
    with reading(paths["exons"]):
        exons = pd.read_csv(paths["exons"], sep="\t", dtype={"Chr": str})
    tiles = training_tiles(covered(sequence, words), CHR20_END)
    classes = tile_classes(tiles, exons[exons.Chr == "chr20"], len(sequence))

    write_fasta(out / "chr20.fa", [(name, sequence)])
    spans = zip(tiles.start.tolist(), tiles.end.tolist(), classes, strict=True)
    write_bed(out / "chr20.bed", [(name, *span) for span in spans])
    print({kind: classes.count(kind) for kind in ("promoter", "exon", "intron", "intergenic")})


# --------------------------------------------------------------------------------- the other sources


def numbered(label: str, sequences: Iterable[str]) -> list[Record]:
    """Name sequences by a label and their number, from 0. Letters other than ACGT become N."""
    return [(f"{label}_{i}", re.sub("[^ACGTacgtNn]", "N", sequence)) for i, sequence in enumerate(sequences)]


def sequences_of(path: Path) -> list[str]:
    return [sequence for _, sequence in fasta_records(path)]


def human_sequences(paths: dict[str, Path]) -> list[str]:
    """Return a part of chromosome 22, the human entries of EMBL, and a locus of hg38."""
    sequences = []
    for sequence in sequences_of(paths["chr22"]):
        sequences += [piece for piece in re.split("N{50,}", sequence) if len(piece) > 500]
    with reading(paths["embl"], "EMBL"):
        entries = [str(entry.seq) for entry in SeqIO.parse(paths["embl"], "embl")]
    sequences += [sequence for sequence in entries if len(sequence) >= 500]
    return sequences + sequences_of(paths["hg38"])


def open_chromatin(path: Path) -> list[str]:
    """Return 200 bases around each peak, once, and without chromosome 20."""
    with reading(path):
        peaks = pd.read_csv(path, sep="\t")
    return peaks[peaks.chr != "chr20"].drop_duplicates("sequence")["sequence"].tolist()


def transcripts(path: Path) -> list[str]:
    return [sequence.upper().replace("U", "T") for sequence in sequences_of(path)]


def in_windows(sequences: list[str], per_window: int) -> str:
    """Join short sequences by six N, so many to a window of 1,024. The last one is filled with N.

    A window then has next to no pads, which would cost as much to compute as bases.
    """
    windows = []
    for i in range(0, len(sequences), per_window):
        windows.append("NNNNNN".join(sequences[i : i + per_window]).ljust(TILE, "N"))
    return "".join(windows)


def split_ends(records: Iterable[Record], kind: str) -> tuple[list[BedLine], list[BedLine]]:
    """Return what is trained on and what is held out: the last tenth of each sequence, at most 1 Mb.

    >>> split_ends([("a", "ACGT" * 5)], "fly")
    ([('a', 0, 18, 'fly')], [('a', 18, 20, 'fly')])
    """
    train = []
    held_out = []
    for name, sequence in records:
        end = len(sequence) - min(len(sequence) // 10, 1_000_000)
        train.append((name, 0, end, kind))
        held_out.append((name, end, len(sequence), kind))
    return train, held_out


def whole(records: Iterable[Record], kind: str) -> list[BedLine]:
    return [(name, 0, len(sequence), kind) for name, sequence in records]


# ------------------------------------------------------------------------------------------- writing


def write_fasta(path: Path, records: list[Record], width: int = 60) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "w") as file:
            for name, sequence in records:
                file.write(f">{name}\n")
                file.writelines(f"{sequence[i : i + width]}\n" for i in range(0, len(sequence), width))

    write_whole(path, write)
    bases = sum(len(sequence) for _, sequence in records)
    print(f"{path.name}: {len(records):,} sequences, {bases:,} bases", flush=True)


def write_bed(path: Path, lines: list[BedLine]) -> None:
    text = "".join("\t".join(map(str, line)) + "\n" for line in lines)
    write_whole(path, lambda temporary: temporary.write_text(text))


def make_all(paths: dict[str, Path], words: Words, out: Path) -> None:
    make_chr20(paths, words, out)

    human = cut(numbered("human_other", human_sequences(paths)), words)
    write_fasta(out / "human_other.fa", human)
    write_bed(out / "human_other.bed", whole(human, "human_other"))

    loci = [sequence for species in SPECIES for sequence in sequences_of(paths[species])]
    vertebrates = cut(numbered("vertebrates", loci), words)
    train, held_out = split_ends(vertebrates, "vertebrates")
    write_fasta(out / "vertebrates.fa", vertebrates)
    write_bed(out / "vertebrates_train.bed", train)
    write_bed(out / "vertebrates_held_out.bed", held_out)

    # Half of the arm is enough at its small weight. Both files call it `fly_0`.
    fly = cut(numbered("fly", sequences_of(paths["fly"])), words)
    first_half = [(name, sequence[:FLY_END]) for name, sequence in fly]
    write_fasta(out / "fly_whole.fa", fly)
    # On one line, as in the run: the digests in the card of the checkpoint are those of the bytes.
    write_fasta(out / "fly.fa", first_half, width=FLY_END)
    write_bed(out / "fly_train.bed", whole(first_half, "fly"))
    write_bed(out / "fly_held_out.bed", split_ends(fly, "fly")[1])

    # Five peaks of 200 bases and four gaps of 6 are a window of 1,024.
    peaks = drop(numbered("open_chromatin", open_chromatin(paths["open_chromatin"])), words)
    joined = [("open_chromatin", in_windows([sequence for _, sequence in peaks], 5))]
    write_fasta(out / "open_chromatin_joined.fa", joined, width=64)
    write_bed(out / "open_chromatin_joined.bed", whole(joined, "open_chromatin"))

    rna = cut(numbered("transcripts", transcripts(paths["transcripts"])), words)
    joined = [("transcripts", "NNNNNN".join(sequence for _, sequence in rna))]
    write_fasta(out / "transcripts_joined.fa", joined, width=64)
    write_bed(out / "transcripts_joined.bed", whole(joined, "transcripts"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--downloads", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--leave_out", type=Path, nargs="+", required=True, help="csv or tsv of test rows")
    parser.add_argument("--out", type=Path, required=True, help="folder for the FASTA and BED files")
    args = parser.parse_args()
    try:
        paths = find_sources(args.downloads)
        rows = rows_to_leave_out(args.leave_out)
        words = words_of(rows)
        print(f"{len(rows):,} rows to leave out, {len(words):,} words of {WORD} bases", flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        make_all(paths, words, args.out)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
