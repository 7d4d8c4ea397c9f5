"""Exact generation in quasi-linear time: the long convolutions are continued, not computed again.

A long convolution reads every earlier position, so a naive step costs as much as the sequence is
long, and n tokens cost n^2. Here inputs are grouped in spans of doubling size, and what a span
contributes to later positions is added up by one FFT, ahead of time ("relaxed" or online
convolution, Fischer and Stockmeyer 1974; for long-convolution models arXiv 2410.12982 and
2410.03766). Then n tokens cost O(n log^2 n).

This file keeps the state. `HyenaDNAOperator` and `fused_inference.py` compute with it.

Shape suffixes: B batch, L new positions, T taps of the short convolution, M `hyena_order` - 1
convolutions, D `d_model`, C (M + 2) * D projected channels, F frequencies.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicCache

from .configuration_hyenadna import HyenaDNAConfig
from .long_convolution import Transform, channel_groups, next_fast_length

# A step sums directly over the newest inputs, up to this many. A shorter tail would mean more FFTs,
# a longer one more to sum at each step.
TAIL = 32
# Spectra of filters are kept for spans of up to this size. A larger span comes too rarely to pay
# for the memory.
_KEPT_SPECTRA = 2**12

# From a number of lags to filters (M, D, lags) and their skips (M, D).
MakeFilters = Callable[[int], tuple[Tensor, Tensor]]


class ContinuedFilters:
    """The filters of one layer up to some lag, and what is computed from them.

    It never changes, so copies of a cache share it.

    Args:
        make_filters: `HyenaDNAOperator.filters`.
        length: Number of lags.
    """

    @torch.no_grad()
    def __init__(self, make_filters: MakeFilters, length: int):
        self.k_MDL, self.skip_MD = make_filters(length)
        self.length = length

        # For single steps: the skip adds to the weight of lag 0, and lags run downwards, so that a
        # product with the newest inputs, oldest first, is the convolution.
        k_MDT = self.k_MDL[..., : TAIL + 1].clone()
        k_MDT[..., 0] += self.skip_MD
        self.direct_MDT = k_MDT.flip(-1)
        self._spectra: dict[tuple[int, int, int], Tensor] = {}

    def __deepcopy__(self, memo) -> "ContinuedFilters":
        return self

    def spectra(self, channels: slice, transform: Transform) -> Tensor:
        """Spectra of filters and skips, as `FilterValues.spectra` gives them."""
        return transform.filters(self.k_MDL[:, channels, : transform.length], self.skip_MD[:, channels])

    def span_spectrum(self, size: int, reach: int, gap: int, d: slice, n: int) -> Tensor:
        """Return the spectrum of the lags from a span of inputs to later positions.

        Args:
            size: Number of inputs.
            reach: Number of later positions.
            gap: Number of positions between the last input and the first of them.
            d: The channels.
            n: Length of the transform.
        """
        # Only spans that grow by doubling, one token at a time, ask for the same lags again.
        keep = gap == 0 and size == reach <= _KEPT_SPECTRA
        # The shortest lag is from the last input to the first position, gap + 1; the longest is from
        # the first input to the last position, gap + size + reach - 1.
        key = (size, d.start, n)
        if keep and key in self._spectra:
            return self._spectra[key]
        spectrum_MDF = torch.fft.rfft(self.k_MDL[:, d, gap + 1 : gap + size + reach], n=n)
        if keep:
            self._spectra[key] = spectrum_MDF
        return spectrum_MDF


@dataclass
class Span:
    """Inputs from `start` to `end`, whose contributions are added up as far as `reach`.

    All three are positions in the sequence; the last two are not included.
    """

    start: int
    end: int
    reach: int


class HyenaDNACacheLayer(CacheLayerMixin):
    """What one block remembers. `DynamicCache(config=model.config)` has one for each block.

    `keys` are the inputs of the long convolutions, (B, M, D, capacity). `values` are the last
    inputs of the short one, (B, T - 1, C), or all of them since `activate_past_recording`.

    The positions are cut into spans, and after those comes the tail, the newest ones. `future`,
    (B, M, D, positions from `future_start` on), holds what the inputs in the spans contribute to
    positions to come.

    Memory in float32 numbers, for n positions: `keys` up to 2 B M D n (the capacity doubles),
    `future` up to B M D n, and the filters, which the batch shares, up to 4 M D n. Float64 for a
    float64 model.
    """

    _layer_type = "hyena"
    is_croppable = True
    supports_early_init = False
    is_sliding = False

    # These exist from `lazy_initialization` on. Before it the library has `None` in the first two.
    keys: Tensor
    values: Tensor
    future: Tensor
    dtype: torch.dtype
    device: torch.device

    # From the configuration, by `start`.
    taps: int
    max_length: int

    def __init__(self, **kwargs):
        super().__init__()
        self.record_past = False
        # Within `branches`, the row of the cache that each row of the input continues.
        self.rows: Tensor | None = None
        self._clear()

    def _clear(self) -> None:
        super().__init__()  # the library's fields as they were at first: no keys, no values
        self.filters: ContinuedFilters | None = None
        self.length = 0
        self.spans: list[Span] = []
        self.settled = 0  # inputs before this position are in a span

    def _forget_contributions(self) -> None:
        """Start again from the inputs: the next `settle` adds up what all of them contribute."""
        self.spans = []
        self.settled = 0
        self.future = self.keys.new_empty(*self.keys.shape[:3], 0)
        self.future_start = 0

    # -- what the library's `Cache` calls

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start from empty tensors (B, M, D, 0) and (B, 0, C); their type and device are kept."""
        self.dtype = key_states.dtype
        self.device = key_states.device
        self.keys = key_states
        self.values = value_states
        self.is_initialized = True
        self._forget_contributions()

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append inputs of the long convolutions, (B, M, D, L), and of the short one, (B, L, C).

        Returns:
            All that is kept of both.

        Raises:
            ValueError: The batch or the sizes differ from those before.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states[..., :0], value_states[:, :0])
        if key_states.ndim != 4 or key_states.shape[:3] != self.keys.shape[:3]:
            raise ValueError(
                "The cache holds inputs of shape (batch, convolutions, d_model, capacity) = "
                f"{tuple(self.keys.shape)}, but {tuple(key_states.shape)} was to be appended: it "
                "belongs to another model or batch."
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
        """Forget everything, the filters too: the weights may change before the next use."""
        self._clear()

    def activate_past_recording(self) -> None:
        """From now on keep what `crop` needs."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `-tokens_to_remove` positions: not positive, as in Transformers.

        As there, the recording begins anew: a second call can go back as far as this one, not
        further.

        Raises:
            ValueError: The number is positive, or there are fewer positions.
            RuntimeError: The inputs of the short convolution before them are no longer kept.
        """
        # In Transformers 5.16 it is a tensor. `self.length` would become one too, and a later `+=`
        # would change it in place, wherever it is shared.
        count = -int(tokens_to_remove)
        if count < 0 or count > self.length:
            raise ValueError(
                f"`crop` was called with {tokens_to_remove} on a cache of {self.length} positions. Pass "
                "0 or the negative number of positions to remove."
            )
        if not self.is_initialized:
            return
        columns = self.values.shape[1] - count
        if columns < self.taps - 1:
            raise RuntimeError(
                f"{count} positions were to be removed from the cache, but what the short convolution "
                "saw before them is not kept. Call `activate_past_recording()` before the positions are "
                "added, and crop them at once."
            )
        self.values = self.values[:, max(0, columns - self.taps + 1) : columns]
        self.length -= count
        # Inputs that are gone now may be part of `future`. Sums cannot be undone without rounding.
        if self.length < self.settled:
            self._forget_contributions()

    def _apply(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.is_initialized:
            self.keys = change(self.keys)
            self.values = change(self.values)
            self.future = change(self.future)

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

    def start(
        self, config: HyenaDNAConfig, batch: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Get ready for `length` more positions of a batch, in the filters' `dtype`.

        Raises:
            ValueError: The cache holds another batch or belongs to another model.
        """
        width = config.d_model
        convolutions = config.hyena_order - 1
        self.taps = config.short_filter_order
        self.max_length = config.max_seq_len
        if not self.is_initialized:
            inputs = torch.empty(batch, convolutions, width, 0, dtype=dtype, device=device)
            # Taps from before the sequence read zeros.
            columns = torch.zeros(
                batch, self.taps - 1, (convolutions + 2) * width, dtype=dtype, device=device
            )
            self.lazy_initialization(inputs, columns)

        rows = self.keys.shape[0] if self.rows is None else len(self.rows)
        if (rows, *self.keys.shape[1:3]) != (batch, convolutions, width):
            raise ValueError(
                f"The cache holds {rows} sequences of {self.keys.shape[1]} convolutions and d_model="
                f"{self.keys.shape[2]}, but the input has {batch}, {convolutions} and {width}. Start "
                "with a new cache, or repeat its rows by `batch_repeat_interleave`."
            )
        if self.rows is None:
            self.reserve(length)

    def reads_whole_blocks(self, length: int, mask_BL: Tensor | None) -> bool:
        """Whether `fused_inference.run_block` may continue this cache."""
        if self.record_past:  # it keeps only the last columns
            return False
        if self.length == 0:
            return True
        if mask_BL is not None:  # pads after the cached positions have to be moved first
            return False
        # A single position is faster as a dot product with the tail. Within `branches` nothing is
        # added to the tail, so there is no such shortcut.
        return length > 1 or self.rows is not None

    def reserve(self, length: int) -> None:
        """Make room for `length` more inputs.

        The capacity doubles, so that the copies of n single steps cost O(n) altogether.
        """
        needed = self.length + length
        capacity = self.keys.shape[-1]
        if needed <= capacity:
            return
        # At first exactly what is needed: a long prompt may be followed by few tokens, or none.
        if capacity == 0:
            capacity = needed
        else:
            capacity = max(needed, 2 * capacity, 4 * TAIL)
        larger = self.keys.new_empty(*self.keys.shape[:3], capacity)
        larger[..., : self.length] = self.keys[..., : self.length]
        self.keys = larger

    def move_pads_to_the_front(self, pads_B: Tensor, length: int) -> Tensor:
        """Shift each row right by its number of pads, so that pads come before all its tokens.

        Pads between the cached positions and the new ones would be a gap in the sequence: every lag
        across it would be too long. Before all tokens they are zeros that nothing depends on.

        Args:
            pads_B: How many of the next `length` positions are pads: the first ones of each row.
            length: Number of the positions that follow.

        Returns:
            The inputs that were shifted beyond the end, where the pads were, (B, M, D, length), and
            zeros elsewhere.

        Raises:
            ValueError: Several continuations share the cache.
        """
        if self.rows is not None:
            raise ValueError(
                "`attention_mask` has pads after the tokens that `branches` continues, and these belong "
                "to all continuations: pad on the right, or continue each length by itself."
            )
        now = self.length
        source_BL = torch.arange(now + length, device=pads_B.device) - pads_B[:, None]
        known_BL = (source_BL >= 0) & (source_BL < now)
        index = source_BL.clamp(0, now - 1)[:, None, None].expand(-1, *self.keys.shape[1:3], -1)
        moved = self.keys[..., :now].gather(-1, index).masked_fill(~known_BL[:, None, None], 0)
        self.keys[..., :now] = moved[..., :now]
        self._forget_contributions()  # the shifted inputs contribute to other positions now
        return moved[..., now:]

    def lags(self, make_filters: MakeFilters, length: int) -> ContinuedFilters:
        """Return the filters, up to at least `length` lags."""
        if self.filters is None or self.filters.length < length:
            self.filters = ContinuedFilters(make_filters, min(self.max_length, max(length, 4 * TAIL)))
        return self.filters

    def must_settle(self) -> bool:
        """Return whether a single step needs `settle` first.

        It does if the tail is full, or if `future` ends before the next position.
        """
        tail_is_full = self.length - self.settled >= TAIL
        return tail_is_full or (bool(self.spans) and self.spans[-1].reach <= self.length)

    @torch.no_grad()
    def settle(self, make_filters: MakeFilters, length: int) -> None:
        """Add up what all inputs so far, the tail's too, contribute to the next `length` positions.

        The tail becomes a span. Its contributions are added up for as many positions as it is long.
        Once generation has passed a span's reach, that span is merged with all later ones, and the
        merged span again reaches as far as it is long. So spans double, as in a binary counter:
        each input takes part in log2(n) transforms, each of which costs O(log n) for a position.

            positions      0        32       64       96       128
            spans          [--------]                              reaches 64
            merged         [-----------------]                     reaches 128
            and a new one  [-----------------][--------]           reaches 128
        """
        now = self.length
        stop = now + length
        start = self._take_back_spans(now, stop)
        if start < now:
            self._add_span(make_filters, start, now, stop)

        # A call with several positions may need more than the small spans have added up.
        for span in self.spans:
            if span.reach < stop:
                filters = self.lags(make_filters, stop)
                self._contribute(filters, span.start, span.end, span.reach, stop)
                span.reach = stop
        self.settled = now

    def _take_back_spans(self, now: int, stop: int) -> int:
        """Remove the spans that are to be merged with the tail, and return where the first began."""
        start = self.settled
        # The first span reaches furthest. If even that is not far enough, begin again with all
        # inputs as one span: one large transform is cheaper than one for each span.
        if self.spans and self.spans[0].reach < stop:
            self.spans = []
            return 0
        while self.spans and self.spans[-1].reach <= now:
            start = self.spans.pop().start
        return start

    def _add_span(self, make_filters: MakeFilters, start: int, now: int, stop: int) -> None:
        """Make the inputs from `start` to `now` a span, which reaches to `stop` at least."""
        # As far as the new span is long, but not further than the span before it: when that one is
        # used up, both are merged, and sums beyond would have to be computed again.
        reach = max(stop, 2 * now - start, now + TAIL)
        reach = min(reach, self.spans[-1].reach if self.spans else self.max_length)
        filters = self.lags(make_filters, reach)
        first_span = not self.spans
        if first_span:
            self.future = self.keys.new_empty(*self.keys.shape[:3], reach - now)
            self.future_start = now
        self._contribute(filters, start, now, now, reach, new=first_span)
        self.spans.append(Span(start, now, reach))

    def _contribute(
        self,
        filters: ContinuedFilters,
        start: int,
        end: int,
        first: int,
        stop: int,
        new: bool = False,
    ) -> None:
        """Add to `future`, at `first` to `stop`, what the inputs `start` to `end` contribute there.

        With `new`, write it instead.

        Result i of the convolution of `size` inputs with the lags from gap + 1 on belongs to
        position start + gap + 1 + i, with gap = first - end. So position `first` is result size -
        1, the first one in which all inputs take part.
        """
        size = end - start
        reach = stop - first
        # The convolution has 2 * size + reach - 2 results. A circular one of length
        # size + reach - 1 is enough: what wraps around falls on the first size - 1 results, which
        # are not used.
        n = next_fast_length(size + reach - 1)
        future = self.future[..., first - self.future_start : stop - self.future_start]
        inputs = self.keys[..., start:end]
        batch, _, width, _ = inputs.shape

        rows, groups = channel_groups(batch, width, n // 2, inputs.device)
        for d in groups:
            spectrum_MDF = filters.span_spectrum(size, reach, first - end, d, n)
            for b in rows:
                product = torch.fft.rfft(inputs[b, :, d], n=n).mul_(spectrum_MDF)
                result = torch.fft.irfft(product, n=n)[..., size - 1 : size - 1 + reach]
                if new:
                    future[b, :, d] = result
                else:
                    future[b, :, d] += result

    def due(self, b: slice, d: slice, length: int) -> Tensor | None:
        """Return what the spans contribute to the next positions, (B, M, channels, length)."""
        if not self.spans or self.length == 0:
            return None
        start = self.length - self.future_start
        due = self.future[:, :, d, start : start + length]
        if self.rows is None:
            return due[b]
        return due if len(due) == 1 else due[self.rows[b]]

    def tail(self, m: int) -> Tensor:
        """Return the inputs of convolution `m` in no span yet, up to the newest: (B, D, tail)."""
        return self.keys[:, m, :, self.settled : self.length + 1]

    def columns(self) -> Tensor:
        """Return the last inputs of the short convolution, (B, T - 1, C), or all that are recorded."""
        return self.values if self.rows is None else self.values[self.rows]

    def keep(self, b: slice, m: int, d: slice, u_BDL: Tensor) -> None:
        """Keep the inputs of long convolution `m`, for these rows and channels."""
        if self.rows is None:
            self.keys[b, m, d, self.length : self.length + u_BDL.shape[-1]] = u_BDL

    def advance(self, length: int, window_BLC: Tensor) -> None:
        """Count `length` positions whose inputs have been kept.

        `window_BLC` ends with the inputs of the short convolution at these positions.
        """
        if self.rows is not None:
            return
        self.length += length
        if not self.record_past:
            # A copy: a view would keep the whole window in memory.
            window_BLC = window_BLC[:, window_BLC.shape[1] - self.taps + 1 :].clone()
        self.values = window_BLC.detach()


@contextmanager
def branches(cache: DynamicCache, rows: Tensor) -> Iterator[None]:
    """Let many continuations read one cache, which stays as it is. Nothing is copied for them.

        with branches(cache, torch.zeros(24, dtype=torch.long)):
            model(ids, past_key_values=cache)  # 24 rows, each after the one sequence in the cache

    Args:
        cache: Of sequences that have been read. Within the block a call adds nothing to it.
        rows: Integers of shape (batch,): the row of the cache that each row of an input follows.

    Raises:
        ValueError: The cache is empty.
    """
    if cache.get_seq_length() == 0:
        raise ValueError("There is nothing in the cache to branch from: read a prefix with it first.")
    layers: list[Any] = cache.layers  # ours, or those of a copy of this file from the Hub
    for layer in layers:
        layer.rows = rows
    try:
        yield
    finally:
        for layer in layers:
            layer.rows = None


def check_cache(config: HyenaDNAConfig, cache: Any) -> list[HyenaDNACacheLayer]:
    """Return the layers of a cache, one for each block.

    Raises:
        ValueError: It is no cache of this kind and size.
    """
    if isinstance(cache, DynamicCache) and not cache.layers:  # made without a configuration
        cache.layers = DynamicCache(config=config).layers
        cache.layer_class_to_replicate = None
    layers = list(getattr(cache, "layers", ()))
    # By name: a copy of this file from the Hub has a class of its own.
    kinds = [getattr(layer, "_layer_type", None) for layer in layers]
    if kinds != config.layer_types:
        raise ValueError(
            f"`past_key_values` is {type(cache).__name__} with layers of {sorted(set(map(str, kinds)))} "
            f"({len(kinds)}), but `DynamicCache(config=model.config)` with {config.n_layer} was "
            "expected. HyenaDNA has no keys and values of attention, and so no prefix tuning."
        )
    return layers
