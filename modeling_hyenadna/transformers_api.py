"""What the model needs of Transformers that is private or young, in one place, and what it does about other releases.

A name that starts with an underscore, or that came in the last year, may go in any release (one every twelve days).
This is all that the files which travel to the Hub rely on, with the first release that has it in this form:

    capture_outputs, `_can_record_outputs`       5.2   hidden states by hooks on the blocks
    is_tracing                                   5.0   no branch on values in a graph
    GradientCheckpointingLayer                   5.0   `gradient_checkpointing` of a block; the cache is our own affair
    initialization, `_init_weights`              5.0   initial weights that do not touch loaded ones
    `_keep_in_fp32_modules_strict`               5.0
    `_tied_weights_keys` as a dictionary         5.0
    `_skip_keys_device_placement`                5.0   under both names of the cache
    `_load_pretrained_model`                     5.4   where files are known and nothing is loaded
    load_state_dict (checkpoint_hyenadna.py)     5.0
    `@strict`, `validate_layer_type`             5.4   a configuration is a dataclass (configuration_hyenadna.py)
    `_prepare_generated_length`                  5.0   the early message about a length; without it, a late one
    prepare_inputs_for_generation                5.0   with `is_first_iteration`
    DynamicCache(config=...), `_layer_type`      5.14  a cache layer registers itself (cache_hyenadna.py)
    `layer_class_to_replicate`                   5.0   a cache that was made without a configuration
    crop(tokens_to_remove)                       5.15  a negative number, for assisted decoding
    is_croppable                                 5.17  asked for by assisted decoding since then

The oldest release that works is 5.16, where assisted decoding got the form of `crop` that it has today.
"""

import warnings

import torch
import transformers
from packaging.version import Version
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

__all__ = ["CACHE", "GradientCheckpointingLayer", "capture_outputs", "check_generation", "is_tracing", "one_cache"]

# The newest release that the whole test suite passes on. `generate` is checked at run time on a newer one.
NEWEST_TESTED = "5.24.0"

# What the installed release calls the cache in outputs and in `generate`: renamed in 5.24. `forward` takes both names.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def one_cache(past_key_values, cache):
    """The cache, under whichever of its two names it came.

    Raises:
        ValueError: Two different ones came.
    """
    if cache is None or cache is past_key_values:
        return past_key_values
    if past_key_values is not None:
        raise ValueError(
            "`past_key_values` and `cache` are two names of one argument, but they differ. Pass one of them."
        )
    return cache


_checked = False


def check_generation(model_class) -> None:
    """Warn, once a process, if `generate` of a release newer than the newest tested is wrong with a cache.

    A release that hands over the cache under another name would generate from the last token alone, without a word:
    5.24 did. A toy model generates a few tokens here, and its logits are compared with those of a full pass. Nothing
    of the caller's is touched: neither a model nor the state of the random numbers.

    Args:
        model_class: `HyenaDNAForCausalLM`; the copy of it that calls, where there are several.
    """
    global _checked
    if _checked or Version(transformers.__version__) <= Version(NEWEST_TESTED):
        return
    _checked = True  # first, because the toy generates too
    try:
        error = _generation_error(model_class)
    except Exception as exception:
        error = f"it raised {type(exception).__name__}: {exception}"
    if error:
        warnings.warn(
            f"`generate` of Transformers {transformers.__version__} does not work with HyenaDNA's cache ({error}). The "
            f"newest release that was tested is {NEWEST_TESTED}: install that one (`pip install transformers=="
            f"{NEWEST_TESTED}`), or pass `use_cache=False` to `generate`, which is slower.",
            stacklevel=3,
        )


def _generation_error(model_class) -> str | None:
    """What is wrong with the logits of a toy model that generates with a cache, or `None`."""
    new = 4
    # The toy is on the CPU, so no other device's random numbers are used.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.autocast("cpu", enabled=False), torch.no_grad():
        torch.manual_seed(0)
        config = model_class.config_class(d_model=4, n_layer=2, filter_order=4, max_seq_len=16)
        toy = model_class(config).double().eval()
        for parameter in toy.parameters():
            parameter.normal_(std=0.5)  # the initial weights are so small that a lost past would hardly show
        ids = torch.tensor([[7, 8, 9, 10, 11, 7], [4, 4, 10, 7, 7, 9]])
        mask = (ids != config.pad_token_id).long()
        out = toy.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
        mask = torch.cat([mask, mask.new_ones(len(mask), new)], dim=1)
        expected = toy(out.sequences, attention_mask=mask).logits[:, -new - 1 : -1]
        logits = torch.stack(out.logits, dim=1).to(expected.dtype)
    difference = float((logits - expected).abs().max() / expected.std())
    return f"its logits differ by {difference:.2g} standard deviations" if difference > 1e-4 else None
