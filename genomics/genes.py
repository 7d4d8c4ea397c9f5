"""Genes of a GTF or GFF file, with their biotypes and sequences.

    genome = SequenceFile("hg38.fa")
    genes = read_genes("gencode.gtf.gz", genome)
    genes[0].biotype, genes[0].sequence(genome)[:3]              # "protein_coding", "ATG"

GTF and GFF count from 1 and include the end. `Gene` is 0-based and half-open, as everything else
in this room. Sequences read 5' to 3', so a gene on the reverse strand is reverse-complemented.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyenadna.errors import InputError

from .fasta import SequenceFile
from .files import read_lines
from .intervals import check_interval
from .letters import reverse_complement

__all__ = ["BIOTYPES", "Gene", "GeneSequences", "read_genes"]

# What Ensembl, GENCODE and RefSeq call the biotype. An attribute named after the feature itself
# (`gene_type` of a gene) is tried before these.
BIOTYPES = ("biotype", "transcript_type", "transcript_biotype", "gene_type", "gene_biotype")
_NAMES = ("ID", "gene_id", "Name", "gene_name", "locus_tag", "gene")


@dataclass
class Gene:
    """A feature of an annotation.

    Attributes:
        name: Its id in the annotation, or `chromosome:start-end`.
        biotype: `protein_coding`, for instance.
        chromosome: The name that the genome has for it.
        start: The first base, from 0.
        end: The base after the last.
        strand: `+` or `-`.
        gene: The gene (or parent) that the feature belongs to.
    """

    name: str
    biotype: str
    chromosome: str
    start: int
    end: int
    strand: str
    gene: str

    def sequence(self, genome: SequenceFile) -> str:
        """Return the sequence 5' to 3'."""
        forward = genome.letters(genome.number[self.chromosome], self.start, self.end)
        return reverse_complement(forward) if self.strand == "-" else forward


def read_genes(path: str | Path, genome: SequenceFile, feature: str = "gene") -> list[Gene]:
    """Read the features of one type, in the order of the file.

    Args:
        path: GTF or GFF3, plain or gzipped.
        genome: The genome that the annotation belongs to.
        feature: The feature type: the third column of the file.

    Raises:
        InputError: A line is not GTF or GFF, or lies outside the genome; no feature has this type;
            or one has no biotype.

    >>> read_genes("genes.gtf", genome)[0].biotype                          # doctest: +SKIP
    'protein_coding'
    """
    genes = []
    features = set()
    for number, line in enumerate(read_lines(path), 1):
        # A GFF3 file may end with the genome itself.
        if line.startswith("##FASTA"):
            break
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}: line {number}"
        fields = line.split("\t")
        # Checked for lines of other features too: the file may not be GTF at all.
        if len(fields) != 9 or not (_is_coordinate(fields[3]) and _is_coordinate(fields[4])):
            raise InputError(f"{where} is {line[:60]!r}; GTF and GFF have nine columns, separated by tabs")
        feature_type = fields[2]
        features.add(feature_type)
        if feature_type == feature:
            genes.append(_gene(fields, genome, where))
    if not genes:
        raise InputError(f"{path} has no feature {feature!r}; it has {sorted(features)[:20]}")
    return genes


def _is_coordinate(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 15


def _gene(fields: list[str], genome: SequenceFile, where: str) -> Gene:
    """Make a gene from the nine columns of its line."""
    feature = fields[2]
    attributes = _attributes(fields[8])
    # The feature's own biotype comes first: a transcript of a coding gene need not be coding.
    biotype = _first(attributes, (f"{feature}_type", f"{feature}_biotype", *BIOTYPES))
    if biotype is None:
        raise InputError(
            f"{where}: the {feature} has no biotype, only {sorted(attributes)}; expected one of "
            f"{list(BIOTYPES)}. Ensembl, GENCODE and RefSeq write them; UCSC's tables do not"
        )
    # From 1-based with the end included to 0-based and half-open: only the start moves.
    start = int(fields[3]) - 1
    end = int(fields[4])
    sequence = genome.find(fields[0], where)
    check_interval(genome, sequence, start, end, where)
    name = _first(attributes, (f"{feature}_id", *_NAMES)) or f"{fields[0]}:{start}-{end}"
    gene = attributes.get("gene_id") or attributes.get("Parent") or name
    return Gene(name, biotype, genome.names[sequence], start, end, fields[6], gene)


def _first(attributes: dict[str, str], keys: Sequence[str]) -> str | None:
    """Return the value of the first of these attributes that is present and not empty."""
    # Some files write `gene_name "";`.
    return next((attributes[key] for key in keys if attributes.get(key)), None)


def _attributes(column: str) -> dict[str, str]:
    """Read `key "value"; ...` (GTF) or `key=value;...` (GFF3)."""
    return {
        key: value.strip('" ')
        for key, value in re.findall(r'\s*([\w.:-]+)(?:=|\s+)("[^"]*"|[^;]*);?', column)
    }


class GeneSequences(Sequence):
    """The sequences of genes, read from the genome one at a time, on access.

    >>> GeneSequences(read_genes("genes.gtf", genome), genome)[0][:3]       # doctest: +SKIP
    'ATG'
    """

    def __init__(self, genes: list[Gene], genome: SequenceFile):
        self.genes = genes
        self.genome = genome

    def __len__(self) -> int:
        return len(self.genes)

    def __getitem__(self, i: Any) -> Any:
        return self.genes[i].sequence(self.genome)
