"""Operations on DNA strings that recipes share."""

# Every IUPAC letter has a complement; U pairs like T. Case is kept, so soft-masking survives.
_COMPLEMENT = str.maketrans("ACGTUNRYSWKMBDHVacgtunryswkmbdhv", "TGCAANYRSWMKVHDBtgcaanyrswmkvhdb")


def reverse_complement(sequence: str) -> str:
    """Return the other strand of `sequence`, read 5' to 3'. Letters outside of the IUPAC code are kept as they are.

    >>> reverse_complement("AACg")
    'cGTT'
    """
    return sequence.translate(_COMPLEMENT)[::-1]


def strand_free(sequence: str) -> str:
    """Return one spelling for a sequence and its reverse complement, without regard to case and to U or T.

    Two sequences with the same spelling are the same double-stranded DNA.
    """
    sequence = sequence.upper().replace("U", "T")
    return min(sequence, reverse_complement(sequence))
