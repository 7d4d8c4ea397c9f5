"""What the model does with inputs around its blocks: checks, masks, shifted labels, pooling.

Checks and branches on values run only where values can be read: not while a graph is traced, and
not with `config.check_inputs=False`, since reading a value makes the host wait for the device.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from transformers.cache_utils import Cache

from .configuration_hyenadna import HyenaDNAConfig
from .transformers_api import NEWEST_TESTED, is_tracing

# What Transformers, Trainer, accelerate, peft and pipelines pass to `forward` beside its own
# arguments.
OTHER_ARGUMENTS = {
    "output_hidden_states",  # read by Transformers' decorators
    "return_dict",
    "output_attentions",  # peft passes it with any value; there are none
    "num_items_in_batch",  # read by the loss functions
    "shift_labels",
    "position_ids",  # checked, and of no use: a convolution counts by itself
    "token_type_ids",  # of older tokenizers
}


def may_read(config: HyenaDNAConfig, x: torch.Tensor) -> bool:
    """Return whether the values of `x` may be read in order to check them."""
    return config.check_inputs and not (is_tracing(x) or x.is_meta)


def check_arguments(config: HyenaDNAConfig, kwargs: Mapping[str, Any]) -> None:
    """Raise where an argument would be ignored that was meant to change something.

    Raises:
        TypeError: The model does not know a name. A cache that comes under an unknown name, as from
            a newer release of Transformers, would silently give wrong results.
        ValueError: Attentions or segments are asked for.
    """
    unknown = [name for name, value in kwargs.items() if value is not None and name not in OTHER_ARGUMENTS]
    for name in unknown:
        if isinstance(kwargs[name], Cache):
            raise TypeError(
                f"A cache came as `{name}`, which HyenaDNA does not know: it takes `past_key_values` or "
                f"`cache`. If `generate` passed it, this Transformers ({transformers.__version__}) is "
                f"too new; {NEWEST_TESTED} is the newest that was tested. `use_cache=False` does "
                "without a cache."
            )
    if unknown:
        raise TypeError(
            f"HyenaDNA does not know {', '.join(f'`{name}`' for name in unknown)}, and would ignore it. "
            "It takes `input_ids` or `inputs_embeds`, `attention_mask`, `past_key_values` (or `cache`) "
            "and `use_cache`, with a head `labels`, with that of a language model `logits_to_keep`; and "
            f"{', '.join(f'`{name}`' for name in sorted(OTHER_ARGUMENTS))}."
        )
    if kwargs.get("output_attentions"):
        raise ValueError(
            "`output_attentions` was asked for, but HyenaDNA has no attention. `output_hidden_states` works."
        )
    types = kwargs.get("token_type_ids")
    if types is not None and may_read(config, types) and types.any():
        raise ValueError(
            "`token_type_ids` holds other numbers than 0, but HyenaDNA knows no segments. Leave it out, "
            "or, for pairs, join the sequences with `[SEP]`."
        )


def check_positions(
    config: HyenaDNAConfig,
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    inputs_embeds: torch.Tensor,
) -> None:
    """Raise if positions start again inside a row, as in a padding-free batch.

    The model would read such a row as one sequence.
    """
    if position_ids is None or not may_read(config, position_ids):
        return
    batch, length = inputs_embeds.shape[:2]
    if position_ids.ndim != 2 or position_ids.shape[0] not in (1, batch) or position_ids.shape[1] != length:
        raise ValueError(
            f"`position_ids` has shape {tuple(position_ids.shape)}, but the input has (batch, length) = "
            f"{(batch, length)}. HyenaDNA counts positions by itself: leave it out."
        )
    if attention_mask is not None:  # each library has its own number for a pad
        mask = attention_mask[:, -length:].to(position_ids.device) != 0
        position_ids = torch.where(mask, position_ids, -1)
    before = position_ids.cummax(dim=1).values[:, :-1]
    again = (position_ids[:, 1:] <= before) & (position_ids[:, 1:] >= 0)
    if again.any():
        row, position = again.nonzero()[0].tolist()
        raise ValueError(
            f"`position_ids` start again at position {position + 1} of row {row}: a batch without padding "
            "(`DataCollatorWithFlattening`, `padding_free=True`) has several sequences in a row, and a "
            "convolution would run through all of them. Pad instead: with an `attention_mask` each is "
            "computed as if it were alone."
        )


def one_input(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """Return the token ids or the embeddings, whichever came.

    Raises:
        ValueError: Both came, or neither.
    """
    if input_ids is not None and inputs_embeds is None:
        return input_ids
    if inputs_embeds is not None and input_ids is None:
        return inputs_embeds
    raise ValueError("Pass `input_ids` or `inputs_embeds`: exactly one of them.")


def check_shape(config: HyenaDNAConfig, name: str, x: torch.Tensor, past: int = 0) -> None:
    """Raise if the input has the wrong shape, is empty, or is too long with what is in the cache."""
    expected = "(batch, length)" if name == "input_ids" else "(batch, length, d_model)"
    if x.ndim != expected.count(",") + 1:
        raise ValueError(f"`{name}` has shape {tuple(x.shape)}, but {expected} was expected.")
    if x.ndim == 3 and x.shape[2] != config.d_model:
        raise ValueError(
            f"`inputs_embeds` is {x.shape[2]} wide, but the model's d_model is {config.d_model}."
        )
    if x.shape[1] == 0:
        raise ValueError(
            f"`{name}` has shape {tuple(x.shape)}: the sequences are empty. Pass at least one token each."
        )
    if past + x.shape[1] > config.max_seq_len:
        in_cache = f", and {past} are in the cache" if past else ""
        raise ValueError(
            f"`{name}` is {x.shape[1]} tokens long, padding and prompts included{in_cache}, but the "
            f"model takes at most max_seq_len={config.max_seq_len}. Truncate the input (`tokenizer(..., "
            f"truncation=True, max_length={config.max_seq_len})`), cut it into windows, or use a "
            "checkpoint with a longer max_seq_len."
        )


def check_range(
    config: HyenaDNAConfig, ids: torch.Tensor, name: str, size: int, ignored: int | None = None
) -> None:
    """Raise if an id is not in [0, size).

    Otherwise it would be an index error deep inside, or on a GPU the end of the process.
    """
    if not may_read(config, ids):
        return
    wrong = (ids < 0) | (ids >= size)
    if ignored is not None:
        wrong &= ids != ignored
    if wrong.any():
        position = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"`{name}` holds {ids[position].item()} at position {position}, but it has to be in [0, {size})"
            + (f" or {ignored} to be ignored." if ignored is not None else ".")
        )


def read_mask(
    config: HyenaDNAConfig,
    attention_mask: torch.Tensor | None,
    inputs_embeds: torch.Tensor,
    past_length: int | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the mask as booleans, and for each row its positions with pads first.

    Each is `None` where it is not needed.

    Args:
        config: Its `check_inputs` says whether values may be read.
        attention_mask: Of shape (batch, past + length).
        inputs_embeds: Of shape (batch, length, d_model).
        past_length: Number of positions in the cache, or `None` where there is no cache, and
            nothing will follow.
    """
    if attention_mask is None:
        return None, None
    past = past_length or 0
    batch, length = inputs_embeds.shape[:2]
    if attention_mask.shape != (batch, past + length):
        follows = f", and follows {past} positions in the cache" if past else ""
        raise ValueError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)}, but the input has (batch, length) = "
            f"{(batch, length)}{follows}."
        )
    mask = attention_mask[:, past:].to(inputs_embeds.device) != 0
    if not may_read(config, mask):  # no branch on values here
        return mask, positions_pads_first(mask)

    on_cpu = mask.cpu()
    if past_length is None:
        empty = (~on_cpu.any(dim=1)).nonzero()
        if len(empty):
            raise ValueError(
                f"Row {empty[0].item()} of `attention_mask` is 0 everywhere: that sequence has no token."
            )
    if on_cpu.all():
        return None, None

    if past_length is None:
        # Nothing depends on pads to the right of all tokens, and pads to the left are zeros before
        # the sequence. Only a pad between two tokens is in the way.
        runs_of_tokens = (on_cpu[:, 1:] & ~on_cpu[:, :-1]).sum(dim=1) + on_cpu[:, 0]
        in_the_way = (runs_of_tokens != 1).any()
    else:
        # What follows the cached positions will see a pad on the right, too.
        in_the_way = (~on_cpu[:, 1:] & on_cpu[:, :-1]).any()
    if in_the_way:
        return mask, positions_pads_first(mask)
    return mask, None


def positions_pads_first(mask: torch.Tensor) -> torch.Tensor:
    """Return each row's positions, those of pads before those of tokens: (batch, length).

    Both are in order from left to right.
    """
    # A key without ties gives what a stable sort of the mask would give, and ONNX has no stable
    # sort.
    length = mask.shape[1]
    return (mask.to(torch.int64) * length + torch.arange(length, device=mask.device)).argsort(dim=1)


def next_token_labels(labels: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the label that each position must predict: that of the next token, pads skipped.

    It is -100 where there is none. A pad is not a target, nor does it predict one, so nothing
    predicts the first token of a row.
    """
    if attention_mask is None:
        return F.pad(labels, (0, 1), value=-100)[:, 1:]
    mask = attention_mask.to(labels.device) != 0
    positions = positions_pads_first(mask)
    targets = labels.masked_fill(~mask, -100).gather(1, positions)
    targets = F.pad(targets, (0, 1), value=-100)[:, 1:].masked_fill(~mask.gather(1, positions), -100)
    return torch.empty_like(targets).scatter(1, positions, targets)


def pool(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Pool (batch, length, d_model) over the unmasked positions to (batch, d_model)."""
    batch, length, _ = hidden_states.shape
    if attention_mask is None:
        mask = torch.ones(batch, length, dtype=torch.bool, device=hidden_states.device)
    else:
        mask = attention_mask.to(hidden_states.device) != 0
    if pooling == "max":
        return hidden_states.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
    if pooling == "mean":
        # One matrix product per row, in at least float32: a sum over a million positions is too
        # large or too coarse for half precision.
        weight = mask / mask.sum(dim=1, keepdim=True)
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        return torch.einsum("bl,bld->bd", weight.to(dtype), hidden_states.to(dtype)).to(hidden_states.dtype)
    positions = torch.arange(length, device=hidden_states.device)
    if pooling == "last":
        index = torch.where(mask, positions, -1).amax(dim=1)
    else:
        index = torch.where(mask, positions, length).amin(dim=1)
    return hidden_states[torch.arange(batch, device=hidden_states.device), index]


def check_labels(config: HyenaDNAConfig, labels: torch.Tensor, inputs: torch.Tensor, size: int) -> None:
    """Raise if the labels of a batch have another shape than its inputs, or an id is out of range."""
    if labels.shape != inputs.shape[:2]:
        raise ValueError(
            f"`labels` has shape {tuple(labels.shape)}, but the input has (batch, length) = "
            f"{tuple(inputs.shape[:2])}. If a soft prompt stands in front of the input, put as many "
            "-100 in front of the labels."
        )
    check_range(config, labels, "labels", size, ignored=-100)


def sequence_labels(config: HyenaDNAConfig, labels: torch.Tensor, batch: int) -> torch.Tensor:
    """Return the labels of a sequence classifier: integers for classes, else numbers.

    Raises:
        ValueError: Their shape or a value does not fit the configuration.
    """
    kind = config.problem_type
    count = config.class_count
    if kind is None:
        kind = "regression" if count == 1 else "multi_label_classification"
        if count > 1 and not labels.is_floating_point():
            kind = "single_label_classification"
    shapes: list[tuple[int, ...]] = [(batch, count)]
    if count == 1:
        shapes = [(batch,), (batch, 1)]
    elif kind == "single_label_classification":
        shapes = [(batch,)]
    if tuple(labels.shape) not in shapes:
        raise ValueError(
            f"`labels` has shape {tuple(labels.shape)}, but for problem_type={kind!r} and num_labels={count} "
            f"{' or '.join(map(str, shapes))} was expected."
        )
    if kind == "single_label_classification":
        check_range(config, labels, "labels", count, ignored=-100)
        return labels.long()
    labels = labels if labels.is_floating_point() else labels.float()
    if may_read(config, labels):
        wrong = ~labels.isfinite() if kind == "regression" else ~((labels >= 0) & (labels <= 1))
        if wrong.any():
            position = tuple(wrong.nonzero()[0].tolist())
            expected = "a finite number" if kind == "regression" else "between 0 and 1"
            raise ValueError(
                f"`labels` holds {labels[position].item()} at position {position}, but for "
                f"problem_type={kind!r} it has to be {expected}."
            )
    return labels
