"""The log-probability of each base given the bases before it, by a language model.

    >>> import torch
    >>> from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
    >>> from hyenadna.analysis.likelihoods import log_likelihoods
    >>> model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66))
    >>> [scores.shape for scores in log_likelihoods(model, ["ACGTTG", "GGCA"])]
    [(6,), (4,)]

As in the loss, they are natural logarithms of the softmax over the whole vocabulary. The first base
of a sequence has no context and no score. Letters other than A, C, G and T are context only. A
model of another alphabet scores all letters that stand for themselves alone.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError
from hyenadna.genomics.letters import DNA, SOFT_MASKED, Alphabet, complement_ids, is_base, is_exact, pad

from .models import LANGUAGE, alphabet_of_model, borrowed
from .sequences import encode_named

__all__ = [
    "STRANDS",
    "base_log_probabilities",
    "check_lengths",
    "check_strand",
    "log_likelihoods",
    "strands_of",
    "target_log_probabilities",
]

STRANDS = ("both", "forward", "reverse")


def check_strand(strand: str | None) -> None:
    """Raise `InputError` if `strand` is none of `STRANDS`, nor None."""
    if strand not in (None, *STRANDS):
        raise InputError(f"strand is {strand!r}; it must be one of {', '.join(STRANDS)}")


def strands_of(strand: str | None, alphabet: Alphabet = DNA) -> tuple[str, ...]:
    """Return the strands to read. None means both, or the only one of letters without a complement.

    Raises:
        InputError: The second strand of such letters is asked for.

    >>> strands_of("both")
    ('forward', 'reverse')
    """
    if alphabet.complement is None:
        if strand not in (None, "forward"):
            raise InputError(
                f"strand is {strand!r}, but the alphabet {alphabet.spec!r} of the model has no complement: "
                "use forward"
            )
        return ("forward",)
    return STRANDS[1:] if strand in (None, "both") else (strand,)


def log_probabilities_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each target, float32 `(batch, length)`.

    Args:
        logits: `(batch, length, vocabulary)`, of any type; the softmax is computed in float32.
        targets: Token ids `(batch, length)`.
    """
    log_p = logits.float().log_softmax(-1)
    return log_p.gather(2, targets[..., None])[..., 0]


def target_log_probabilities(
    model: HyenaDNAForCausalLM, hidden: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    """Return the log-probability of each token but the first; 0 if it is not A, C, G or T.

    Args:
        model: A language model, for its head.
        hidden: The output of its backbone for `ids`, `(batch, length, d_model)`.
        ids: Token ids `(batch, length)`.

    Returns:
        float32 `(batch, length - 1)`.
    """
    targets = ids[:, 1:]
    log_p = log_probabilities_of(model.lm_head(hidden[:, :-1]), targets)
    return log_p.masked_fill_(~is_base(targets), 0)


@torch.no_grad()
def base_log_probabilities(model: HyenaDNAForCausalLM, ids: torch.Tensor, chunk: int) -> torch.Tensor:
    """Return the log-probability of each token given those before it; NaN for the first.

    Args:
        model: A language model in evaluation mode.
        ids: Token ids `(batch, length)`, padded on the right, where pads have no effect.
        chunk: The most positions to read at once. Longer rows are streamed through the generation
            cache. The result is the same but for rounding; the logits of a whole chromosome would
            not fit into memory.

    Returns:
        float32 `(batch, length)`.
    """
    length = ids.shape[1]
    scores = torch.full(ids.shape, math.nan, device=ids.device)
    cache = DynamicCache(config=model.config) if length > chunk else None
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        logits = model(ids[:, start:end], past_key_values=cache).logits
        # Shifted by one: position i predicts token i + 1, also across the border of two chunks. The
        # very last position has no target.
        targets = ids[:, start + 1 : end + 1]
        scores[:, start + 1 : end + 1] = log_probabilities_of(logits[:, : targets.shape[1]], targets)
    return scores


def check_lengths(
    model: HyenaDNAForCausalLM, lengths: Sequence[int], names: Sequence[str], file: str = ""
) -> None:
    """Raise `InputError` if a sequence, of this file, is longer than the model reads."""
    longest = int(np.argmax(lengths))
    if lengths[longest] > model.config.max_seq_len:
        where = f"{file}: " if file else ""
        raise InputError(
            f"{where}{names[longest]} has {lengths[longest]:,} bases, but the model reads at most "
            f"max_seq_len={model.config.max_seq_len:,}: cut it into windows, or use a checkpoint with a "
            "longer max_seq_len"
        )


def log_likelihoods(
    model: HyenaDNAForCausalLM,
    sequences: Sequence[str],
    *,
    strand: str = "forward",
    ignore_soft_masked: bool = False,
    batch_bases: int = 2**16,
    chunk: int = 2**16,
    progress: bool = False,
) -> list[np.ndarray]:
    """Score the bases of sequences, in batches of similar length.

    Args:
        model: A language model. It is left unchanged.
        sequences: Texts of IUPAC letters, none empty and none longer than `max_seq_len`.
        strand: The strand that the model reads, `"forward"` or `"reverse"`. On the reverse strand,
            the context of a base is what follows it.
        ignore_soft_masked: Give lower-case letters no score; they are still context.
        batch_bases: The most bases in one batch, padding included.
        chunk: The most positions of a long sequence to read at once.
        progress: Show a progress bar.

    Returns:
        For each sequence, the log-probabilities of its bases, float32 `(length,)`, NaN where there
        is no score. The bases are in the order of the sequence, on the reverse strand too.

    Raises:
        InputError: A sequence is empty, too long, or has other characters, or `strand` is neither,
            or `"reverse"` for letters without a complement.

    >>> from hyenadna import HyenaDNAConfig
    >>> model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66))
    >>> np.isnan(log_likelihoods(model, ["ACNT"])[0]).tolist()
    [True, False, True, False]
    """
    if strand not in STRANDS[1:]:
        raise InputError(f"strand is {strand!r}; it must be 'forward' or 'reverse', one at a time")
    if batch_bases < 1 or chunk < 1:
        raise InputError(f"batch_bases is {batch_bases} and chunk is {chunk}; both must be at least 1")

    ids = []
    alphabet = alphabet_of_model(model)
    for i, sequence in enumerate(sequences):
        # The model reads the reverse strand from its own 5' end. The scores are reversed below.
        forward = encode_named(sequence, f"sequence {i}", alphabet)
        ids.append(complement_ids(forward, alphabet) if strand == "reverse" else forward)
    if not ids:
        return []
    lengths = [len(row) for row in ids]
    check_lengths(model, lengths, [f"sequence {i}" for i in range(len(ids))])

    results: list[np.ndarray] = [np.empty(0)] * len(ids)
    with (
        borrowed(model, LANGUAGE, "log_likelihoods") as lm,
        tqdm(total=sum(lengths), unit="base", unit_scale=True, disable=not progress) as bar,
    ):
        for rows in _batches(lengths, batch_bases):
            batch = [ids[i] for i in rows]
            for i, scores in zip(rows, _score_batch(lm, batch, chunk, ignore_soft_masked), strict=True):
                results[i] = scores[::-1].copy() if strand == "reverse" else scores
            bar.update(sum(lengths[i] for i in rows))
    return results


def _batches(lengths: Sequence[int], batch_bases: int) -> Iterator[list[int]]:
    """Yield batches of sequence numbers, the batch with the longest sequences first."""
    # Sequences of similar length need little padding. The longest come first, so that a batch that
    # does not fit into memory fails at once.
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    end = len(by_length)
    while end:
        longest = lengths[by_length[end - 1]]
        start = max(0, end - max(1, batch_bases // longest))
        yield by_length[start:end]
        end = start


def _score_batch(
    model: HyenaDNAForCausalLM, batch: list[np.ndarray], chunk: int, ignore_soft_masked: bool
) -> list[np.ndarray]:
    """Score sequences given as ids with `SOFT_MASKED` added; NaN where there is no score."""
    tokens, lengths = pad(batch)
    log_p = base_log_probabilities(model, torch.from_numpy(tokens).to(model.device), chunk).cpu().numpy()

    # One comparison for the whole batch. Row by row, this would take longer than the layers of a
    # small model on short reads.
    has_score = is_exact(alphabet_of_model(model))[tokens]
    if ignore_soft_masked:
        for row, ids in enumerate(batch):
            has_score[row, : len(ids)] &= ids < SOFT_MASKED
    scores = np.where(has_score, log_p, np.float32(math.nan))
    return [scores[row, :length].copy() for row, length in enumerate(lengths.tolist())]
