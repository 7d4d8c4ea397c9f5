"""Small genomes for tests, written to files."""

from pathlib import Path

import numpy as np

from hyenadna.genomics.intervals import Intervals


def random_dna(n: int, seed: int = 0, letters: str = "ACGT") -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), n))


def write_fasta(path: Path, sequences: dict[str, str], width: int = 7, end: str = "\n") -> Path:
    """Write FASTA. The line width of 7 divides nothing that the tests ask for."""
    with open(path, "w", newline="") as file:
        for name, sequence in sequences.items():
            lines = [sequence[i : i + width] for i in range(0, len(sequence), width)]
            file.write(end.join([f">{name} a description", *lines]) + end)
    return path


GENOME = {"1": random_dna(103), "2": "n" * 40 + random_dna(60, 1, "ACGTacgtNRy"), "X": random_dna(20, 2)}


def windows(*rows) -> Intervals:
    return Intervals.of(rows)


def covered(parts: Intervals) -> list[tuple[int, int, int]]:
    """Return every base of these windows as (file, sequence, position)."""
    return [(file, seq, i) for file, seq, start, end in parts.tolist() for i in range(start, end)]


def make_genome(folder: Path) -> Path:
    """Write 1,500 bases in which G mostly follows C, with some N and lower case.

    A tiny model learns that rule within 20 epochs.
    """
    rng = np.random.default_rng(5)
    dna = list(random_dna(1500, 5))
    for i in range(1, len(dna)):
        if dna[i - 1] == "C" and rng.random() < 0.8:
            dna[i] = "G"
    dna = "".join(dna)
    dna = dna[:300] + "N" * 70 + dna[370:600] + dna[600:640].lower() + dna[640:]
    return write_fasta(folder / "g.fa", {"1": dna[:1000], "2": dna[1000:]}, width=50)
