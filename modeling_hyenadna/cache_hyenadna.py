"""Exact generation in quasi-linear time: the long convolutions are continued, not computed again.

What a token adds to later positions is added in blocks of doubling size ("relaxed" or online convolution, Fischer and
Stockmeyer 1974; for long-convolution models arXiv 2410.12982 and 2410.03766): n tokens cost O(n log^2 n), not n^2.

Shape suffixes: B batch, L new positions, T taps of the short convolution, M `hyena_order` - 1 convolutions, D
`d_model`, C (M + 2) * D projected channels.
"""

from contextlib import contextmanager

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicCache
from transformers.utils.import_utils import is_tracing

from .long_convolution import groups, long_convolution, next_fast_length

# The newest inputs, up to so many, are summed over directly at each step; older ones have been added ahead of time.
_TAIL = 32
# Spectra of filters are kept for blocks up to this size; larger blocks are too rare for it to pay.
_KEPT_SPECTRA = 2**12


class _Filters:
    """The filters of one layer up to some lag, and what is computed from them once. Never changed, so copies share it.

    Args:
        mixer: The `HyenaDNAOperator`.
        length: Number of lags.
    """

    @torch.no_grad()
    def __init__(self, mixer, length: int):
        self.k_MDL, self.skip_MD = mixer.filters(length)
        self.length = length
        # The skip is one more weight on lag 0; from the highest lag to the lowest, as the inputs stand.
        k_MDT = self.k_MDL[..., : _TAIL + 1].clone()
        k_MDT[..., 0] += self.skip_MD
        self.direct_MDT = k_MDT.flip(-1)
        self._spectra = {}

    def __deepcopy__(self, memo) -> "_Filters":
        return self

    def spectrum(self, size: int, reach: int, gap: int, d: slice, n: int) -> Tensor:
        """Spectrum of the lags from a block of `size` inputs to `reach` positions that follow `gap` positions later."""
        key = (size, d.start, n) if gap == 0 and size == reach <= _KEPT_SPECTRA else None
        if key in self._spectra:
            return self._spectra[key]
        spectrum = torch.fft.rfft(self.k_MDL[:, d, gap + 1 : gap + size + reach], n=n)
        if key is not None:
            self._spectra[key] = spectrum
        return spectrum


class HyenaDNACacheLayer(CacheLayerMixin):
    """What one block has to remember of the positions it has seen. `DynamicCache(config=model.config)` is made of it.

    `keys` are the inputs of the long convolutions, (B, M, D, capacity); `values` the last inputs of the short one,
    (B, T - 1, C), or all since `activate_past_recording`. Beside them are the contributions to positions to come.

    The positions are cut into the newest ones, the tail, and blocks `(start, end, reach)`. What the inputs of a block
    contribute to the positions from its end to its reach has been added to `future`. Where a block's reach is used up,
    it becomes one block with all that follow it, which reaches as far as it is long.

    Memory in float32 numbers, for n positions: `keys` up to 2 B M D n (the capacity doubles), `future` up to B M D n,
    and the filters, which the batch shares, up to 4 M D n. Float64 for a float64 model.
    """

    _layer_type = "hyena"
    is_croppable = True
    supports_early_init = False
    is_sliding = False

    def __init__(self, **kwargs):
        super().__init__()
        self.record_past, self.rows = False, None
        self._clear()

    def _clear(self) -> None:
        self.keys = self.values = self.future = self.filters = None
        self.is_initialized = False
        self.length = self.settled = self.future_start = 0
        self.blocks = []

    # -- what the library's `Cache` calls

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start from empty tensors of shape (B, M, D, 0) and (B, 0, C) of the type and on the device to keep."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append inputs of the long convolutions (B, M, D, L) and of the short one (B, L, C); return all that is kept.

        Raises:
            ValueError: The batch or the sizes are others than before.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states[..., :0], value_states[:, :0])
        if key_states.ndim != 4 or key_states.shape[:3] != self.keys.shape[:3]:
            raise ValueError(
                f"The cache holds inputs of shape (batch, convolutions, d_model, capacity) = {tuple(self.keys.shape)}, "
                f"but {tuple(key_states.shape)} was to be appended: it belongs to another model or batch."
            )
        self.reserve(key_states.shape[-1])
        self.keys[..., self.length : self.length + key_states.shape[-1]] = key_states
        self.advance(key_states.shape[-1], torch.cat([self.values, value_states], dim=1))
        return self.keys[..., : self.length], self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        """Forget everything; also the filters, because the weights may change before the next use."""
        self._clear()

    def activate_past_recording(self) -> None:
        """From now on keep what `crop` needs."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `-tokens_to_remove` positions (0 or a negative number, as for the library's layers).

        As there, what was recorded of the positions that stay is dropped: a second call reaches back to the first.

        Raises:
            ValueError: The number is positive, or there are not so many positions.
            RuntimeError: The inputs of the short convolution before them are no longer kept.
        """
        count = -tokens_to_remove
        if count < 0 or count > self.length:
            raise ValueError(
                f"`crop` was called with {tokens_to_remove} on a cache of {self.length} positions. Pass 0 or the "
                "negative number of positions to remove."
            )
        if not self.is_initialized:
            return
        columns = self.values.shape[1] - count
        if columns < self.taps - 1:
            raise RuntimeError(
                f"{count} positions were to be removed from the cache, but what the short convolution saw before them "
                "is not kept. Call `activate_past_recording()` before the positions are added, and crop them at once."
            )
        self.values = self.values[:, max(0, columns - self.taps + 1) : columns]
        self.length -= count
        if self.length < self.settled:  # they have contributed to later positions: start again from the inputs
            self.blocks, self.future, self.settled = [], None, 0

    def _apply(self, change) -> None:
        for name in ("keys", "values", "future"):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, change(tensor))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._apply(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._apply(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._apply(lambda x: x[indices.to(x.device)])

    def offload(self) -> None:
        self._apply(lambda x: x.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        if self.is_initialized:
            self._apply(lambda x: x.to(self.device, non_blocking=True))

    # -- what the operator calls

    def start(self, mixer, batch: int, length: int, device: torch.device) -> None:
        """Get ready for `length` more positions of the operator `mixer`: make room, settle what they need.

        Raises:
            ValueError: The cache holds another batch or belongs to another model.
        """
        config = mixer.config
        width, convolutions = config.d_model, config.hyena_order - 1
        self.taps = config.short_filter_order
        if not self.is_initialized:
            dtype = torch.promote_types(mixer.filter_fn.bias.dtype, torch.float32)
            # Taps before the sequence read zeros.
            columns = torch.zeros(batch, self.taps - 1, (convolutions + 2) * width, dtype=dtype, device=device)
            self.lazy_initialization(torch.empty(batch, convolutions, width, 0, dtype=dtype, device=device), columns)
        held = self.keys.shape[0] if self.rows is None else len(self.rows)
        if (held, *self.keys.shape[1:3]) != (batch, convolutions, width):
            raise ValueError(
                f"The cache holds {held} sequences of {self.keys.shape[1]} convolutions and d_model="
                f"{self.keys.shape[2]}, but the input has {batch}, {convolutions} and {width}. Start with a new "
                "cache, or repeat its rows by `batch_repeat_interleave`."
            )
        self.max_length = config.max_seq_len
        if self.rows is None:
            self.reserve(length)

    def reads_blocks(self, length: int, mask_BL: Tensor | None) -> bool:
        """Whether `run_block` may continue this cache; it is slower than `continue_operator` for one position."""
        if self.length > 0 and mask_BL is not None:  # pads behind what is cached
            return False
        return not self.record_past and (self.length == 0 or self.rows is not None or length > 1)

    def reserve(self, length: int) -> None:
        """Make room for `length` more inputs; the capacity doubles."""
        needed, capacity = self.length + length, self.keys.shape[-1]
        if needed > capacity:
            # Exactly as much at first: a long prompt may be followed by a few tokens only, or by none.
            capacity = needed if capacity == 0 else max(needed, 2 * capacity, 4 * _TAIL)
            larger = self.keys.new_empty(*self.keys.shape[:3], capacity)
            larger[..., : self.length] = self.keys[..., : self.length]
            self.keys = larger

    def move(self, pads_B: Tensor, length: int) -> Tensor:
        """Move each row's inputs to the right by its number of pads: the pads get in front of all its tokens.

        Args:
            pads_B: How many of the next `length` positions are pads, the first ones of each row.
            length: Number of the positions that follow.

        Returns:
            What has moved beyond the end, and takes the place of the pads: (B, M, D, length), else zeros.

        Raises:
            ValueError: Several continuations share the cache.
        """
        if self.rows is not None:
            raise ValueError(
                "`attention_mask` has pads behind the tokens that `branches` continues, and these belong to all "
                "continuations: pad on the right, or continue each length by itself."
            )
        now = self.length
        source_BL = torch.arange(now + length, device=pads_B.device) - pads_B[:, None]
        known_BL = (source_BL >= 0) & (source_BL < now)
        index = source_BL.clamp(0, now - 1)[:, None, None].expand(-1, *self.keys.shape[1:3], -1)
        moved = self.keys[..., :now].gather(-1, index).masked_fill(~known_BL[:, None, None], 0)
        self.keys[..., :now] = moved[..., :now]
        self.blocks, self.future, self.settled = [], None, 0  # what they contribute, they contribute later now
        return moved[..., now:]

    def lags(self, mixer, length: int) -> _Filters:
        """The filters, up to at least so many lags."""
        if self.filters is None or self.filters.length < length:
            self.filters = _Filters(mixer, min(self.max_length, max(length, 4 * _TAIL)))
        return self.filters

    def spectra(self, mixer, length: int, fft):
        """As `HyenaDNAFilter.spectra`, of filters that are kept here anyway."""
        filters = self.lags(mixer, length)
        return lambda channels: fft.filters(filters.k_MDL[:, channels, :length], filters.skip_MD[:, channels])

    @torch.no_grad()
    def settle(self, mixer, length: int) -> None:
        """Add the contributions that the next `length` positions need from all the inputs so far, the tail's too."""
        now, start = self.length, self.settled
        if self.blocks and self.blocks[0][2] < now + length:
            start, self.blocks = 0, []  # no block reaches that far: all inputs at once
        while self.blocks and self.blocks[-1][2] <= now:
            start = self.blocks.pop()[0]
        if start < now:
            reach = max(now + length, 2 * now - start, now + _TAIL)
            reach = min(reach, self.blocks[-1][2] if self.blocks else self.max_length)
            self.lags(mixer, reach)
            if not self.blocks:
                self.future = self.keys.new_empty(*self.keys.shape[:3], reach - now)
                self.future_start = now
            self._contribute(start, now, now, reach, new=not self.blocks)
            self.blocks.append([start, now, reach])
        for block in self.blocks:
            if block[2] < now + length:
                self._contribute(block[0], block[1], block[2], now + length)
                block[2] = now + length
        self.settled = now

    def _contribute(self, start: int, end: int, first: int, stop: int, new: bool = False) -> None:
        """Add to the positions [first, stop) what the inputs [start, end) before them contribute; or write, if new."""
        size, reach = end - start, stop - first
        # One period of a circular convolution: what wraps around lies in front of the positions that are taken.
        n = next_fast_length(size + reach - 1)
        future = self.future[..., first - self.future_start : stop - self.future_start]
        inputs = self.keys[..., start:end]
        batch, _, width, _ = inputs.shape
        spectrum, last = None, None
        for b, d in groups(batch, width, n // 2, inputs.device):
            if d != last:
                spectrum, last = self.filters.spectrum(size, reach, first - end, d, n), d
            product = torch.fft.rfft(inputs[b, :, d], n=n).mul_(spectrum)
            result = torch.fft.irfft(product, n=n)[..., size - 1 : size - 1 + reach]
            if new:
                future[b, :, d] = result
            else:
                future[b, :, d] += result

    def due(self, b: slice, d: slice, length: int) -> Tensor | None:
        """What the inputs so far contribute to the next `length` positions: (batch, M, channels, length)."""
        if self.future is None or self.length == 0:
            return None
        start = self.length - self.future_start
        due = self.future[:, :, d, start : start + length]
        if self.rows is None:
            return due[b]
        return due if len(due) == 1 else due[self.rows[b]]

    def columns(self) -> Tensor:
        """The last inputs of the short convolution, (B, T - 1, C); more of them if the past is recorded."""
        return self.values if self.rows is None else self.values[self.rows]

    def keep(self, b: slice, o: int, d: slice, u_BDL: Tensor) -> None:
        """Keep inputs of the long convolution `o`, of parts of the batch and of the channels."""
        if self.rows is None:
            self.keys[b, o, d, self.length : self.length + u_BDL.shape[-1]] = u_BDL

    def advance(self, length: int, window_BLC: Tensor) -> None:
        """Count `length` positions whose inputs have been written; `window_BLC` ends in the short convolution's."""
        if self.rows is not None:
            return
        self.length += length
        if not self.record_past:
            window_BLC = window_BLC[:, window_BLC.shape[1] - self.taps + 1 :].clone()  # or all of it stays in memory
        self.values = window_BLC.detach()


@contextmanager
def branches(cache: DynamicCache, rows: Tensor):
    """Many continuations of what is in a cache, which stays as it is; nothing is copied for them.

        with branches(cache, torch.zeros(24, dtype=torch.long)):
            model(ids, past_key_values=cache)  # 24 rows, each behind the one sequence in the cache

    Args:
        cache: Of sequences that have been read. Within the block a call adds nothing to it.
        rows: Integers of shape (batch,): the row of the cache that each row of an input follows.

    Raises:
        ValueError: The cache is empty.
    """
    if cache.get_seq_length() == 0:
        raise ValueError("There is nothing in the cache to branch from: read a prefix with it first.")
    for layer in cache.layers:
        layer.rows = rows
    try:
        yield
    finally:
        for layer in cache.layers:
            layer.rows = None


def _pads_in_front(window_BLC: Tensor, pads_B: Tensor, past: int) -> Tensor:
    """The same rows with the pads, which follow the first `past` positions, in front of these, as zeros."""
    position_L = torch.arange(window_BLC.shape[1], device=window_BLC.device)
    source_BL = torch.where(position_L < past + pads_B[:, None], position_L - pads_B[:, None], position_L)
    moved_BLC = window_BLC.gather(1, source_BL.clamp(min=0)[..., None].expand_as(window_BLC))
    return moved_BLC.masked_fill((source_BL < 0)[..., None], 0)


def continue_operator(mixer, p_BLC: Tensor, mask_BL: Tensor | None, layer: HyenaDNACacheLayer) -> Tensor:
    """Everything between the two projections of the operator `mixer`, for positions that follow those in the cache.

    Equal to the same positions of a pass over the whole sequence. With gradients, those within `p_BLC` are exact, and
    what is in the cache is a constant.

    Args:
        mixer: The `HyenaDNAOperator`.
        p_BLC: Projections of the new positions, of shape (batch, length, (order + 1) * d_model).
        mask_BL: True where there is a token, of shape (batch, length). A row's pads are in front of its tokens; behind
            tokens in the cache they count as if they were in front of those too.
        layer: The block's layer of the cache, which is changed.

    Returns:
        A tensor of shape (batch, length, d_model) and of the type of `p_BLC`.
    """
    batch, length, _ = p_BLC.shape
    grad = torch.is_grad_enabled()
    layer.start(mixer, batch, length, p_BLC.device)
    dtype = layer.dtype
    now, one = layer.length, length == 1 and not grad and layer.rows is None
    # Pads between what is cached and what follows it would be a gap. In a traced step of one token there are none.
    pads_B, moved = None, None
    if mask_BL is not None and now > 0 and not (length == 1 and is_tracing(mask_BL)):
        pads_B = (~mask_BL).sum(1)
        moved = layer.move(pads_B, length)
    # 1. What the inputs before these positions contribute to them.
    if not one or moved is not None or now - layer.settled >= _TAIL or (layer.blocks and layer.blocks[-1][2] <= now):
        layer.settle(mixer, length)

    # 2. The short convolution, over the columns that are kept and the new ones.
    short = mixer.short_filter
    x_BLC = p_BLC.to(dtype)
    if mask_BL is not None:
        x_BLC = x_BLC.masked_fill(~mask_BL[..., None], 0)
    window_BLC = torch.cat([layer.columns(), x_BLC], dim=1)
    if moved is not None:
        window_BLC = _pads_in_front(window_BLC, pads_B, window_BLC.shape[1] - length)
    recent_BLC = window_BLC[:, window_BLC.shape[1] - length - layer.taps + 1 :]
    if mixer.short_is_plain():
        w_CT, x_BLC = short.weight[:, 0].to(dtype), short.bias.to(dtype)
        for t in range(layer.taps):
            x_BLC = torch.addcmul(x_BLC, recent_BLC[:, t : t + length], w_CT[:, t])
    else:  # its padding is for a sequence's beginning
        x_BCL = short(recent_BLC.transpose(1, 2).to(p_BLC.dtype))[..., layer.taps - 1 : layer.taps - 1 + length]
        x_BLC = x_BCL.transpose(1, 2).to(dtype)
    *gates, v_BLD = x_BLC.split(mixer.config.d_model, dim=2)
    if mask_BL is not None:  # the short convolution has a bias; from here on zeros stay zeros
        v_BLD = v_BLD.masked_fill(~mask_BL[..., None], 0)

    # 3. Gates and long convolutions: the new inputs among themselves, and what is due from those before.
    if grad:
        k_MDL, skip_MD = mixer.filters(length)
    else:
        filters = layer.lags(mixer, 1 if one else length)
        k_MDL, skip_MD = filters.k_MDL[..., :length], filters.skip_MD
    due = layer.due(slice(None), slice(None), length)
    for o, gate in enumerate(reversed(gates[1:])):
        u_BLD = mixer.dropout(v_BLD * gate)
        if moved is not None:
            u_BLD = torch.where(mask_BL[..., None], u_BLD, moved[:, o].transpose(1, 2))
        layer.keep(slice(None), o, slice(None), u_BLD.detach().transpose(1, 2))
        if one:
            tail = layer.keys[:, o, :, layer.settled : now + 1]
            y_BDL = (tail * filters.direct_MDT[o, :, -tail.shape[-1] :]).sum(-1, keepdim=True)
        else:
            y_BDL = long_convolution(u_BLD.transpose(1, 2), k_MDL[o], skip_MD[o])
        if due is not None:
            y_BDL = y_BDL + due[:, o]
        v_BLD = y_BDL.transpose(1, 2)
    layer.advance(length, window_BLC)
    return (v_BLD * gates[0]).to(p_BLC.dtype)


def check_cache(config, cache) -> list:
    """The layers of a cache, one for each block; `None`s if there is no cache.

    Raises:
        ValueError: It is no cache of this kind and size.
    """
    if cache is None:
        return [None] * config.n_layer
    if isinstance(cache, DynamicCache) and not cache.layers:  # made without a configuration
        cache.layers, cache.layer_class_to_replicate = DynamicCache(config=config).layers, None
    layers = getattr(cache, "layers", ())
    # By name: a copy of this file from the Hub has a class of its own.
    kinds = [getattr(layer, "_layer_type", None) for layer in layers]
    if kinds != config.layer_types:
        raise ValueError(
            f"`past_key_values` is {type(cache).__name__} with layers of {sorted(set(map(str, kinds)))} "
            f"({len(kinds)}), but `DynamicCache(config=model.config)` with {config.n_layer} was expected. HyenaDNA has "
            "no keys and values of attention, and so no prefix tuning."
        )
    return layers
