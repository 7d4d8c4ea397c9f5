"""Configuration of HyenaDNA: every size and constant of the model, with its unit and its published
default.

No `from __future__ import annotations` here: `strict` reads the fields' types, and silently skips
strings.
"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .peft_hyenadna import register_with_peft

Pooling = Literal["mean", "last", "first", "max"]

# Alphabet -> its tokens: the seven special ones and its letters. The tokenizer knows which they are.
_TOKENS = {"dna": 12, "rna": 12, "protein": 32, "smiles": 112}
_SPECIAL_TOKENS = 7


@strict
class HyenaDNAConfig(PreTrainedConfig):
    """Sizes and constants of a HyenaDNA model (arXiv 2306.15794; the operator: arXiv 2302.10866).

    Field names are those of the published checkpoints, so their `config.json` loads as it is, and
    ours loads in the published code. The names of Transformers (`hidden_size`, `num_hidden_layers`,
    `intermediate_size`, `max_position_embeddings`) work too. The defaults are those of
    `hyenadna-tiny-1k-seqlen`.

    Args:
        vocab_size: Rows of the embedding and width of the logits. It is rounded up to a multiple of
            `pad_vocab_size_multiple`, as published (12 -> 16), after which that multiple is 1. Left
            out, it follows from the alphabet.
        alphabet: What the tokens are: `"dna"`, `"rna"`, `"protein"`, `"smiles"`, or other letters
            (a text, or a list of tokens), as in `HyenaDNATokenizer`. `"dna"` is not saved, so that
            files of DNA stay as published.
        complement: The letters that one's own letters pair with, as in `HyenaDNATokenizer`.
        d_model: Width of the residual stream.
        n_layer: Number of blocks.
        d_inner: Width of the MLP inside a block; `4 * d_model` when `None`.
        max_seq_len: Longest input, in tokens. It is also the unit of the filters' time axis (`t =
            1` at its end), so changing it changes every filter of a trained model.
        emb_dim: Features of the filters' positional embedding: 1 for the time, the rest in cosine
            and sine pairs. Odd.
        filter_order: Width of the filters' MLP.
        num_inner_mlps: Hidden layers of the filters' MLP after the first.
        hyena_order: Order N of the Hyena recurrence: N - 1 long convolutions and N gates in each
            block.
        short_filter_order: Taps of the short causal convolution.
        activation_freq: Initial frequency of the filters' sine activation.
        train_freq: Whether that frequency is learned.
        modulation_shift: Floor under the exponential decay of the filters: 0.05 in the released
            inference code.
        train_positional_embedding: Whether the positional embedding `z` of each filter is a
            parameter, and stored. The first published port trained it; loading such a checkpoint
            switches this on.
        complex_positional_embedding: Whether `z` is computed by a complex exponential, as in the
            training repository, or by a cosine and a sine, as in the published `-hf` code. The two
            differ by one rounding (6e-8), which the filters amplify to as much as 3e-4 in the
            logits. Loading or converting a checkpoint sets it.
        embed_dropout: Dropout on the embeddings, before the first block.
        resid_dropout: Dropout on the output of each mixer and each MLP, before it is added to the
            residual stream.
        hyena_dropout: Dropout on the gated input of each long convolution.
        hyena_filter_dropout: Accepted because published files hold it; the published code never
            used it.
        use_bias: Accepted likewise, and unused.
        layer_norm_epsilon: Epsilon of every layer norm.
        initializer_range: Standard deviation of the initial weights.
        pad_vocab_size_multiple: See `vocab_size`.
        pooling: How the sequence classifier pools over the unmasked positions: `"mean"` (the
            paper), `"last"`, `"first"` or `"max"`. When `None`: `"last"` for a published classifier
            (its file has no such field and its head reads the last position), `"mean"` otherwise.
        classifier_dropout: Dropout before the head of the sequence and token classifiers.
        classifier_bias: Whether that head has a bias; published ones have none.
        num_attention_heads: Always 1. There is no attention; `peft` sizes its prompts by this
            field.
        use_cache: As in Transformers, whose Trainer sets it to false in what it saves. Here it
            decides nothing: `generate` uses a cache unless its own `use_cache` says no, and a
            single call only if it is asked to.
        check_inputs: Whether ids, labels, masks and positions are checked by their values. Each check
            makes the host wait for the device. Without them a wrong id ends the process on a GPU, a
            row without tokens gives numbers without a meaning, and batches with pads take the
            slower way that is right for pads anywhere. It belongs to a run, not to a model, so it
            is not saved.
        tie_word_embeddings: Whether the language-model head shares the embedding matrix.
        pad_token_id: `[PAD]`.
        bos_token_id: `[BOS]`.
        eos_token_id: `[SEP]`, which ends every sequence.

    Raises:
        huggingface_hub.errors.StrictDataclassError: A field has the wrong type or an impossible
            value.

    Example:

    ```python
    >>> from hyenadna import HyenaDNAConfig, HyenaDNAModel
    >>> model = HyenaDNAModel(HyenaDNAConfig(d_model=256, n_layer=8, max_seq_len=160_002))
    ```
    """

    model_type = "hyenadna"
    # for folders without tokenizer files; no field, so it is not saved
    tokenizer_class = "HyenaDNATokenizer"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # a list: Trainer adds another to it
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "intermediate_size": "d_inner",
        "max_position_embeddings": "max_seq_len",
    }

    vocab_size: int = 12
    alphabet: str | list[str] = "dna"
    complement: str | list[str] | None = None
    d_model: int = 128
    n_layer: int = 2
    d_inner: int | None = None
    max_seq_len: int = 1026
    emb_dim: int = 5
    filter_order: int = 64
    num_inner_mlps: int = 2
    hyena_order: int = 2
    short_filter_order: int = 3
    activation_freq: int | float = 10
    train_freq: bool = True
    modulation_shift: int | float = 0.05
    train_positional_embedding: bool = False
    complex_positional_embedding: bool = False
    embed_dropout: int | float = 0.1
    resid_dropout: int | float = 0.0
    hyena_dropout: int | float = 0.0
    hyena_filter_dropout: int | float = 0.0
    use_bias: bool = True
    layer_norm_epsilon: int | float = 1e-5
    initializer_range: int | float = 0.02
    pad_vocab_size_multiple: int = 8
    pooling: Pooling | None = None
    classifier_dropout: int | float = 0.0
    classifier_bias: bool = False
    num_attention_heads: int = 1
    use_cache: bool = True
    check_inputs: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 4
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    def __post_init__(self, **kwargs):
        if isinstance(kwargs.get("layer"), dict):
            raise ValueError(
                "This is the config.json of a PyTorch Lightning checkpoint (it holds a `layer`), which "
                "Transformers cannot load. Convert it once, which runs no pickle: `hyenadna convert "
                "SOURCE DEST`, where SOURCE is this folder or repository; then load DEST. Most "
                "checkpoints are published under NAME-hf too."
            )
        # Aliases arrive here after the fields were set; set them first, or d_inner would follow the
        # default d_model.
        for alias, field in self.attribute_map.items():
            if alias in kwargs:
                setattr(self, field, kwargs.pop(alias))
        # A published config names remote code that we replace. Saving the name without that code
        # would break the folder for others. The copy of this file that travels to the Hub has to
        # keep it.
        if not type(self).__module__.startswith("transformers_modules"):
            kwargs.pop("auto_map", None)
        self.d_inner = self.mlp_width
        letters = self._alphabet_tokens()
        if self.alphabet != "dna" and self.vocab_size == 12:
            self.vocab_size = letters  # it was left out
        # Sixteen rows are the twelve published tokens, padded, unless somebody says otherwise; and
        # so for other alphabets.
        padded_before = self.vocab_size == letters + -letters % 8 and self.pad_vocab_size_multiple == 1
        self.set_token_count(letters if padded_before else self.vocab_size)
        if self.pad_vocab_size_multiple > 1:
            # Write 1 afterwards: with 8, a vocabulary resized to 17 would come back as 24.
            self.vocab_size += -self.vocab_size % self.pad_vocab_size_multiple
            self.pad_vocab_size_multiple = 1
        self.pooling = self.pooling_method
        super().__post_init__(**kwargs)
        if not hasattr(self, "auto_map"):
            # `trl` reads it from every configuration whose architecture Transformers does not have
            self.auto_map = {}

    def to_dict(self) -> dict:
        """As in Transformers. `peft` asks for it, after its own import, before it looks us up."""
        register_with_peft()
        values = super().to_dict()
        values.pop("_token_count", None)
        # Files of DNA stay as published.
        if values.get("alphabet") == "dna":
            del values["alphabet"]
        if values.get("complement") is None:
            values.pop("complement", None)
        values.pop("check_inputs", None)
        if not values.get("auto_map"):
            values.pop("auto_map", None)
        return values

    @property
    def mlp_width(self) -> int:
        """`d_inner`, or its default where that is `None`."""
        return 4 * self.d_model if self.d_inner is None else self.d_inner

    @property
    def pooling_method(self) -> Pooling:
        """`pooling`, or its default where that is `None`."""
        if self.pooling is not None:
            return self.pooling
        published = any(name.endswith("ForSequenceClassification") for name in self.architectures or ())
        return "last" if published else "mean"

    @property
    def class_count(self) -> int:
        """`num_labels` of a classifier, which has to have labels."""
        if self.num_labels is None:
            raise ValueError("`id2label` is `None`, but a classifier needs `num_labels` or `id2label`.")
        return self.num_labels

    @property
    def token_count(self) -> int:
        """Number of tokens in the vocabulary. Later rows of the embedding are padding.

        `generate` never emits those.

        It is not saved, but `suppress_tokens` in generation_config.json is, which follows from it.
        """
        return min(self._token_count, self.vocab_size)

    @property
    def has_special_tokens_first(self) -> bool:
        """Whether ids 0 to 6 are the published special tokens, and letters follow them."""
        return self.alphabet != "dna" or 12 <= self.token_count < 16

    def _alphabet_tokens(self) -> int:
        """Return how many tokens the alphabet has."""
        if isinstance(self.alphabet, str) and self.alphabet in _TOKENS:
            return _TOKENS[self.alphabet]
        return _SPECIAL_TOKENS + len(self.alphabet)

    def set_token_count(self, count: int) -> None:
        """See `token_count`."""
        self._token_count = count

    @property
    def layer_types(self) -> list[str]:
        """Kind of each layer of the cache: `DynamicCache(config=...)` makes them from it."""
        return ["hyena"] * self.n_layer

    def validate_layer_type(self) -> None:
        """Check nothing: the library knows only kinds of attention, and there is none."""

    def validate_sizes(self) -> None:
        """Raise if a size is impossible. Runs after `__init__` and before saving."""
        for name in (
            "vocab_size",
            "d_model",
            "n_layer",
            "d_inner",
            "max_seq_len",
            "filter_order",
            "short_filter_order",
            "pad_vocab_size_multiple",
        ):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"`{name}` is {value}, but it has to be at least 1.")
        # The embedding of DNA may have any number of rows, as it always could.
        needed = self._alphabet_tokens()
        if self.alphabet != "dna" and self.vocab_size < needed:
            raise ValueError(
                f"`vocab_size` is {self.vocab_size}, but the alphabet {self.alphabet!r} has {needed} tokens, "
                "special ones included. Leave `vocab_size` out."
            )
        if self.num_inner_mlps < 0:
            raise ValueError(f"`num_inner_mlps` is {self.num_inner_mlps}, but it has to be at least 0.")
        if self.hyena_order < 2:
            raise ValueError(
                f"`hyena_order` is {self.hyena_order}, but it has to be at least 2: an operator of "
                "order N has N - 1 long convolutions."
            )
        if self.emb_dim < 3 or self.emb_dim % 2 == 0:
            raise ValueError(
                f"`emb_dim` is {self.emb_dim}, but it has to be an odd number of at least 3: one "
                "feature for the time and pairs of a cosine and a sine."
            )
        if self.num_attention_heads != 1:
            raise ValueError(
                f"`num_attention_heads` is {self.num_attention_heads}, but it has to be 1: HyenaDNA has "
                "no attention, and the field only tells peft how to size its prompts."
            )

    def validate_constants(self) -> None:
        """Raise if a probability or a constant is impossible; runs like `validate_sizes`."""
        for name in (
            "embed_dropout",
            "resid_dropout",
            "hyena_dropout",
            "hyena_filter_dropout",
            "classifier_dropout",
        ):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"`{name}` is {value}, but a dropout probability has to be in [0, 1).")
        for name in ("activation_freq", "layer_norm_epsilon", "initializer_range"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"`{name}` is {value}, but it has to be a positive number.")
        if not 0 <= self.modulation_shift < float("inf"):
            raise ValueError(
                f"`modulation_shift` is {self.modulation_shift}, but it has to be 0 or a positive number."
            )
