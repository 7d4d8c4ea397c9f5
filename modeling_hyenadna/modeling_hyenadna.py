"""HyenaDNA: a decoder-only stack of Hyena operators over single bases (arXiv 2306.15794, arXiv 2302.10866).

Read top to bottom: operator, block, model, heads. Inside the operator a tensor's name ends in its shape: B batch,
L sequence length, D `d_model`, C (`hyena_order` + 1) * D projected channels, M `hyena_order` - 1 convolutions.
"""

import copy
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache
from transformers import initialization as init
from transformers.generation import GenerationMixin, StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging

from .cache_hyenadna import check_cache, continue_operator
from .checkpoint_hyenadna import check_checkpoint
from .configuration_hyenadna import HyenaDNAConfig
from .feed_forward import compute_dtype, feed_forward
from .fused_inference import norm_stream, run_block
from .implicit_filter import HyenaDNAFilter, HyenaDNAFilterLinear, HyenaDNAPositionalEmbedding, HyenaDNASin
from .inputs_hyenadna import (
    check_arguments,
    check_labels,
    check_positions,
    check_range,
    check_shape,
    next_token_labels,
    pads_first,
    pool,
    read_mask,
    sequence_labels,
)
from .long_convolution import gated_long_convolution, long_convolution, project, project_back
from .transformers_api import (
    CACHE,
    GradientCheckpointingLayer,
    capture_outputs,
    generates_with_cache,
    is_tracing,
    one_cache,
)

logger = logging.get_logger(__name__)

# The tokens of the published vocabulary that are no base and no end of sequence: `generate` must not emit them.
_SPECIAL_TOKENS = [0, 2, 3, 4, 5, 6]


# --------------------------------------------------------------------------------------------------------- the operator


def _has_global_hook() -> bool:
    """Whether PyTorch calls something around every module of the process. Its own such function is younger than 2.6."""
    module = nn.modules.module
    forward = module._global_forward_hooks or module._global_forward_pre_hooks
    backward = module._global_backward_hooks or module._global_backward_pre_hooks
    return bool(forward or backward)


def is_plain(module: nn.Module) -> bool:
    """Whether only the module's own weights are at work: no adapter, no hook, nothing offloaded, nothing quantized.

    Then its weights may be used without calling it, and nobody sees what it returns but its caller.
    """
    own = type(module) in _OWN and "forward" not in vars(module)  # accelerate hooks in by such an attribute
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    if not own or hooks or _has_global_hook():
        return False
    # A quantizer may leave the module as it is, and put integers or a tensor of another class in the weight's place.
    weights = module.parameters(recurse=False)
    return all(type(w) in (nn.Parameter, torch.Tensor) and w.is_floating_point() and not w.is_meta for w in weights)


class HyenaDNAResidualLinear(nn.Linear):
    """A projection whose output is added to the residual stream: a class of its own for its smaller initial weights."""


class HyenaDNAOperator(nn.Module):
    """The Hyena operator of order N (arXiv 2302.10866, definition 3.1): N gates around N - 1 long convolutions."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.config = config
        width = (config.hyena_order + 1) * config.d_model
        self.in_proj = nn.Linear(config.d_model, width)
        self.short_filter = nn.Conv1d(
            width, width, config.short_filter_order, groups=width, padding=config.short_filter_order - 1
        )
        self.filter_fn = HyenaDNAFilter(config)
        self.dropout = nn.Dropout(config.hyena_dropout)
        self.out_proj = HyenaDNAResidualLinear(config.d_model, config.d_model)

    def forward(
        self,
        u_BLD: torch.Tensor,
        mask_BL: torch.Tensor | None = None,
        order_BL: torch.Tensor | None = None,
        layer=None,
    ) -> torch.Tensor:
        """Mix along the sequence.

        Args:
            u_BLD: Input of shape (batch, length, d_model).
            mask_BL: True where there is a token, of shape (batch, length).
            order_BL: For each row the positions with all masked ones first, of shape (batch, length). A causal
                convolution of zeros adds nothing, so that pads in front of all tokens are as good as none.
            layer: The block's `HyenaDNACacheLayer`, whose positions these follow.
        """
        length, device = u_BLD.shape[1], u_BLD.device.type
        # 1. Move pads to the left. Everything outside this operator acts on single positions and keeps its order.
        if order_BL is not None:
            u_BLD = u_BLD.gather(1, order_BL[..., None].expand_as(u_BLD))
            mask_BL = mask_BL.gather(1, order_BL)

        # 2. Project, convolve over three bases, gate and convolve over all of them.
        if layer is not None:
            y_BLD = self.out_proj(continue_operator(self, self.in_proj(u_BLD), mask_BL, layer))
            return self._to_order(y_BLD, order_BL)
        dropout = self.training and self.config.hyena_dropout > 0
        if is_tracing(u_BLD) or dropout or not is_plain(self.short_filter):
            y_BDL = self._plain(self.in_proj(u_BLD), mask_BL)
        else:
            if is_plain(self.in_proj):
                dtype = compute_dtype(self.in_proj.weight, device)
                with torch.autocast(device, enabled=False):
                    p_BCL = project(u_BLD.to(dtype), self.in_proj.weight.to(dtype))
                in_bias_C = self.in_proj.bias
            else:
                p_BCL, in_bias_C = self.in_proj(u_BLD).transpose(1, 2), None
            k_MDL, skip_MD = self.filter_fn(length, plain=not all(map(is_plain, self.filter_fn.modules())))
            short = self.short_filter
            y_BDL = gated_long_convolution(p_BCL, in_bias_C, short.weight[:, 0], short.bias, k_MDL, skip_MD, mask_BL)

        # 3. Back to the width of the residual stream, and to the caller's order.
        out = self.out_proj
        if is_tracing(y_BDL) or not is_plain(out):
            y_BLD = out(y_BDL.transpose(1, 2))
        else:
            dtype = compute_dtype(out.weight, device)
            with torch.autocast(device, enabled=False):
                y_BLD = project_back(y_BDL.to(dtype), out.weight.to(dtype), out.bias.to(dtype))
        return self._to_order(y_BLD, order_BL)

    @staticmethod
    def _to_order(y_BLD: torch.Tensor, order_BL: torch.Tensor | None) -> torch.Tensor:
        if order_BL is None:
            return y_BLD
        return torch.empty_like(y_BLD).scatter(1, order_BL[..., None].expand_as(y_BLD), y_BLD)

    def filters(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The filters (hyena_order - 1, d_model, length) and the weights of their skips (hyena_order - 1, d_model)."""
        # A traced graph must not look into the memo of the filters: it compares weights by value.
        plain = is_tracing(self.filter_fn.bias) or not all(map(is_plain, self.filter_fn.modules()))
        with torch.autocast(self.filter_fn.bias.device.type, enabled=False):
            if plain or torch.is_grad_enabled():
                return self.filter_fn(length, plain=plain)
            return self.filter_fn.evaluated(length)(slice(0, self.config.d_model))

    def short_is_plain(self) -> bool:
        return is_plain(self.short_filter)

    def _plain(self, p_BLC: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        """The same as `gated_long_convolution` in one piece, with dropout, of operations that can be traced."""
        length = p_BLC.shape[1]
        if mask_BL is not None:
            p_BLC = p_BLC.masked_fill(~mask_BL[..., None], 0)
        p_BCL = self.short_filter(p_BLC.transpose(1, 2))[..., :length]
        *x_BDL, v_BDL = p_BCL.split(self.config.d_model, dim=1)
        if mask_BL is not None:  # the short filter has a bias; from here on zeros stay zeros
            v_BDL = v_BDL.masked_fill(~mask_BL[:, None], 0)
        k_MDL, skip_MD = self.filter_fn(length)
        for o, x in enumerate(reversed(x_BDL[1:])):
            v_BDL = long_convolution(self.dropout(v_BDL * x), k_MDL[o], skip_MD[o])
        return v_BDL * x_BDL[0]


class HyenaDNAMLP(nn.Module):
    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.d_inner)
        self.fc2 = HyenaDNAResidualLinear(config.d_inner, config.d_model)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if is_tracing(hidden_states) or not (is_plain(self.fc1) and is_plain(self.fc2)):
            return self.fc2(F.gelu(self.fc1(hidden_states), approximate="tanh"))
        dtype = compute_dtype(self.fc1.weight, hidden_states.device.type)
        weights = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        with torch.autocast(hidden_states.device.type, enabled=False):
            return feed_forward(hidden_states.to(dtype), *(w.to(dtype) for w in weights))


class HyenaDNABlock(GradientCheckpointingLayer):
    """`h += mixer(norm1(h))`, `h += mlp(norm2(h))`, with the residual stream in at least float32."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mixer = HyenaDNAOperator(config)
        self.norm2 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mlp = HyenaDNAMLP(config)
        self.dropout = nn.Dropout(config.resid_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        order: torch.Tensor | None = None,
        buffers: dict[str, torch.Tensor] | None = None,
        layer=None,
    ) -> torch.Tensor:
        hidden_states = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        inference = not (self.training or torch.is_grad_enabled() or is_tracing(hidden_states))
        if (
            inference
            and order is None
            and (layer is None or layer.reads_blocks(hidden_states.shape[1], mask))
            and all(is_plain(module) for part in self.children() for module in part.modules())
        ):
            return run_block(self, hidden_states, mask, {} if buffers is None else buffers, layer)
        weight_dtype = self.norm1.weight.dtype
        hidden_states = hidden_states + self.dropout(
            self.mixer(self.norm1(hidden_states.to(weight_dtype)), mask, order, layer)
        )
        hidden_states = hidden_states + self.dropout(self.mlp(self.norm2(hidden_states.to(weight_dtype))))
        return hidden_states


# ------------------------------------------------------------------------------------------------------------ the model


# What `is_plain` knows: with another class in one of these places, an adapter's or a quantizer's, its module is called.
_OWN = {nn.Linear, nn.Conv1d, nn.LayerNorm, nn.Dropout, nn.Identity, nn.Sequential, HyenaDNAResidualLinear}
_OWN |= {HyenaDNASin, HyenaDNAPositionalEmbedding, HyenaDNAFilter, HyenaDNAOperator, HyenaDNAMLP, HyenaDNABlock}
_OWN |= {nn.Embedding, HyenaDNAFilterLinear}


class HyenaDNAEmbeddings(nn.Module):
    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.d_model)


class HyenaDNABackbone(nn.Module):
    """Embeddings, blocks and final norm, under the published names."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.embeddings = HyenaDNAEmbeddings(config)
        self.dropout = nn.Dropout(config.embed_dropout)
        self.layers = nn.ModuleList([HyenaDNABlock(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)


class HyenaDNAPreTrainedModel(PreTrainedModel):
    config: HyenaDNAConfig
    base_model_prefix = "hyena"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HyenaDNABlock"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _can_record_outputs = {"hidden_states": HyenaDNABlock}
    _keep_in_fp32_modules_strict = ["filter_fn"]
    # The quantizers of Transformers leave alone what this list names, by a pattern from the start of a layer's name.
    _keep_in_fp32_modules = [".*filter_fn"]
    # Published files hold what can be computed, and each frequency thrice. A trained `z` is found before loading.
    _keys_to_ignore_on_load_unexpected = [
        r"filter_fn\.pos_emb\.(z|t)$",
        r"filter_fn\.modulation\.deltas$",
        r"filter_fn\.implicit_filter\.(?!1\.)\d+\.freq$",
    ]

    def __init__(self, config: HyenaDNAConfig, *args, **kwargs):
        config.validate()  # again: `from_pretrained(..., hyena_order=1)` sets the field afterwards
        super().__init__(config, *args, **kwargs)

    @property
    def embeddings(self) -> HyenaDNAEmbeddings:
        """Where `peft` looks for `word_embeddings`."""
        return self.base_model.backbone.embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """N(0, initializer_range), except where the published model differs (arXiv 2306.15794, training repository)."""
        # Transformers calls this only for modules with parameters of their own.
        super()._init_weights(module)
        if isinstance(module, HyenaDNAResidualLinear):
            init.normal_(module.weight, std=self.config.initializer_range / math.sqrt(2 * self.config.n_layer))
        elif isinstance(module, nn.Conv1d):  # back to PyTorch's default
            bound = 1 / math.sqrt(self.config.short_filter_order)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, HyenaDNAFilter):
            init.normal_(module.bias)
        elif isinstance(module, HyenaDNASin):
            init.constant_(module.freq, self.config.activation_freq)
        elif isinstance(module, HyenaDNAPositionalEmbedding) and self.config.train_positional_embedding:
            init.copy_(module.z, module.analytic(self.config.max_seq_len, module.z.device)[0][None])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in Transformers. Warns when `max_seq_len` is not the checkpoint's, because it changes every filter."""
        try:
            model = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError as error:
            if any(Path(str(pretrained_model_name_or_path)).glob("*.ckpt")):
                raise OSError(
                    f"{pretrained_model_name_or_path} holds a PyTorch Lightning checkpoint (.ckpt), which Transformers "
                    f"cannot load. Convert it once: `hyenadna convert {pretrained_model_name_or_path} DEST`."
                ) from error
            raise
        if pretrained_model_name_or_path is None:  # a state dict and a configuration
            return model
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        try:
            stored, _ = HyenaDNAConfig.get_config_dict(
                pretrained_model_name_or_path, **{name: kwargs[name] for name in names if name in kwargs}
            )
        except OSError:  # an adapter comes without a configuration
            return model
        was, now = stored.get("max_seq_len"), (model[0] if isinstance(model, tuple) else model).config.max_seq_len
        if was is not None and was != now:
            logger.warning(
                f"The checkpoint was made with max_seq_len={was}, and is loaded with max_seq_len={now}. The time axis "
                f"of the filters runs from 0 to 1 over max_seq_len tokens: each is stretched by {now / was:.3g}, "
                "and the outputs change. Leave max_seq_len out to get the model as it was trained, or fine-tune this."
            )
        return model

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys=None):
        # The one place where the files are known and nothing is loaded yet.
        check_checkpoint(model, state_dict, checkpoint_files, load_config)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys)


class HyenaDNAModel(HyenaDNAPreTrainedModel):
    """The backbone: token ids in, one vector of width `d_model` per token out."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__(config)
        self.backbone = HyenaDNABackbone(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.backbone.embeddings.word_embeddings = value

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        cache=None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Run the backbone.

        Args:
            input_ids: Token ids of shape (batch, length).
            attention_mask: 1 where there is a token and 0 where there is padding, of shape (batch, length), anywhere in
                a row. With it a sequence has the same outputs alone and in a batch. Without it pads are tokens. With a
                cache of `past` positions it is (batch, past + length).
            past_key_values: A `DynamicCache` that an earlier call returned, or a new one: the input continues what was
                read with it, and is added to it.
            cache: The same, by the name that Transformers uses since 5.24.
            inputs_embeds: Embeddings of shape (batch, length, d_model), instead of `input_ids`.
            use_cache: Make a cache if none was passed, and return it. Unlike `generate`, a single call does not unless
                it is asked to, because a cache takes several times the memory of its input.
            kwargs: What Transformers and its friends pass and read: `output_hidden_states`, `return_dict`,
                `num_items_in_batch`, `shift_labels`. `position_ids` have to count up, `token_type_ids` to be 0, and
                neither changes anything. Any other name is an error, unless its value is `None`.

        Returns:
            `last_hidden_state` of shape (batch, length, d_model), after the final norm, and the cache: `cache`, before
            Transformers 5.24 `past_key_values`. With `output_hidden_states=True` also `hidden_states`, n_layer + 1 of
            them: the embeddings and the output of each block, the last one's after the final norm.

        Raises:
            TypeError: An argument has a name that the model does not know.
            ValueError: The inputs contradict each other or the configuration; see the message.
        """
        # 1. Check, and embed.
        check_arguments(kwargs)
        past_key_values = one_cache(past_key_values, cache)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass `input_ids` or `inputs_embeds`: exactly one of them.")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        layers = check_cache(self.config, past_key_values)
        past = None if past_key_values is None else layers[0].length
        if past is not None and self._runs_blocks_twice():
            layers, past = _without_cache(layers, past)
        check_shape(self.config, input_ids, inputs_embeds, past or 0)
        if inputs_embeds is None:
            check_range(input_ids, "input_ids", self.config.vocab_size)
            inputs_embeds = self.get_input_embeddings()(input_ids)
        mask, order = read_mask(attention_mask, inputs_embeds, past)
        check_positions(kwargs.get("position_ids"), attention_mask, inputs_embeds)

        # 2. Run the blocks. A name more for the embeddings would keep them in memory.
        dropout, embedding = self.backbone.dropout, self.get_input_embeddings()
        hidden_states = dropout(inputs_embeds)
        del inputs_embeds
        # What a block leaves to the next is written over, unless a hook or another module in its place may keep it.
        inference = not (torch.is_grad_enabled() or is_tracing(hidden_states))
        buffers = {} if inference and all(map(is_plain, self.backbone.layers)) else None
        if buffers is not None and input_ids is not None and is_plain(embedding) and is_plain(dropout):
            buffers["stream"] = hidden_states
        # `assistant_early_exit` runs the first few blocks only: it lowers `n_layer` for the time of a draft.
        blocks = list(self.backbone.layers)[: self.config.n_layer]
        for block, layer in zip(blocks, layers, strict=True):
            hidden_states = block(hidden_states, mask, order, buffers, layer=layer)

        # 3. Final norm.
        norm = self.backbone.ln_f
        ours = buffers is not None and buffers.get("stream") is hidden_states
        if ours and is_plain(norm) and norm.weight.dtype == hidden_states.dtype:
            hidden_states = norm_stream(norm, hidden_states)
        else:
            hidden_states = norm(hidden_states.to(norm.weight.dtype))
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, **{CACHE: past_key_values})

    def _runs_blocks_twice(self) -> bool:
        """Whether activations are checkpointed: the backward pass runs the blocks once more."""
        return torch.is_grad_enabled() and any(
            block.training and getattr(block, "gradient_checkpointing", False) for block in self.backbone.layers
        )


def _without_cache(layers: list, past: int) -> tuple[list, None]:
    """No layers of a cache, where blocks run twice and would add their positions to it twice; raise if it is in use."""
    if past:
        raise ValueError(
            f"The cache holds {past} positions, but activations are checkpointed, and a block that runs twice cannot "
            "continue a cache. Use `torch.no_grad()`, `model.eval()` or `model.gradient_checkpointing_disable()`."
        )
    logger.warning_once("Activations are checkpointed, so nothing is kept in the cache.")
    return [None] * len(layers), None


# ------------------------------------------------------------------------------------------------------------ the heads


class HyenaDNAForCausalLM(HyenaDNAPreTrainedModel, GenerationMixin):
    """The backbone and a linear head that predicts the next token."""

    _tied_weights_keys = {"lm_head.weight": "hyena.backbone.embeddings.word_embeddings.weight"}

    def __init__(self, config: HyenaDNAConfig):
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()
        _set_generation_defaults(self.generation_config, config)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache=None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Predict the next token at every position; see `HyenaDNAModel.forward` for the other arguments.

        Args:
            labels: Token ids of shape (batch, length), usually the `input_ids`: the shift by one happens here. -100 and
                masked positions are ignored. The loss is a softmax over all `vocab_size` rows, as published.
            logits_to_keep: Compute logits only for the last so many positions, or for these positions; 0 for all.

        Returns:
            `loss` (a scalar, when `labels` came) and `logits` of shape (batch, length, vocab_size).
        """
        if labels is not None:
            check_labels(labels, input_ids if inputs_embeds is None else inputs_embeds, self.config.vocab_size)
        outputs = self.hyena(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # -0 is all of them
        logits = self.lm_head(outputs.last_hidden_state[:, kept])

        loss = None
        if labels is not None:
            if kwargs.get("shift_labels") is None:
                kwargs["shift_labels"] = next_token_labels(labels, attention_mask)[:, kept].contiguous()
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE: getattr(outputs, CACHE)}
        )

    # -- generation

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in Transformers, and a folder without generation_config.json, as published ones are, gets our defaults."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        _set_generation_defaults(model.generation_config, model.config)  # what Transformers made up knows no vocabulary
        return loaded

    def generate(self, inputs=None, generation_config=None, *args, **kwargs):
        """As in Transformers, with the one kind of cache that there is; `use_cache=False` gives the same, slower.

        A cache to continue may be passed as `cache` or as `past_key_values`, whatever the release.

        Raises:
            ValueError: Another kind of cache is asked for, or the prompt and `max_new_tokens` exceed `max_seq_len`.
        """
        kinds = [kwargs.get("cache_implementation")]
        kinds += [getattr(c, "cache_implementation", None) for c in (generation_config, self.generation_config)]
        kind = next((kind for kind in kinds if kind is not None), "dynamic")
        if kind != "dynamic":
            raise ValueError(
                f"cache_implementation={kind!r} is for attention: HyenaDNA has one kind of cache, which grows as it "
                "is used. Leave it out, or pass 'dynamic'."
            )
        cache = one_cache(kwargs.pop("past_key_values", None), kwargs.pop("cache", None))
        if not generates_with_cache(HyenaDNAForCausalLM):
            if cache is not None:
                raise ValueError("No cache can be continued: `generate` of this Transformers release cannot use it.")
            kwargs["use_cache"] = False
        if cache is not None:
            kwargs[CACHE] = cache
        return super().generate(inputs, generation_config, *args, **kwargs)

    def _prepare_generated_length(self, generation_config, **kwargs):
        generation_config = super()._prepare_generated_length(generation_config, **kwargs)
        # `peft` has this method replaced by its own, which puts a soft prompt in front of the tokens.
        adapter = getattr(getattr(self.prepare_inputs_for_generation, "__self__", None), "active_peft_config", None)
        prompt = kwargs["inputs_tensor"].shape[1] + (getattr(adapter, "num_virtual_tokens", None) or 0)
        length = prompt + generation_config.max_length - kwargs["input_ids_length"]
        if length > self.config.max_seq_len:
            raise ValueError(
                f"Prompt ({prompt} tokens) and new tokens may reach a length of {length}, but the model takes at most "
                f"max_seq_len={self.config.max_seq_len}. Ask for fewer `max_new_tokens`, or shorten the prompt."
            )
        return generation_config

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, is_first_iteration=False, past_key_values=None, cache=None, **kwargs
    ):
        cache = one_cache(past_key_values, cache)
        if inputs_embeds is not None and is_first_iteration:
            self._prompt_length = input_ids.shape[1]  # of token ids: 0 where only embeddings came
        elif inputs_embeds is not None and cache is None:
            # The prompt came as embeddings: the tokens generated since, which `input_ids` ends in, follow it.
            generated = self.get_input_embeddings()(input_ids[:, self._prompt_length :])
            inputs_embeds = torch.cat([inputs_embeds, generated.to(inputs_embeds.dtype)], dim=1)
            is_first_iteration = True
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{CACHE: cache},
            **kwargs,
        )
        if CACHE in inputs:  # peft up to 0.21 looks for the old name, on any release, and has the prompt read again
            inputs["past_key_values"] = inputs[CACHE]
        mask = inputs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and (mask[:, -1] == 0).any():
            # `generate` reads the last column: pads behind a prompt have to stand in front of it.
            order = pads_first(mask != 0)
            for name in {"input_ids", "inputs_embeds", "attention_mask"} & set(inputs):
                x = inputs[name]
                if x is not None and x.shape[1] == order.shape[1]:
                    inputs[name] = x.gather(1, order) if x.ndim == 2 else x[torch.arange(len(x))[:, None], order]
        return inputs

    def _get_stopping_criteria(self, generation_config, stopping_criteria, tokenizer=None, **kwargs):
        stop_strings = generation_config.stop_strings
        if stop_strings is None or tokenizer is None:
            return super()._get_stopping_criteria(generation_config, stopping_criteria, tokenizer=tokenizer, **kwargs)
        # The library's own criterion cannot be used: it puts "abcdef" through the tokenizer and wants it back.
        criteria = StoppingCriteriaList([*stopping_criteria, *_stop_at(stop_strings, tokenizer)])
        others = copy.copy(generation_config)
        others.stop_strings = None
        return super()._get_stopping_criteria(others, criteria, tokenizer=tokenizer, **kwargs)

    def init_continuous_batching(self, *args, **kwargs):
        raise NotImplementedError(
            "Continuous batching (`generate_batch`) keeps keys and values of attention in pages, and HyenaDNA has no "
            "attention. Pass a padded batch and its `attention_mask` to `generate`: the outputs are those of each "
            "sequence alone."
        )

    # -- vocabulary

    def resize_token_embeddings(self, new_num_tokens=None, pad_to_multiple_of=None, *args, **kwargs) -> nn.Embedding:
        """As in Transformers; `generate` may emit the tokens that were added, so `new_num_tokens` has to count tokens.

        What pads the embedding, by `pad_to_multiple_of` or because 12 tokens have 16 rows, is not emitted.
        """
        rows = self.config.vocab_size
        embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, *args, **kwargs)
        if new_num_tokens is not None:
            self.config.set_token_count(new_num_tokens)
            suppressed = self.generation_config.suppress_tokens or []
            while rows - 1 in suppressed:  # the rows at the end that had no token
                rows -= 1
            kept = [i for i in suppressed if i < min(rows, new_num_tokens)]
            self.generation_config.suppress_tokens = kept + list(range(new_num_tokens, self.config.vocab_size)) or None
        return embedding


def _set_generation_defaults(generation_config, config: HyenaDNAConfig) -> None:
    """Emit bases, `N` and the end of the sequence only; what a checkpoint or a user set stays.

    Of another vocabulary, all tokens are emitted, and the rows without one are not.
    """
    if generation_config.suppress_tokens is None:
        if generation_config._from_model_config:  # and not from a file: Trainer's `use_cache=False` is for training
            generation_config.use_cache = True
        published = 12 <= config.token_count < 16
        without_token = list(range(config.token_count, config.vocab_size))
        generation_config.suppress_tokens = (_SPECIAL_TOKENS if published else []) + without_token or None


class _StopAtTokens(StoppingCriteria):
    """Stop a sequence whose last tokens are these."""

    def __init__(self, token_ids: list[int]):
        self.token_ids = torch.tensor(token_ids)

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        wanted = self.token_ids.to(input_ids.device)
        if input_ids.shape[1] < len(wanted):
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return (input_ids[:, -len(wanted) :] == wanted).all(dim=1)


def _stop_at(stop_strings: str | list[str], tokenizer) -> list[_StopAtTokens]:
    """Criteria for strings of bases, of which each is one token."""
    criteria = []
    for text in [stop_strings] if isinstance(stop_strings, str) else stop_strings:
        token_ids = tokenizer(text, add_special_tokens=False).input_ids
        if not token_ids or tokenizer.unk_token_id in token_ids:
            raise ValueError(f"`stop_strings` holds {text!r}, but strings of bases were expected, such as 'TAA'.")
        criteria.append(_StopAtTokens(token_ids))
    return criteria


class HyenaDNAForSequenceClassification(HyenaDNAPreTrainedModel):
    """The backbone, pooled by `config.pooling`, and a linear head: classes, several labels at once, or regression."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.hyena = HyenaDNAModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.d_model, config.num_labels, bias=config.classifier_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache=None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Classify whole sequences; see `HyenaDNAModel.forward` for the other arguments.

        Args:
            labels: Class ids of shape (batch,); for several labels 0 or 1 and for regression numbers of shape (batch,
                num_labels), or (batch,) if there is one. `config.problem_type` decides, as in Transformers.

        Returns:
            `loss` (a scalar, when `labels` came) and `logits` of shape (batch, num_labels).
        """
        if labels is not None:
            labels = sequence_labels(
                self.config, labels, (input_ids if inputs_embeds is None else inputs_embeds).shape[0]
            )
        outputs = self.hyena(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        pooled = pool(outputs.last_hidden_state, attention_mask, self.config.pooling)
        logits = self.score(self.dropout(pooled))

        loss = None
        if labels is not None:
            scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if labels.is_floating_point():
                labels = labels.to(scores.dtype)
            loss = self.loss_function(labels=labels, pooled_logits=scores, config=self.config, **kwargs)
            count = kwargs.get("num_items_in_batch")
            if count is not None and labels.is_floating_point():
                # Transformers divides by it for classes only, and an accumulated batch would count several times.
                loss = loss * labels.numel() / count
        return SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE: getattr(outputs, CACHE)}
        )


class HyenaDNAForTokenClassification(HyenaDNAPreTrainedModel):
    """The backbone and a linear head that classifies every position, from what is at and to the left of it."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.hyena = HyenaDNAModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.d_model, config.num_labels, bias=config.classifier_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        cache=None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Classify every token; see `HyenaDNAModel.forward` for the other arguments.

        Args:
            labels: Class ids of shape (batch, length). -100 and masked positions are ignored.

        Returns:
            `loss` (a scalar, when `labels` came) and `logits` of shape (batch, length, num_labels).
        """
        if labels is not None:
            check_labels(labels, input_ids if inputs_embeds is None else inputs_embeds, self.config.num_labels)
        outputs = self.hyena(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        logits = self.score(self.dropout(outputs.last_hidden_state))

        loss = None
        if labels is not None:
            if attention_mask is not None:
                labels = labels.masked_fill(attention_mask.to(labels.device) == 0, -100)
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
