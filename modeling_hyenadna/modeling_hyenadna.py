"""HyenaDNA: a decoder-only stack of Hyena operators over single bases.

Papers: arXiv 2306.15794 (HyenaDNA), arXiv 2302.10866 (Hyena). Read top to bottom: operator, block,
which form of them runs, model, heads.

Inside the operator a tensor's name ends in its shape: B batch, L sequence length, D `d_model`,
C (`hyena_order` + 1) * D projected channels, M `hyena_order` - 1 convolutions, T taps or lags.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging

from .cache_hyenadna import HyenaDNACacheLayer, check_cache
from .checkpoint_hyenadna import check_checkpoint
from .configuration_hyenadna import HyenaDNAConfig
from .feed_forward import compute_dtype, feed_forward
from .fused_inference import BlockParts, Filters, Workspace, norm_in_place, run_block
from .generation_hyenadna import HyenaDNAGenerationMixin, set_generation_defaults
from .implicit_filter import HyenaDNAFilter, HyenaDNAFilterLinear, HyenaDNAPositionalEmbedding, HyenaDNASin
from .inputs_hyenadna import (
    check_arguments,
    check_labels,
    check_positions,
    check_range,
    check_shape,
    next_token_labels,
    one_input,
    pool,
    read_mask,
    sequence_labels,
)
from .long_convolution import (
    gated_long_convolution,
    long_convolution,
    project,
    project_back,
    short_convolution,
)
from .transformers_api import (
    CACHE,
    GradientCheckpointingLayer,
    capture_outputs,
    is_tracing,
    one_cache,
)

logger = logging.get_logger(__name__)

Convolve = Callable[[int, torch.Tensor], torch.Tensor]


# ------------------------------------------------------------------------------------- the operator


class HyenaDNAResidualLinear(nn.Linear):
    """A projection onto the residual stream; its class tells `_init_weights` to start it smaller."""


class HyenaDNAShortConvolution(nn.Conv1d):
    """The short causal convolution: one filter of `taps` weights, and a bias, for each channel."""

    bias: nn.Parameter

    def __init__(self, width: int, taps: int):
        super().__init__(width, width, taps, groups=width, padding=taps - 1)


class HyenaDNAOperator(nn.Module):
    """The Hyena operator of order N: N gates around N - 1 long convolutions.

    Source: arXiv 2302.10866, definition 3.1.
    """

    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.config = config
        width = (config.hyena_order + 1) * config.d_model
        self.in_proj = nn.Linear(config.d_model, width)
        self.short_filter = HyenaDNAShortConvolution(width, config.short_filter_order)
        self.filter_fn = HyenaDNAFilter(config)
        self.dropout = nn.Dropout(config.hyena_dropout)
        self.out_proj = HyenaDNAResidualLinear(config.d_model, config.d_model)

    def forward(
        self,
        u_BLD: torch.Tensor,
        mask_BL: torch.Tensor | None = None,
        pads_first_BL: torch.Tensor | None = None,
        past: HyenaDNACacheLayer | None = None,
    ) -> torch.Tensor:
        """Mix along the sequence.

        Args:
            u_BLD: Input of shape (batch, length, d_model).
            mask_BL: True where there is a token, of shape (batch, length).
            pads_first_BL: For each row its positions, all masked ones first, of shape (batch,
                length), or `None` if pads are there already.
            past: The block's layer of the cache, which these positions follow and are added to.
        """
        # 1. Move pads to the front. There they are zeros before a sequence, which a causal
        # convolution cannot tell from no input at all; between two tokens they would change every
        # lag across them. Everything outside this operator acts on single positions, and keeps its
        # place.
        if pads_first_BL is not None:
            u_BLD = u_BLD.gather(1, pads_first_BL[..., None].expand_as(u_BLD))
            if mask_BL is not None:
                mask_BL = mask_BL.gather(1, pads_first_BL)

        # 2. Project, convolve over three bases, gate, and convolve over all of them.
        if past is None and runs_as_one_op(self, u_BLD):
            y_BDL = self._as_one_op(u_BLD, mask_BL)
        else:
            y_BDL = self._step_by_step(self.in_proj(u_BLD), mask_BL, past)

        # 3. Back to the width of the residual stream, and to each position's place.
        y_BLD = self._project_back(y_BDL, called=past is not None)
        if pads_first_BL is None:
            return y_BLD
        return torch.empty_like(y_BLD).scatter(1, pads_first_BL[..., None].expand_as(y_BLD), y_BLD)

    def filters(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the filters and the weights of their skips.

        Their shapes are (hyena_order - 1, d_model, length) and (hyena_order - 1, d_model).
        """
        # A graph cannot use kept filters: whether they are still right depends on the weights'
        # values.
        by_modules = is_tracing(self.filter_fn.bias) or not all_untouched(self.filter_fn)
        if by_modules or torch.is_grad_enabled():
            return self.filter_fn(length, by_modules=by_modules)
        return self.filter_fn.evaluated(length).values(slice(0, self.config.d_model))

    def _as_one_op(self, u_BLD: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        """Compute everything up to the last gate, (batch, d_model, length), as one operation.

        It saves its inputs alone for the backward pass.
        """
        if is_untouched(self.in_proj):
            device = u_BLD.device.type
            dtype = compute_dtype(self.in_proj.weight, device)
            with torch.autocast(device, enabled=False):
                p_BCL = project(u_BLD.to(dtype), self.in_proj.weight.to(dtype))
            in_bias_C = self.in_proj.bias  # added in the operation below
        else:
            p_BCL = self.in_proj(u_BLD).transpose(1, 2)
            in_bias_C = None
        # Filters stay in float32 even under autocast: see `HyenaDNAFilter`.
        k_MDL, skip_MD = self.filter_fn(u_BLD.shape[1], by_modules=not all_untouched(self.filter_fn))
        short = self.short_filter
        return gated_long_convolution(
            p_BCL, in_bias_C, short.weight[:, 0], short.bias, k_MDL, skip_MD, mask_BL
        )

    def _step_by_step(
        self, p_BLC: torch.Tensor, mask_BL: torch.Tensor | None, past: HyenaDNACacheLayer | None
    ) -> torch.Tensor:
        """Compute the same by ordinary operations: for graphs, dropout, adapters and caches.

        Positions after those in a cache get what a pass over the whole sequence would give them.
        Gradients within `p_BLC` are exact; what is in the cache is a constant.

        Args:
            p_BLC: Projections of the new positions, of shape (batch, length, (N + 1) * d_model).
            mask_BL: True where there is a token. A row's pads come before its tokens; after tokens
                in the cache they count as if they came before those too.
            past: The block's layer of the cache, which is changed, or `None`.

        Returns:
            A tensor of shape (batch, d_model, length) and of the type of `p_BLC`.
        """
        length = p_BLC.shape[1]
        x_BLC = p_BLC.to(self.filter_fn.dtype)
        # The projection's bias has filled the pads, and the short convolution would carry it on into
        # the first tokens.
        if mask_BL is not None:
            x_BLC = x_BLC.masked_fill(~mask_BL[..., None], 0)

        # 1. The columns before these positions: zeros at the beginning of a sequence, or those in
        # the cache.
        moved_BMDL = None
        if past is None:
            window_BLC = F.pad(x_BLC, (0, 0, self.config.short_filter_order - 1, 0))
        else:
            window_BLC, moved_BMDL = self._window_after(past, x_BLC, mask_BL)

        # 2. The short convolution, and the gates and the value that it gives.
        *gates, v_BDL = self._convolve_short(window_BLC, length, p_BLC.dtype).split(
            self.config.d_model, dim=1
        )
        # The short convolution's bias has filled the pads. The value is a factor of every product
        # that follows, so from here on zeros stay zeros.
        if mask_BL is not None:
            v_BDL = v_BDL.masked_fill(~mask_BL[:, None], 0)

        # 3. Gates and long convolutions: the new inputs among themselves, and what is due from
        # those before.
        if past is None:
            convolve = self._convolution(length)
        else:
            convolve = self._convolution_after(past, length)
        for m, gate_BDL in enumerate(reversed(gates[1:])):
            u_BDL = self.dropout(v_BDL * gate_BDL)
            # Where pads were moved, inputs from the cache have come into their place.
            if mask_BL is not None and moved_BMDL is not None:
                u_BDL = torch.where(mask_BL[:, None], u_BDL, moved_BMDL[:, m])
            v_BDL = convolve(m, u_BDL)
        if past is not None:
            past.advance(length, window_BLC)
        return (v_BDL * gates[0]).to(p_BLC.dtype)

    def _window_after(
        self, past: HyenaDNACacheLayer, x_BLC: torch.Tensor, mask_BL: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Get the cache ready for these projections, and put its last columns in front of them.

        Returns:
            The window for the short convolution, (batch, columns + length, channels), and, where
            there are pads, the inputs of the long convolutions that take their place: (batch, N -
            1, d_model, length).
        """
        batch, length, _ = x_BLC.shape
        past.start(self.config, batch, length, x_BLC.dtype, x_BLC.device)
        window_BLC = torch.cat([past.columns(), x_BLC], dim=1)
        if mask_BL is None or past.length == 0:
            return window_BLC, None
        if length == 1 and is_tracing(mask_BL):  # a traced step of one token has no pads
            return window_BLC, None
        # The pads lie between cached and new tokens. Move them in front of both, in the cache's inputs
        # of the long convolutions and in this window of the short one.
        pads_B = (~mask_BL).sum(1)
        moved_BMDL = past.move_pads_to_the_front(pads_B, length)
        return _pads_in_front(window_BLC, pads_B, window_BLC.shape[1] - length), moved_BMDL

    def _convolution(self, length: int) -> Convolve:
        """Return a function (m, u_BDL) -> long convolution m of the inputs."""
        k_MDL, skip_MD = self.filters(length)
        return lambda m, u_BDL: long_convolution(u_BDL, k_MDL[m], skip_MD[m])

    def _convolution_after(self, past: HyenaDNACacheLayer, length: int) -> Convolve:
        """Return a function (m, u_BDL) -> long convolution m, which continues that of the cache.

        A convolution is a sum over inputs. Those of the cache that are in a span have been added
        up: they are due. The new ones are convolved among themselves. For a single step, the tail
        of the cache and the new input are summed directly, lag by lag.
        """
        everything = slice(None)
        one_step = length == 1 and past.rows is None and not torch.is_grad_enabled()
        if not one_step or past.must_settle():
            past.settle(self.filters, length)
        # The filters in the cache have no gradients: with gradients, compute those of the new lags.
        if torch.is_grad_enabled():
            k_MDL, skip_MD = self.filters(length)
        else:
            filters = past.lags(self.filters, length)
            k_MDL = filters.k_MDL[..., :length]
            skip_MD = filters.skip_MD
        due_BMDL = past.due(everything, everything, length)

        def convolve(m: int, u_BDL: torch.Tensor) -> torch.Tensor:
            past.keep(everything, m, everything, u_BDL.detach())
            if one_step:
                tail_BDT = past.tail(m)
                y_BDL = (tail_BDT * filters.direct_MDT[m, :, -tail_BDT.shape[-1] :]).sum(-1, keepdim=True)
            else:
                y_BDL = long_convolution(u_BDL, k_MDL[m], skip_MD[m])
            return y_BDL if due_BMDL is None else y_BDL + due_BMDL[:, m]

        return convolve

    def _convolve_short(self, window_BLC: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the short convolution at a window's last positions, (batch, channels, `length`)."""
        short = self.short_filter
        context = self.config.short_filter_order - 1
        # While the past is recorded, the window has more columns than the taps reach back.
        window_BCL = window_BLC[:, window_BLC.shape[1] - length - context :].transpose(1, 2)
        if is_tracing(window_BCL) or not is_untouched(short):
            # The module pads both ends itself. Cut those results off.
            x_BCL = short(window_BCL.to(dtype))[..., context : context + length]
            return x_BCL.to(window_BCL.dtype)
        weight_CT = short.weight[:, 0].to(window_BCL.dtype)
        return short_convolution(window_BCL, weight_CT, short.bias.to(window_BCL.dtype), halo=context)

    def _project_back(self, y_BDL: torch.Tensor, called: bool) -> torch.Tensor:
        """Return the output projection, (batch, length, d_model).

        Args:
            y_BDL: Output of the last gate, of shape (batch, d_model, length).
            called: Always call the module, even if its weights could be used directly.
        """
        out = self.out_proj
        if called or is_tracing(y_BDL) or not is_untouched(out):
            return out(y_BDL.transpose(1, 2))
        device = y_BDL.device.type
        dtype = compute_dtype(out.weight, device)
        with torch.autocast(device, enabled=False):
            return project_back(y_BDL.to(dtype), out.weight.to(dtype), out.bias.to(dtype))


def _pads_in_front(window_BLC: torch.Tensor, pads_B: torch.Tensor, past: int) -> torch.Tensor:
    """Return the rows with their pads, which follow the first `past` columns, moved to the front.

    The pads become zeros.
    """
    # Up to the last pad, each column comes from `pads` columns to the left; after it none moves.
    position_L = torch.arange(window_BLC.shape[1], device=window_BLC.device)
    source_BL = torch.where(position_L < past + pads_B[:, None], position_L - pads_B[:, None], position_L)
    moved_BLC = window_BLC.gather(1, source_BL.clamp(min=0)[..., None].expand_as(window_BLC))
    return moved_BLC.masked_fill((source_BL < 0)[..., None], 0)


class HyenaDNAMLP(nn.Module):
    def __init__(self, config: HyenaDNAConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.mlp_width)
        self.fc2 = HyenaDNAResidualLinear(config.mlp_width, config.d_model)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if is_tracing(hidden_states) or not all_untouched(self):
            return self.fc2(F.gelu(self.fc1(hidden_states), approximate="tanh"))
        device = hidden_states.device.type
        dtype = compute_dtype(self.fc1.weight, device)
        weights = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        with torch.autocast(device, enabled=False):
            return feed_forward(hidden_states.to(dtype), *(weight.to(dtype) for weight in weights))


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
        pads_first: torch.Tensor | None = None,
        workspace: Workspace | None = None,
        past: HyenaDNACacheLayer | None = None,
    ) -> torch.Tensor:
        """Run the block; see `HyenaDNAOperator.forward` and `Workspace` for the arguments."""
        hidden_states = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        # As published: in half precision, what late layers add would be rounded away.
        if runs_fused(self, hidden_states, mask, pads_first, past):
            return self._fused(hidden_states, mask, workspace or Workspace(), past)

        weight_dtype = self.norm1.weight.dtype
        mixed = self.mixer(self.norm1(hidden_states.to(weight_dtype)), mask, pads_first, past)
        hidden_states = hidden_states + self.dropout(mixed)
        transformed = self.mlp(self.norm2(hidden_states.to(weight_dtype)))
        return hidden_states + self.dropout(transformed)

    def _fused(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None,
        workspace: Workspace,
        past: HyenaDNACacheLayer | None,
    ) -> torch.Tensor:
        mixer = self.mixer
        mlp = self.mlp
        device = hidden_states.device
        evaluate_filters: Callable[[int], Filters] = mixer.filter_fn.evaluated
        if past is not None:
            batch, length, _ = hidden_states.shape
            past.start(mixer.config, batch, length, mixer.filter_fn.dtype, device)
            if past.length > 0:
                past.settle(mixer.filters, length)
                evaluate_filters = partial(past.lags, mixer.filters)  # kept there in any case

        dtype = compute_dtype(mixer.in_proj.weight, device.type)
        parts = BlockParts(
            hyena_order=mixer.config.hyena_order,
            evaluate_filters=evaluate_filters,
            filter_dtype=mixer.filter_fn.dtype,
            norm1=self.norm1,
            norm2=self.norm2,
            in_weight=mixer.in_proj.weight.to(dtype),
            in_bias=mixer.in_proj.bias.to(dtype),
            short_weight=mixer.short_filter.weight[:, 0].to(dtype),
            short_bias=mixer.short_filter.bias.to(dtype),
            out_weight=mixer.out_proj.weight.to(dtype),
            out_bias=mixer.out_proj.bias.to(dtype),
            fc1_weight=mlp.fc1.weight.to(dtype),
            fc1_bias=mlp.fc1.bias.to(dtype),
            fc2_weight=mlp.fc2.weight.to(dtype),
            fc2_bias=mlp.fc2.bias.to(dtype),
        )
        return run_block(parts, hidden_states, mask, workspace, past)


# ------------------------------------------------------------ which form of operator and block runs

# The classes that this model is made of. Anything else in one of their places is an adapter or a
# quantizer.
_MADE_OF = {
    nn.Dropout,
    nn.Embedding,
    nn.Identity,
    nn.LayerNorm,
    nn.Linear,
    nn.Sequential,
    HyenaDNABlock,
    HyenaDNAFilter,
    HyenaDNAFilterLinear,
    HyenaDNAMLP,
    HyenaDNAOperator,
    HyenaDNAPositionalEmbedding,
    HyenaDNAResidualLinear,
    HyenaDNAShortConvolution,
    HyenaDNASin,
}


def runs_as_one_op(operator: HyenaDNAOperator, u_BLD: torch.Tensor) -> bool:
    """Return whether everything between the projections is one operation, `gated_long_convolution`.

    Graphs, dropout between the convolutions, and wrapped modules need ordinary operations.
    """
    dropout = operator.training and operator.config.hyena_dropout > 0
    return not (is_tracing(u_BLD) or dropout) and is_untouched(operator.short_filter)


def runs_fused(
    block: HyenaDNABlock,
    hidden_states: torch.Tensor,
    mask: torch.Tensor | None,
    pads_first: torch.Tensor | None,
    past: HyenaDNACacheLayer | None,
) -> bool:
    """Return whether the block runs in tiles, in little memory.

    It does if nobody needs gradients and no module of it is wrapped.
    """
    if block.training or torch.is_grad_enabled() or is_tracing(hidden_states):
        return False
    if pads_first is not None:
        return False
    if past is not None and not past.reads_whole_blocks(hidden_states.shape[1], mask):
        return False
    return all(all_untouched(child) for child in block.children())


def is_untouched(module: nn.Module) -> bool:
    """Return whether a module only does what its own weights say.

    No adapter, hook, offloading or quantization has changed it. Only then may we read its weights
    instead of calling it, and overwrite its output in place.
    """
    # accelerate replaces `forward` of the instance.
    if type(module) not in _MADE_OF or "forward" in vars(module):
        return False
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    ):
        return False
    if _has_global_hook():
        return False
    # A quantizer may leave the module as it is and replace the weight: by integers, or by a tensor
    # of another class.
    weights = module.parameters(recurse=False)
    return all(
        type(w) in (nn.Parameter, torch.Tensor) and w.is_floating_point() and not w.is_meta for w in weights
    )


def _has_global_hook() -> bool:
    """Return whether PyTorch calls something around every module of the process.

    PyTorch has a function for this too, but not yet in 2.6.
    """
    module = nn.modules.module
    forward = module._global_forward_hooks or module._global_forward_pre_hooks
    backward = module._global_backward_hooks or module._global_backward_pre_hooks
    return bool(forward or backward)


def all_untouched(module: nn.Module) -> bool:
    """Return whether a module and all modules in it are untouched."""
    return all(map(is_untouched, module.modules()))


# ---------------------------------------------------------------------------------------- the model


class HyenaDNAEmbeddings(nn.Module):
    word_embeddings: nn.Module  # an adapter may wrap the table

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
    # The quantizers of Transformers leave alone what this list names, by a pattern from the start
    # of a layer's name.
    _keep_in_fp32_modules = [".*filter_fn"]
    # Published files hold what can be computed, and each frequency thrice. A trained `z` is found
    # before loading.
    _keys_to_ignore_on_load_unexpected = [
        r"filter_fn\.pos_emb\.(z|t)$",
        r"filter_fn\.modulation\.deltas$",
        r"filter_fn\.implicit_filter\.(?!1\.)\d+\.freq$",
    ]

    def __init__(self, config: HyenaDNAConfig, *args, **kwargs):
        config.validate()  # again: `from_pretrained(..., hyena_order=1)` sets the field afterwards
        super().__init__(config, *args, **kwargs)

    @property
    def embeddings(self) -> nn.Module:
        """Where `peft` looks for `word_embeddings`."""
        return self.base_model.get_submodule("backbone.embeddings")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw from N(0, initializer_range), except where the published training code differs."""
        # Transformers calls this only for modules with parameters of their own.
        super()._init_weights(module)
        if isinstance(module, HyenaDNAResidualLinear):
            init.normal_(
                module.weight, std=self.config.initializer_range / math.sqrt(2 * self.config.n_layer)
            )
        elif isinstance(module, HyenaDNAShortConvolution):  # back to PyTorch's default
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
        """Load as in Transformers, and warn if `max_seq_len` is not the checkpoint's.

        Another `max_seq_len` changes every filter.
        """
        try:
            model = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError as error:
            if any(Path(str(pretrained_model_name_or_path)).glob("*.ckpt")):
                raise OSError(
                    f"{pretrained_model_name_or_path} holds a PyTorch Lightning checkpoint (.ckpt), "
                    "which Transformers cannot load. Convert it once: `hyenadna convert "
                    f"{pretrained_model_name_or_path} DEST`."
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
        loaded = model[0] if isinstance(model, tuple) else model  # with `output_loading_info`
        now = loaded.config.max_seq_len
        was = stored.get("max_seq_len")
        if was is not None and was != now:
            logger.warning(
                f"The checkpoint was made with max_seq_len={was}, and is loaded with max_seq_len={now}. "
                "The time axis of the filters runs from 0 to 1 over max_seq_len tokens: each is "
                f"stretched by {now / was:.3g}, and the outputs change. Leave max_seq_len out to get "
                "the model as it was trained, or fine-tune this."
            )
        return model

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys=None):
        # The one place where the files are known and nothing is loaded yet.
        check_checkpoint(model.config, model, state_dict, checkpoint_files, load_config)
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, expected_keys
        )


class HyenaDNAModel(HyenaDNAPreTrainedModel):
    """The backbone: token ids in, one vector of width `d_model` per token out."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__(config)
        self.backbone = HyenaDNABackbone(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
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
            attention_mask: 1 where there is a token and 0 where there is padding, of shape (batch,
                length), anywhere in a row. With it a sequence has the same outputs alone and in a
                batch. Without it pads are tokens. With a cache of `past` positions it is (batch,
                past + length).
            past_key_values: A `DynamicCache` that an earlier call returned, or a new one: the input
                continues what was read with it, and is added to it.
            cache: The same, by the name that Transformers uses since 5.24.
            inputs_embeds: Embeddings of shape (batch, length, d_model), instead of `input_ids`.
            use_cache: Make a cache if none was passed, and return it. Unlike `generate`, a single
                call does not unless it is asked to, because a cache takes several times the memory
                of its input.
            kwargs: What Transformers and its friends pass and read: `output_hidden_states`,
                `return_dict`, `num_items_in_batch`, `shift_labels`. `position_ids` have to count
                up, `token_type_ids` to be 0, and neither changes anything. Any other name is an
                error, unless its value is `None`.

        Returns:
            `last_hidden_state` of shape (batch, length, d_model), after the final norm, and the
            cache: `cache`, before Transformers 5.24 `past_key_values`. With
            `output_hidden_states=True` also `hidden_states`, n_layer + 1 of them: the embeddings
            and the output of each block, the last one's after the final norm.

        Raises:
            TypeError: An argument has a name that the model does not know.
            ValueError: The inputs contradict each other or the configuration; see the message.
        """
        # 1. Check, and embed.
        check_arguments(self.config, kwargs)
        past_key_values = one_cache(past_key_values, cache)
        inputs = one_input(input_ids, inputs_embeds)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past_layers, past_length = self._past(past_key_values)
        embedding = self.get_input_embeddings()
        if inputs_embeds is None:
            check_shape(self.config, "input_ids", inputs, past_length or 0)
            check_range(self.config, inputs, "input_ids", self.config.vocab_size)
            inputs_embeds = embedding(inputs)
        else:
            check_shape(self.config, "inputs_embeds", inputs, past_length or 0)
        mask, pads_first = read_mask(self.config, attention_mask, inputs_embeds, past_length)
        check_positions(self.config, kwargs.get("position_ids"), attention_mask, inputs_embeds)

        # 2. Run the blocks. `del` drops the last reference, so the embeddings are freed during the
        # first block.
        dropout = self.backbone.dropout
        hidden_states = dropout(inputs_embeds)
        del inputs_embeds
        made_here = input_ids is not None and is_untouched(embedding) and is_untouched(dropout)
        workspace = self._workspace(hidden_states, made_here)
        # `assistant_early_exit` runs the first few blocks only: it lowers `n_layer` for the time of
        # a draft.
        blocks = list(self.backbone.layers)[: self.config.n_layer]
        for block, past in zip(blocks, past_layers, strict=True):
            hidden_states = block(hidden_states, mask, pads_first, workspace, past)

        # 3. Final norm.
        norm = self.backbone.ln_f
        owned = workspace is not None and workspace.owns(hidden_states)
        if owned and is_untouched(norm) and norm.weight.dtype == hidden_states.dtype:
            hidden_states = norm_in_place(norm, hidden_states)
        else:
            hidden_states = norm(hidden_states.to(norm.weight.dtype))
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, **{CACHE: past_key_values})

    def _workspace(self, hidden_states: torch.Tensor, made_here: bool) -> Workspace | None:
        """Return the memory that blocks leave to each other, or `None` if they must not.

        `made_here`: nobody else holds `hidden_states`, so the first block may overwrite it too.
        """
        if torch.is_grad_enabled() or is_tracing(hidden_states):
            return None
        # A hook, or a module in a block's place, may have kept what the block before returned.
        if not all(map(is_untouched, self.backbone.layers)):
            return None
        return Workspace(stream_BLD=hidden_states if made_here else None)

    def _past(self, cache) -> tuple[list[HyenaDNACacheLayer] | list[None], int | None]:
        """The cache's layers, one for each block, and its length; `None`s where there is no cache."""
        if cache is not None:
            layers = check_cache(self.config, cache)
            if not self._runs_blocks_twice():
                return layers, layers[0].length
            _refuse_used_cache(layers[0].length)
        return [None] * self.config.n_layer, None

    def _runs_blocks_twice(self) -> bool:
        """Whether activations are checkpointed: the backward pass runs the blocks once more."""
        return torch.is_grad_enabled() and any(
            block.training and getattr(block, "gradient_checkpointing", False)
            for block in self.backbone.layers
        )


def _refuse_used_cache(past_length: int) -> None:
    """Refuse a cache in use where activations are checkpointed, and warn about a new one.

    A block that runs twice would add its positions to the cache twice. A new cache stays empty.
    """
    if past_length:
        raise ValueError(
            f"The cache holds {past_length} positions, but activations are checkpointed, and a block "
            "that runs twice cannot continue a cache. Use `torch.no_grad()` or `model.eval()`, or "
            "switch checkpointing off."
        )
    logger.warning_once("Activations are checkpointed, so nothing is kept in the cache.")


# ---------------------------------------------------------------------------------------- the heads


class HyenaDNAForCausalLM(HyenaDNAGenerationMixin, HyenaDNAPreTrainedModel):
    """The backbone and a linear head that predicts the next token."""

    _tied_weights_keys = {"lm_head.weight": "hyena.backbone.embeddings.word_embeddings.weight"}

    def __init__(self, config: HyenaDNAConfig):
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()
        set_generation_defaults(self.generation_config, config)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache=None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Predict the next token at every position. For other arguments see
        `HyenaDNAModel.forward`.

        Args:
            labels: Token ids of shape (batch, length), usually the `input_ids`: the shift by one
                happens here. -100 and masked positions are ignored. The loss is a softmax over all
                `vocab_size` rows, as published.
            logits_to_keep: Compute logits for this many last positions, or for the positions in a
                tensor; 0 means all.

        Returns:
            `loss` (a scalar, when `labels` came) and `logits` of shape (batch, length, vocab_size).
        """
        if labels is not None:
            check_labels(self.config, labels, one_input(input_ids, inputs_embeds), self.config.vocab_size)
        outputs = self.hyena(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        # A slice from -0 is everything.
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])

        loss = None
        if labels is not None:
            shift_labels = kwargs.get("shift_labels")
            if shift_labels is None:
                shift_labels = next_token_labels(labels, attention_mask)[:, kept].contiguous()
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                **{**kwargs, "shift_labels": shift_labels},
            )
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE: getattr(outputs, CACHE)}
        )


class HyenaDNAForSequenceClassification(HyenaDNAPreTrainedModel):
    """The backbone, pooled by `config.pooling`, and a linear head.

    It predicts one class, several labels at once, or numbers; `config.problem_type` says which.
    """

    def __init__(self, config: HyenaDNAConfig):
        super().__init__(config)
        self.num_labels = config.class_count
        self.hyena = HyenaDNAModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.d_model, config.class_count, bias=config.classifier_bias)
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
            labels: Class ids of shape (batch,); for several labels 0 or 1 and for regression
                numbers of shape (batch, num_labels), or (batch,) if there is one.
                `config.problem_type` decides, as in Transformers.

        Returns:
            `loss` (a scalar, when `labels` came) and `logits` of shape (batch, num_labels).
        """
        if labels is not None:
            labels = sequence_labels(self.config, labels, len(one_input(input_ids, inputs_embeds)))
        outputs = self.hyena(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        pooled = pool(outputs.last_hidden_state, attention_mask, self.config.pooling_method)
        logits = self.score(self.dropout(pooled))

        loss = None
        if labels is not None:
            scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if labels.is_floating_point():
                labels = labels.to(scores.dtype)
            loss = self.loss_function(labels=labels, pooled_logits=scores, config=self.config, **kwargs)
            count = kwargs.get("num_items_in_batch")
            if count is not None and labels.is_floating_point():
                # Transformers divides by the count for classes only. The losses of accumulated
                # batches would be summed, not averaged.
                loss = loss * labels.numel() / count
        return SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE: getattr(outputs, CACHE)}
        )


class HyenaDNAForTokenClassification(HyenaDNAPreTrainedModel):
    """The backbone and a linear head that classifies each position by it and what precedes it."""

    def __init__(self, config: HyenaDNAConfig):
        super().__init__(config)
        self.num_labels = config.class_count
        self.hyena = HyenaDNAModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.d_model, config.class_count, bias=config.classifier_bias)
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
    ) -> TokenClassifierOutput:
        """Classify every token; see `HyenaDNAModel.forward` for the other arguments.

        Args:
            labels: Class ids of shape (batch, length). -100 and masked positions are ignored.

        Returns:
            `loss` (a scalar, when `labels` came) and `logits` of shape (batch, length, num_labels).
        """
        if labels is not None:
            check_labels(self.config, labels, one_input(input_ids, inputs_embeds), self.config.class_count)
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
