"""In-silico mutagenesis: the effect of every single substitution in a region on its likelihood.

    from hyenadna.analysis.mutations import mutagenesis
    mutagenesis(model, window, first=400, last=600)           # float64 (200, 4), for A, C, G, T

The command is `hyenadna variants --mutagenesis chr20:1000-1200`. Positions count from 0.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import DynamicCache

from hyenadna import HyenaDNAForCausalLM
from hyenadna.cache_hyenadna import branches
from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile
from hyenadna.genomics.intervals import read_regions
from hyenadna.genomics.letters import FIRST_BASE, LAST_BASE, SOFT_MASKED, complement_ids, encode, is_base
from hyenadna.training.runs.files import write_whole

from .likelihoods import target_log_probabilities
from .models import check_dna
from .pictures import draw_mutagenesis

__all__ = ["Region", "mutagenesis", "read_region", "run_mutagenesis"]


def mutagenesis(
    model: HyenaDNAForCausalLM,
    sequence: str,
    first: int,
    last: int,
    batch_size: int = 32,
    progress: bool = False,
) -> np.ndarray:
    """Score substitutions: the log-likelihood of the mutated window minus that of the window.

    Args:
        model: A language model; it is put into evaluation mode.
        sequence: The window.
        first: The positions [first, last) of the window are mutated, counted from 0.
        last: See `first`.
        batch_size: The number of substitutions to read at once.
        progress: Show a progress bar for each strand.

    Returns:
        Log-likelihood ratios in nats, float64 `(last - first, 4)`, for A, C, G, T, averaged over
        both strands. 0 for the reference base; NaN where the window has no A, C, G or T.

    Raises:
        InputError: The positions are outside the sequence, it has other characters, or the model
            has another alphabet than DNA.

    >>> from hyenadna import HyenaDNAConfig
    >>> model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66))
    >>> mutagenesis(model, "ACGTTGCA", 2, 5).shape
    (3, 4)
    """
    if not 0 <= first < last <= len(sequence):
        raise InputError(f"cannot mutate positions {first} to {last}: the sequence has {len(sequence)} bases")
    check_dna(model, "mutagenesis")
    model.eval()
    ids = encode(sequence) % SOFT_MASKED
    ids_of_reverse = complement_ids(ids)
    length = len(ids)

    forward = _substitute(model, ids, first, last, batch_size, progress)
    reverse = _substitute(model, ids_of_reverse, length - last, length - first, batch_size, progress)
    # Back to the forward strand: reverse the positions, and also the columns, because A, C, G, T
    # become T, G, C, A.
    reverse = reverse[::-1, ::-1]

    # Relative to the base that is there. If it is none of the four (N), nothing can be compared.
    letters = ids[first:last].astype(int)
    is_known = is_base(letters)
    reference = np.where(is_known, letters - FIRST_BASE, 0)[:, None]
    scores = 0
    for strand in (forward, reverse):
        scores = scores + (strand - np.take_along_axis(strand, reference, 1))
    return np.where(is_known[:, None], scores / 2, math.nan)


@torch.no_grad()
def _substitute(
    model: HyenaDNAForCausalLM, ids: np.ndarray, first: int, last: int, batch_size: int, progress: bool
) -> np.ndarray:
    """Return the log-likelihood of a sequence with each base at the positions [first, last).

    The model is causal, so a substitution changes nothing before it. The sequence is read into a
    cache once, up to a few neighbouring positions. From there it is read again for each
    substitution at one of these.

    Args:
        model: A language model in evaluation mode.
        ids: The ids of the sequence, uint8 `(length,)`, without lower case.
        first: The first position, counted from 0.
        last: The position after the last one.
        batch_size: The number of substitutions to read at once.
        progress: Show a progress bar.

    Returns:
        float64 `(last - first, 4)`, for A, C, G, T.
    """
    x = torch.from_numpy(ids.astype(np.int64)).to(model.device)
    log_p = model(x[None]).logits[0].float().log_softmax(-1)  # (length, vocabulary)
    # The output at a position predicts the next one.
    p = log_p[:-1].gather(1, x[1:, None])[:, 0]
    p = p.double().masked_fill(~is_base(x[1:]), 0)
    p = F.pad(p, (1, 0))  # the first base has no prediction
    sum_before = p.cumsum(0) - p

    result = torch.full((last - first, 4), float(p.sum()), dtype=torch.float64, device=x.device)
    bases = torch.arange(FIRST_BASE, LAST_BASE + 1, device=x.device)
    cache = DynamicCache(config=model.config)
    cached = 0
    # A base has three substitutions, an N four. So a batch may be somewhat larger than asked for.
    positions_at_a_time = max(1, batch_size // 3)
    for start in tqdm(range(first, last, positions_at_a_time), unit="batch", disable=not progress):
        positions = torch.arange(start, min(start + positions_at_a_time, last), device=x.device)
        offset, base = torch.nonzero(x[positions, None] != bases, as_tuple=True)
        rows = x[start:].repeat(len(offset), 1)
        rows[torch.arange(len(offset)), offset] = bases[base]

        if start == 0:
            hidden = model.hyena(rows).last_hidden_state
        else:
            # Extend the cache by the reference up to this batch. Then let every row continue from a
            # branch of it, which leaves the cache itself as it was.
            model.hyena(x[None, cached:start], past_key_values=cache)
            cached = start
            with branches(cache, torch.zeros_like(offset)):
                hidden = model.hyena(rows, past_key_values=cache).last_hidden_state

        # The log-likelihood is a sum over positions, here in three terms:
        # - before the substitution, nothing changes;
        # - the new base itself is read off the first pass;
        # - only what follows it needs this pass.
        log_p_after = target_log_probabilities(model, hidden, rows)
        is_before = torch.arange(1, rows.shape[1], device=x.device) <= offset[:, None]
        sum_after = log_p_after.masked_fill_(is_before, 0).double().sum(1)
        at = positions[offset]
        log_p_of_base = log_p[(at - 1).clamp(min=0), bases[base]].double().masked_fill(at == 0, 0)
        result[at - first, base] = sum_before[at] + log_p_of_base + sum_after
    return result.cpu().numpy()


# ------------------------------------------------------------------------------ the command


@dataclass
class Region:
    """A region to mutate, and the window around it that the model reads.

    Attributes:
        sequence: The number of the chromosome in the genome.
        chromosome: Its name.
        start: Start of the region, from 0.
        end: End of the region, half-open.
        window_start: Start of the window, from 0.
        window_end: End of the window, half-open.
    """

    sequence: int
    chromosome: str
    start: int
    end: int
    window_start: int
    window_end: int

    @property
    def name(self) -> str:
        """The region as text, `chr20:1,000-1,200`, counted from 0."""
        return f"{self.chromosome}:{self.start:,}-{self.end:,}"


def read_region(genome: SequenceFile, text: str, window: int) -> Region:
    """Return the region of `hyenadna variants --mutagenesis`, with its window.

    Args:
        genome: The genome.
        text: `chr20:1,000-1,200` (0-based, half-open), or the name of a sequence.
        window: The number of bases that the model reads, with the region in their middle. Near the
            ends of the sequence it is not.

    Raises:
        InputError: The region is not in the genome or longer than the window, or a letter in the
            window stands for no nucleotide.
    """
    if text.lower().endswith(".bed"):
        raise InputError("mutagenesis takes one region, such as chr20:1000-1200")
    ((_, sequence, start, end),) = read_regions([text], [genome], "mutagenesis").tolist()
    if end - start > window:
        raise InputError(
            f"the region of mutagenesis has {end - start:,} bases, but the window has {window:,}"
        )

    left = max(0, start - (window - (end - start)) // 2)
    right = min(left + window, int(genome.lengths[sequence]))
    genome.check_letters(sequence, left, genome.read(sequence, left, right))
    return Region(sequence, genome.names[sequence], start, end, left, right)


def run_mutagenesis(
    model: HyenaDNAForCausalLM, genome: SequenceFile, region: Region, output: Path, batch_size: int = 32
) -> pd.DataFrame:
    """Score all substitutions in a region, and write `mutagenesis.tsv` and `mutagenesis.png`.

    Args:
        model: A language model.
        genome: The genome.
        region: From `read_region`.
        output: The folder to write into.
        batch_size: The number of substitutions to read at once.

    Returns:
        A row for each substitution: `chrom`, `position` (from 0), `ref`, `alt` and `llr`.
    """
    window = genome.letters(region.sequence, region.window_start, region.window_end)
    first = region.start - region.window_start
    last = region.end - region.window_start
    scores = mutagenesis(model, window, first, last, batch_size, progress=True)

    rows = []
    for i, ref in enumerate(window[first:last].upper()):
        row = {"chrom": region.chromosome, "position": region.start + i, "ref": ref}
        rows += [{**row, "alt": alt, "llr": scores[i, j]} for j, alt in enumerate("ACGT") if alt != ref]
    table = pd.DataFrame(rows)

    path = output / "mutagenesis.tsv"
    write_whole(path, lambda temporary: table.to_csv(temporary, sep="\t", index=False, na_rep="nan"))
    draw_mutagenesis(output / "mutagenesis.png", scores, region.start, region.name)
    print(f"{len(table):,} substitutions of {region.name}: {path} and .png")
    return table
