"""Everything private or young in Transformers that this package leans on, and what it does about
other releases.

A name that starts with an underscore or came lately may go in any release, and there is one about
every twelve days. The number is the first release that has the name in the form that is used here.

    In the files that travel to the Hub:
    capture_outputs, `_can_record_outputs`     5.2   hidden states, by hooks on the blocks
    is_tracing                                 5.0   no branch on values while a graph is traced
    GradientCheckpointingLayer                 5.0   a block that runs again in the backward pass
    initialization, `_init_weights`            5.0   initial weights, which leave loaded ones alone
    `_keep_in_fp32_modules_strict`             5.0   the filters
    `_keep_in_fp32_modules`                    5.16  what quantizers leave alone; else integers are refused
    `_get_stopping_criteria`                   5.16  `stop_strings`; without it, the library's error
    `_from_model_config`                       5.16  whether a generation configuration was read from a file
    init_continuous_batching                   5.16  only to refuse it
    `_tied_weights_keys`, a dictionary         5.0
    `_skip_keys_device_placement`              5.0   the cache, by both names
    `_load_pretrained_model`, load_state_dict  5.4   where the files are known and nothing is loaded yet
    `@strict`, `validate_layer_type`           5.4   a configuration is a dataclass
    `_prepare_generated_length`                5.0   an early message about the length
    prepare_inputs_for_generation              5.0   with `is_first_iteration`
    `_layer_type`                              5.14  a cache layer registers for `DynamicCache(config=...)`
    `activate_past_recording`                  5.14  older: `supports_early_init`, `get_max_length`
    crop, of a negative number                 5.15  likewise
    is_croppable                               5.17  likewise, and asked for since then
    `layer_class_to_replicate`                 5.0   of a cache that was made without a configuration

    Elsewhere:
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES          5.0   __init__: label smoothing of Trainer
    `_encode_plus`, `_tokenizer`, `_eventual_warn_about_too_long_sequence`   5.0   the tokenizer
    `create_accelerator_and_postprocess`, `_get_num_items_in_batch`          5.0   Trainer
    `_loss_shifts_labels`                      5.10  Trainer
    rotate_checkpoints                         5.2   pretraining
    get_relative_import_files                  5.0   export

5.16 is the oldest release on which everything works: on 5.15 assisted decoding raises, and 5.13 has
no `_layer_type`.
"""

import warnings

import torch
import transformers
from packaging.version import Version
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

__all__ = [
    "CACHE",
    "GradientCheckpointingLayer",
    "capture_outputs",
    "generates_with_cache",
    "is_tracing",
    "one_cache",
]

# The newest release that the whole test suite passes on. `generate` is checked at run time on a
# newer one.
NEWEST_TESTED = "5.24.0"

# What the installed release calls the cache in outputs and in `generate`: renamed in 5.24.
# `forward` takes both names.
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


# with `generate` of the installed release; not known before the first call
_cache_works: bool | None = None


def generates_with_cache(model_class) -> bool:
    """Whether `generate` of the installed release is right with our cache; if not, a warning says
    so once a process.

    A release that hands over the cache under another name would generate from the last token alone,
    without a word: 5.24 did. So on a release newer than the newest tested, a toy model generates a
    few tokens, and its logits are compared with those of a full pass. Neither the caller's model
    nor the state of the random numbers is touched.

    Args:
        model_class: `HyenaDNAForCausalLM`, of the copy of this code that asks.
    """
    global _cache_works
    if _cache_works is None:
        _cache_works = True  # first, because the toy generates too
        error = None
        if Version(transformers.__version__) > Version(NEWEST_TESTED):
            error = _generation_error(model_class)
        if error is not None:
            _cache_works = False
            warnings.warn(
                f"`generate` of Transformers {transformers.__version__} does not work with HyenaDNA's "
                f"cache: {error}. This process generates without a cache, which gives the same tokens, "
                f"slower. The newest release that was tested is {NEWEST_TESTED}: `pip install "
                f"transformers=={NEWEST_TESTED}`.",
                stacklevel=3,
            )
    return _cache_works


def _generation_error(model_class) -> str | None:
    """What is wrong with the logits of a toy model that generates with a cache, or `None`."""
    try:
        difference = _toy_difference(model_class)
    except Exception as error:  # of any kind: nobody knows what the release does
        return f"{type(error).__name__}: {error}"
    if difference > 1e-4:
        return f"logits differ by {difference:.2g} of their standard deviation from those of a full pass"
    return None


@torch.no_grad()
def _toy_difference(model_class) -> float:
    """Largest difference of the logits of `generate` and of a full pass, in standard deviations."""
    new = 4
    # Everything is on the CPU, so no other device's random numbers are used.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.autocast("cpu", enabled=False):
        torch.manual_seed(0)
        toy = model_class(model_class.config_class(d_model=4, filter_order=4, max_seq_len=16)).double().eval()
        for parameter in toy.parameters():
            # with the initial weights, which are small, a lost past would hardly show
            parameter.normal_(std=0.5)
        out = toy.generate(
            torch.tensor([[7, 8, 9, 10, 11, 7], [10, 8, 10, 7, 7, 9]]),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
        expected = toy(out.sequences).logits[:, -new - 1 : -1]
    logits = torch.stack(out.logits, dim=1).to(expected.dtype)  # Transformers keeps them in float32
    return float((logits - expected).abs().max() / expected.std())
