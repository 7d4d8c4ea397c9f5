"""What `generate` asks a model: its cache, length and vocabulary, pads, and stop strings."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.generation import GenerationConfig, GenerationMixin, StoppingCriteria, StoppingCriteriaList

from .configuration_hyenadna import HyenaDNAConfig
from .inputs_hyenadna import positions_pads_first
from .transformers_api import CACHE, generates_with_cache, one_cache

# Tokens that are neither a letter nor the end of a sequence: `generate` must not emit them.
_SPECIAL_TOKENS = [0, 2, 3, 4, 5, 6]


if TYPE_CHECKING:

    class _GenerationMixin(GenerationMixin):
        """What the mixin uses of the model that it is mixed into."""

        generation_config: GenerationConfig

        def __getattr__(self, name: str) -> Any: ...
        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any: ...
        def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding: ...

else:
    _GenerationMixin = GenerationMixin


class HyenaDNAGenerationMixin(_GenerationMixin):
    """`generate` for `HyenaDNAForCausalLM`."""

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load as in Transformers.

        A folder without generation_config.json, such as the published ones, gets our defaults.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # Transformers makes a configuration for such a folder, but knows nothing of the vocabulary.
        set_generation_defaults(model.generation_config, model.config)
        return loaded

    def generate(self, inputs=None, generation_config=None, *args, **kwargs):
        """Generate as in Transformers, with the one kind of cache that HyenaDNA has.

        `use_cache=False` gives the same tokens, more slowly. A cache to continue may be passed as
        `cache` or as `past_key_values`, whatever the release.

        Raises:
            ValueError: Another kind of cache is asked for, or the prompt and `max_new_tokens`
                exceed `max_seq_len`.
        """
        for settings in (generation_config, self.generation_config):
            kind = kwargs.get("cache_implementation") or getattr(settings, "cache_implementation", None)
            if kind is not None:
                break
        if kind not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={kind!r} is for attention: HyenaDNA has one kind of cache, which "
                "grows as it is used. Leave it out, or pass 'dynamic'."
            )
        cache = one_cache(kwargs.pop("past_key_values", None), kwargs.pop("cache", None))
        if not generates_with_cache(type(self)):
            if cache is not None:
                raise ValueError(
                    "No cache can be continued: `generate` of this Transformers release cannot use it."
                )
            kwargs["use_cache"] = False
        if cache is not None:
            kwargs[CACHE] = cache
        return super().generate(inputs, generation_config, *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        cache: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        cache = one_cache(past_key_values, cache)
        if next_sequence_length is not None and next_sequence_length <= 0:
            raise ValueError(
                f"The cache holds {cache.get_seq_length()} positions, but the prompt has "
                f"{cache.get_seq_length() + next_sequence_length}: nothing is left to read. Leave the "
                "prompt's last token out of the cache, or pass all tokens so far and one more."
            )
        kwargs.pop("tokenizer", None)  # for stop strings: `generate` hands it on to every model
        if inputs_embeds is not None and is_first_iteration:
            self._prompt_length = input_ids.shape[1]  # in token ids: 0 where only embeddings came
        elif inputs_embeds is not None and cache is None:
            # The prompt came as embeddings. The tokens generated since, at the end of `input_ids`,
            # follow it.
            generated = self.get_input_embeddings()(input_ids[:, self._prompt_length :])
            inputs_embeds = torch.cat([inputs_embeds, generated.to(inputs_embeds.dtype)], dim=1)
            is_first_iteration = True

        inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{CACHE: cache},
            **kwargs,
        )
        # peft up to 0.21 looks for the older name on every release. Without it, it would put the
        # soft prompt in front again.
        if CACHE in inputs:
            inputs["past_key_values"] = inputs[CACHE]
        _move_right_pads(inputs)
        return inputs

    def _prepare_generated_length(
        self,
        generation_config,
        has_default_max_length,
        has_default_min_length,
        model_input_name,
        input_ids_length,
        inputs_tensor,
    ):
        """Refuse what would not fit, before anything is generated."""
        generation_config = super()._prepare_generated_length(
            generation_config,
            has_default_max_length,
            has_default_min_length,
            model_input_name,
            input_ids_length,
            inputs_tensor,
        )
        # `peft` replaces this method by its own, which puts a soft prompt in front of the tokens.
        adapter = getattr(
            getattr(self.prepare_inputs_for_generation, "__self__", None), "active_peft_config", None
        )
        soft_prompt = getattr(adapter, "num_virtual_tokens", None) or 0
        prompt = inputs_tensor.shape[1] + soft_prompt
        length = prompt + generation_config.max_length - input_ids_length
        if length > self.config.max_seq_len:
            raise ValueError(
                f"Prompt ({prompt} tokens) and new tokens may reach a length of {length}, but the model "
                f"takes at most max_seq_len={self.config.max_seq_len}. Ask for fewer `max_new_tokens`, "
                "or shorten the prompt."
            )
        return generation_config

    def _get_stopping_criteria(self, generation_config, stopping_criteria, tokenizer=None, **kwargs):
        stop_strings = generation_config.stop_strings
        if stop_strings is None or tokenizer is None:
            return super()._get_stopping_criteria(
                generation_config, stopping_criteria, tokenizer=tokenizer, **kwargs
            )
        # The library's own criterion fails here: it encodes "abcdef" and expects it back from the
        # tokenizer, which knows its letters only.
        criteria = StoppingCriteriaList([*stopping_criteria, *_stop_at(stop_strings, tokenizer)])
        others = copy.copy(generation_config)
        others.stop_strings = None
        return super()._get_stopping_criteria(others, criteria, tokenizer=tokenizer, **kwargs)

    def init_continuous_batching(self, *args, **kwargs):
        raise NotImplementedError(
            "Continuous batching (`generate_batch`) keeps keys and values of attention in pages, and "
            "HyenaDNA has no attention. Pass a padded batch and its `attention_mask` to `generate`: the "
            "outputs are those of each sequence alone."
        )

    def resize_token_embeddings(
        self, new_num_tokens=None, pad_to_multiple_of=None, *args, **kwargs
    ) -> nn.Embedding:
        """Resize as in Transformers. `new_num_tokens` is the number of tokens: `len(tokenizer)`.

        `generate` may then emit the tokens that were added. It never emits rows without a token,
        such as those of `pad_to_multiple_of`, or the last 4 of the published 16.
        """
        rows = self.config.vocab_size
        embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, *args, **kwargs)
        if new_num_tokens is None:
            return embedding

        self.config.set_token_count(new_num_tokens)
        suppressed = self.generation_config.suppress_tokens or []
        while rows - 1 in suppressed:  # rows at the end that had no token before
            rows -= 1
        suppressed = [token for token in suppressed if token < min(rows, new_num_tokens)]
        suppressed += range(new_num_tokens, self.config.vocab_size)
        self.generation_config.suppress_tokens = suppressed or None
        return embedding


def set_generation_defaults(generation_config, config: HyenaDNAConfig) -> None:
    """Let `generate` emit letters of the alphabet and the end of the sequence only.

    What a checkpoint or a user has set stays. Of an unknown vocabulary all tokens are emitted, but
    no row of the embedding without a token.
    """
    if generation_config.suppress_tokens is not None:
        return
    # It was not read from a file: Trainer's `use_cache=False` in config.json is for training.
    if generation_config._from_model_config:
        generation_config.use_cache = True
    suppressed = list(range(config.token_count, config.vocab_size))
    if config.has_special_tokens_first:
        suppressed = _SPECIAL_TOKENS + suppressed
    generation_config.suppress_tokens = suppressed or None


def _move_right_pads(inputs: dict) -> None:
    """Move pads that follow a row's tokens in front of them, in place: `generate` reads the last
    column.

    Only new positions move. The mask's first columns belong to what is in the cache.

    Raises:
        ValueError: A row has tokens in the cache and none after them, so there is no last one to
            read.
    """
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or not (mask[:, -1] == 0).any():
        return
    new = inputs.get("inputs_embeds")
    if new is None:
        new = inputs["input_ids"]
    past = mask.shape[1] - new.shape[1]
    cached_mask, new_mask = mask.tensor_split([past], dim=1)

    no_token = (cached_mask != 0).any(dim=1) & ~(new_mask != 0).any(dim=1)
    if no_token.any():
        raise ValueError(
            f"Row {no_token.nonzero()[0].item()} of `attention_mask` has tokens among the {past} cached "
            f"positions, but none among the {new.shape[1]} that follow, and `generate` continues the last "
            "one. Pad on the left; or, if the prompts are read in pieces, leave `prefill_chunk_size` out."
        )
    positions = positions_pads_first(new_mask != 0)
    rows = torch.arange(len(positions))[:, None]
    for name in ("input_ids", "inputs_embeds"):
        x = inputs.get(name)
        if x is not None:
            inputs[name] = x[rows, positions]
    inputs["attention_mask"] = torch.cat([cached_mask, new_mask[rows, positions]], dim=1)


class _StopAtTokens(StoppingCriteria):
    """Stop a sequence whose last tokens are these."""

    def __init__(self, token_ids: list[int]):
        self.token_ids = torch.tensor(token_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any):
        wanted = self.token_ids.to(input_ids.device)
        if input_ids.shape[1] < len(wanted):
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return (input_ids[:, -len(wanted) :] == wanted).all(dim=1)


def _stop_at(stop_strings: str | list[str], tokenizer) -> list[_StopAtTokens]:
    """Criteria for strings of letters, of which each is one token."""
    if isinstance(stop_strings, str):
        stop_strings = [stop_strings]
    criteria = []
    for text in stop_strings:
        token_ids = tokenizer(text, add_special_tokens=False).input_ids
        if not token_ids or tokenizer.unk_token_id in token_ids:
            raise ValueError(
                f"`stop_strings` holds {text!r}, but strings of letters that the tokenizer knows were "
                "expected, such as 'TAA' for DNA."
            )
        criteria.append(_StopAtTokens(token_ids))
    return criteria
