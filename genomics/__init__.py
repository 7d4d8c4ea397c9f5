"""The files and coordinates of the field, without a model.

    from hyenadna.genomics import open_genomes, split_windows
    genomes = open_genomes(["hg38.fa.gz"])
    parts = split_windows(genomes, window=1024, validation=["chr20"], test=["chr21", "chr22"])

| file | what it holds |
|---|---|
| `letters.py` | ids of the letters, the other strand, padding |
| `files.py` | file types, names of the parts, readers of text and tables, read errors |
| `fasta.py`, `bgzip.py` | random access to FASTA (plain, bgzip, gzip), tables and text |
| `intervals.py` | BED, regions, interval algebra |
| `held_out.py` | training, validation and test windows that share no base |
| `windows.py` | windows as batches of ids, for pretraining |
| `window_rows.py` | windows with labels, for fine-tuning |
| `labelled.py`, `sources.py`, `labels.py`, `splits.py` | labelled sequences: read, check, split |
| `genes.py` | GTF and GFF |
| `vcf.py` | VCF in and out |

Every coordinate is 0-based and half-open. Only the text of GTF and VCF files counts from 1.
"""

from typing import TYPE_CHECKING

from hyenadna.lazy import on_first_use

if TYPE_CHECKING:
    from .fasta import SequenceFile, open_genomes, read_fasta
    from .files import read_table
    from .genes import Gene, GeneSequences, read_genes
    from .held_out import split_windows
    from .intervals import Intervals, centre, merge, overlapping, read_bed, read_regions, subtract, tile
    from .labelled import LabelledData, load_splice_junctions, read_labelled_data
    from .letters import encode, reverse_complement
    from .vcf import check_vcf, vcf_lines, vcf_records, write_vcf
    from .window_rows import WindowRows
    from .windows import WindowCollator, WindowDataset, WindowSampler

# A name is imported on first use. Importing everything here would load torch and datasets (seconds)
# for somebody who only needs `reverse_complement`.
_FILE_OF_NAME = {
    "Gene": "genes",
    "GeneSequences": "genes",
    "Intervals": "intervals",
    "LabelledData": "labelled",
    "SequenceFile": "fasta",
    "WindowCollator": "windows",
    "WindowDataset": "windows",
    "WindowRows": "window_rows",
    "WindowSampler": "windows",
    "centre": "intervals",
    "check_vcf": "vcf",
    "encode": "letters",
    "load_splice_junctions": "labelled",
    "merge": "intervals",
    "open_genomes": "fasta",
    "overlapping": "intervals",
    "read_bed": "intervals",
    "read_fasta": "fasta",
    "read_genes": "genes",
    "read_labelled_data": "labelled",
    "read_regions": "intervals",
    "read_table": "files",
    "reverse_complement": "letters",
    "split_windows": "held_out",
    "subtract": "intervals",
    "tile": "intervals",
    "vcf_lines": "vcf",
    "vcf_records": "vcf",
    "write_vcf": "vcf",
}

__all__ = [
    "Gene",
    "GeneSequences",
    "Intervals",
    "LabelledData",
    "SequenceFile",
    "WindowCollator",
    "WindowDataset",
    "WindowRows",
    "WindowSampler",
    "centre",
    "check_vcf",
    "encode",
    "load_splice_junctions",
    "merge",
    "open_genomes",
    "overlapping",
    "read_bed",
    "read_fasta",
    "read_genes",
    "read_labelled_data",
    "read_regions",
    "read_table",
    "reverse_complement",
    "split_windows",
    "subtract",
    "tile",
    "vcf_lines",
    "vcf_records",
    "write_vcf",
]

on_first_use(globals(), _FILE_OF_NAME)
