"""Genes of a GTF or GFF file with their biotype and their sequence: `read_genes("genes.gtf", genome)`.

A line of the file counts from 1 and holds its end; here every interval is 0-based and half-open. The sequence of a gene
on the reverse strand is the reverse complement, so that each reads 5' to 3'.
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyenadna.errors import InputError

from .genome import SequenceFile, check_interval
from .letters import reverse_complement

# GENCODE, Ensembl (GTF and GFF3), RefSeq; a feature's own attribute comes before these
BIOTYPES = ("biotype", "transcript_type", "transcript_biotype", "gene_type", "gene_biotype")
_NAMES = ("ID", "gene_id", "Name", "gene_name", "locus_tag", "gene")


@dataclass
class Gene:
    """A feature: its name, its biotype, where it is, 0-based and half-open, and of which gene (or parent) it is."""

    name: str
    biotype: str
    chromosome: str
    start: int
    end: int
    strand: str
    gene: str

    def sequence(self, genome: SequenceFile) -> str:
        """Read it 5' to 3'."""
        text = genome.letters(genome.number[self.chromosome], self.start, self.end)
        return reverse_complement(text) if self.strand == "-" else text


def read_genes(path: str | Path, genome: SequenceFile, feature: str = "gene") -> list[Gene]:
    """Read the features of one kind with their biotypes, in the order of the file.

    Args:
        path: GTF or GFF3, plain or gzipped.
        genome: Its FASTA.
        feature: The third column of the lines that count.

    Raises:
        InputError: A line is no GTF or GFF, names a chromosome that the genome has not, or leaves it; there is no such
            feature; a feature has no biotype.
    """
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rt") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    # A transcript of a coding gene need not be a coding one itself.
    biotypes, names = (f"{feature}_type", f"{feature}_biotype", *BIOTYPES), (f"{feature}_id", *_NAMES)
    genes, features = [], set()
    for number, line in enumerate(lines, 1):
        if line.startswith("##FASTA"):
            break
        if not line.strip() or line.startswith("#"):
            continue
        where, fields = f"{path}: line {number}", line.split("\t")
        if len(fields) != 9 or not (fields[3].isdecimal() and fields[4].isdecimal()):
            raise InputError(f"{where} is {line[:60]!r}; GTF and GFF have nine columns, separated by tabs")
        features.add(fields[2])
        if fields[2] != feature:
            continue
        attributes = _attributes(fields[8])
        biotype = next((attributes[key] for key in biotypes if attributes.get(key)), None)
        if biotype is None:
            raise InputError(
                f"{where}: the {feature} has no biotype, only {sorted(attributes)}; expected one of {list(BIOTYPES)}. "
                "Ensembl, GENCODE and RefSeq write them; UCSC's tables do not"
            )
        start, end = int(fields[3]) - 1, int(fields[4])
        check_interval(genome, genome.find(fields[0], where), start, end, where)
        name = next((attributes[key] for key in names if attributes.get(key)), f"{fields[0]}:{start}-{end}")
        gene = attributes.get("gene_id") or attributes.get("Parent") or name
        genes.append(Gene(name, biotype, fields[0], start, end, fields[6], gene))
    if not genes:
        raise InputError(f"{path} has no feature {feature!r}; it has {sorted(features)[:20]}")
    return genes


def _attributes(column: str) -> dict[str, str]:
    """Read `key "value"; ...` (GTF) or `key=value;...` (GFF3)."""
    return {key: value.strip('" ') for key, value in re.findall(r'\s*([\w.:-]+)(?:=|\s+)("[^"]*"|[^;]*);?', column)}


class GeneSequences(Sequence):
    """The sequences of genes, each read from the genome when it is asked for."""

    def __init__(self, genes: list[Gene], genome: SequenceFile):
        self.genes, self.genome = genes, genome

    def __len__(self) -> int:
        return len(self.genes)

    def __getitem__(self, i: int) -> str:
        return self.genes[i].sequence(self.genome)
