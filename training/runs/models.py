"""Make the model of a run, from scratch or from a checkpoint, always in float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, set_seed

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, example_checkpoint
from hyenadna.errors import (
    HyenaDNAError,
    InputError,
    check_counts,
    check_index,
    damage_in,
    one_line,
    only_a_path,
)
from hyenadna.tokenization import Alphabet, HyenaDNATokenizer, find_alphabet
from hyenadna.tokenization.alphabets_hyenadna import DNA

from .settings import setting

_LARGEST_NEW_HEAD = 10_000_000  # weights

Model = TypeVar("Model", bound=PreTrainedModel)

# The values of `--model` for the checkpoint in the package, and for a model from scratch.
SHIPPED = Path(example_checkpoint()).name
SCRATCH = "none"

# Published checkpoints, LongSafari/NAME-hf: the longest input in tokens, and the number of
# parameters with tied embeddings. Some pages give larger numbers, which count the positional
# embedding and the time axis that the files store.
PUBLISHED = {
    "hyenadna-tiny-1k-seqlen": (1026, 436_096),
    "hyenadna-tiny-1k-seqlen-d256": (1026, 1_641_088),
    "hyenadna-tiny-16k-seqlen-d128": (16386, 436_096),
    "hyenadna-small-32k-seqlen": (32770, 3_277_568),
    "hyenadna-medium-160k-seqlen": (160002, 6_550_528),
    "hyenadna-medium-450k-seqlen": (450002, 6_550_528),
    "hyenadna-large-1m-seqlen": (1000002, 6_550_528),
}


@dataclass
class BackboneArguments:
    """The checkpoint to start from, and the dropout in this run."""

    model: str | None = setting(None, "Checkpoint to start from: a folder or an id on the Hub.")
    embed_dropout: float | None = setting(None, "Dropout on the embeddings (from scratch: 0.1).")
    resid_dropout: float | None = setting(None, "Dropout on each mixer and MLP output (from scratch: 0).")


@dataclass
class ScratchArguments(BackboneArguments):
    """The same, and the shape of a model from scratch. A checkpoint has its own shape."""

    SHAPE: ClassVar[tuple[str, ...]] = (
        "d_model",
        "n_layer",
        "max_seq_len",
        "initializer_range",
        "alphabet",
        "complement",
    )

    model: str | None = setting(None, "Checkpoint: a folder or an id on the Hub. Without it: from scratch.")
    d_model: int | None = setting(None, "Width, from scratch (128).")
    n_layer: int | None = setting(None, "Number of blocks, from scratch (2).")
    max_seq_len: int | None = setting(None, "Longest input in tokens, from scratch (1026).")
    initializer_range: float | None = setting(
        None, "Standard deviation of the initial weights, from scratch (0.02)."
    )
    alphabet: str | None = setting(
        None, "Letters, from scratch: dna (the default), rna, protein, smiles, or your own, such as HP."
    )
    complement: str | None = setting(
        None, "What letters of your own pair with, in their order; without it there is no second strand."
    )

    def choose_checkpoint(self) -> None:
        """Start from the checkpoint in the package, unless a model or a shape was chosen.

        `model` is None afterwards if the model is to start from scratch.
        """
        if self.alphabet == DNA.name:
            self.alphabet = None  # it is that of the checkpoint in the package, too
        if self.model is None and not given(self, self.SHAPE):
            self.model = SHIPPED
        elif self.model == SCRATCH:
            self.model = None


@dataclass
class RunResult:
    """What a recipe returns.

    Attributes:
        results: The content of `metrics.json`.
        model: The trained model; a `peft.PeftModel` if an adapter was trained.
        tokenizer: Its tokenizer.
    """

    results: dict
    model: nn.Module
    tokenizer: HyenaDNATokenizer


def published_checkpoints() -> str:
    """Return the published checkpoints and their sizes, for `--help`."""
    sizes = [
        f"{name}-hf ({tokens:,} tokens, {parameters:,} parameters)"
        for name, (tokens, parameters) in PUBLISHED.items()
    ]
    return f"Published checkpoints, --model LongSafari/NAME: {'; '.join(sizes)}."


def given(args: Any, names: tuple[str, ...]) -> dict:
    """Return those of the named settings that `args` has and that are not None."""
    settings = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in settings.items() if value is not None}


def make_model(
    cls: type[Model], args: Any, settings: dict | None = None, new: str | None = None
) -> tuple[Model, HyenaDNAConfig | None]:
    """Make the model of a run, from scratch or from `args.model`.

    Args:
        cls: The class of the model.
        args: Settings with `seed` and those of `ScratchArguments` or `BackboneArguments`.
        settings: More fields of the configuration, such as those of a head.
        new: See `load_checkpoint`.

    Returns:
        The model, and the configuration as the checkpoint has it (None for a new model).

    Raises:
        InputError: The checkpoint cannot be loaded, is of another architecture, or conflicts with
            the settings.
    """
    # Before any weight is drawn: a new model, or a new head on a checkpoint, depends on the seed.
    set_seed(args.seed)
    settings = {**(settings or {}), **given(args, ("embed_dropout", "resid_dropout"))}
    shape = given(args, ScratchArguments.SHAPE)
    if args.model is not None:
        if shape:
            raise InputError(
                f"{shape} cannot be chosen with model {args.model!r}: a checkpoint has its own; leave it out"
            )
        return load_checkpoint(cls, args.model, settings, new)

    # Transformers checks the types and ranges of a configuration, and raises its own error.
    try:
        config = HyenaDNAConfig(**shape, **settings)
    except StrictDataclassError as error:
        raise InputError(f"the model cannot be made: {error}") from error
    return cls(config), None


def checkpoint_path(name: str) -> str:
    """Return the folder in the package for `SHIPPED`, and any other name unchanged."""
    if name == SHIPPED and not Path(name).exists():
        return example_checkpoint()
    return name


def load_checkpoint(
    cls: type[Model], name: str, settings: dict, new: str | None = None
) -> tuple[Model, HyenaDNAConfig]:
    """Load a checkpoint in float32. Return the model, and the configuration as it was stored.

    Args:
        cls: The class of the model.
        name: A folder, an id on the Hub, or `SHIPPED`.
        settings: Fields of the configuration to change.
        new: The prefix of parameters that the checkpoint may lack, or have in another shape: those
            of a new head.

    Raises:
        InputError: The checkpoint cannot be loaded, is of another architecture, or lacks
            parameters.
    """
    with _loading_config(name):
        check_counts(PreTrainedConfig.get_config_dict(checkpoint_path(name))[0], name)
        config = AutoConfig.from_pretrained(checkpoint_path(name))
    # `AutoConfig` above, and not our class: it would read the config.json of any other model.
    if not isinstance(config, HyenaDNAConfig):
        raise InputError(f"model {name!r} is a {config.model_type!r} model, not 'hyenadna'")
    check_size(cls, config, name)
    # Mismatched shapes are allowed here, because a new head may have another number of labels.
    # Below, everything else that does not fit is refused.
    with loading(name, f"model {name!r} cannot be loaded"):
        check_index(checkpoint_path(name))
        model, report = cls.from_pretrained(
            checkpoint_path(name),
            **settings,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    # Transformers only warns of these, and leaves them random.
    wrong = [*report["missing_keys"], *(mismatch[0] for mismatch in report["mismatched_keys"])]
    wrong = sorted(key for key in wrong if new is None or not key.startswith(new))
    if wrong:
        raise InputError(
            f"model {name!r} does not fit its config.json: missing or of another shape are {wrong[:5]}"
        )
    check_finite(model, name)
    return model, config


def _loading_config(name: str) -> AbstractContextManager[None]:
    hint = " (Lightning checkpoints and other layouts: `hyenadna convert` first)"
    nowhere = f"model {name!r} is neither a folder with a checkpoint nor loads from the Hub"
    reason = only_a_path(checkpoint_path(name))
    if reason is not None:
        raise InputError(f"{nowhere}: {reason}")
    return loading(name, nowhere, hint)


def alphabet_of(args: Any) -> Alphabet:
    """Return the alphabet of a run: that of its checkpoint, or the one for a model from scratch.

    Raises:
        InputError: The checkpoint cannot be loaded, or the letters cannot be an alphabet.
    """
    if args.model is not None:
        return alphabet_of_checkpoint(args.model)
    letters = getattr(args, "alphabet", None) or DNA.name
    return _alphabet(letters, getattr(args, "complement", None), "")


def alphabet_of_checkpoint(name: str) -> Alphabet:
    """Return the alphabet that the config.json of a checkpoint names, without loading its weights."""
    with _loading_config(name):
        stored = PreTrainedConfig.get_config_dict(checkpoint_path(name))[0]
        if not isinstance(stored, dict):
            raise ValueError("its config.json holds no object")
    return _alphabet(stored.get("alphabet", DNA.name), stored.get("complement"), f"model {name!r}: ")


def _alphabet(letters: Any, complement: Any, where: str) -> Alphabet:
    try:
        return find_alphabet(letters, complement)
    except ValueError as error:
        raise InputError(f"{where}{error}") from error


def check_alphabet(data: Alphabet, model: HyenaDNAConfig) -> None:
    """Raise `InputError` if sequences have other letters than the model."""
    if data.spec != model.alphabet:
        raise InputError(
            f"the sequences have the alphabet {data.spec!r}, but the model has {model.alphabet!r}; use one "
            f"of {data.spec!r}"
        )


def check_size(cls: type[Model], config: HyenaDNAConfig, name: str) -> None:
    """Raise `InputError` if config.json asks for far more weights than the files can hold.

    Memory would be taken for them before anybody compares the shapes: a digit too many in `d_inner`
    is enough to fill that of a machine.
    """
    files = list(Path(checkpoint_path(name)).glob("*.safetensors"))
    if not files:
        return  # on the Hub
    with loading(name, f"model {name!r} cannot be made"), torch.device("meta"):
        weights = sum(parameter.numel() for parameter in cls(config).parameters())
    size = sum(file.stat().st_size for file in files)
    # A weight has a byte at least. A new head may come on top.
    if weights > size + _LARGEST_NEW_HEAD:
        raise InputError(
            f"model {name!r} does not fit its config.json, which asks for {weights:,} weights: its files "
            f"have {size:,} bytes"
        )


def check_finite(model: nn.Module, name: str) -> None:
    """Raise `InputError` if a loaded weight is NaN or infinite. Every result would be NaN."""
    broken = [key for key, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]
    if broken:
        raise InputError(
            f"model {name!r} holds NaN or infinity in {broken[:5]}: its training diverged, or a file is "
            "damaged"
        )


@contextmanager
def loading(name: str | Path, what: str, hint: str = "") -> Iterator[None]:
    """Turn any error of loading a checkpoint, tokenizer or adapter into one `InputError`.

    Damaged files raise a dozen types, from `SafetensorError` to a bare `Exception` of the
    tokenizers' Rust code, and few of them name the file. So the files of a local folder are looked
    at one by one, and the damaged one is named.
    """
    try:
        yield
    except HyenaDNAError:
        raise
    except Exception as error:
        text = damage_in(name) or f"{one_line(error)}{hint}"
        raise InputError(f"{what}: {text}") from error


def load_tokenizer(name: str, **settings: Any) -> HyenaDNATokenizer:
    """Load the tokenizer of a checkpoint. Without tokenizer files, config.json names its alphabet.

    Raises:
        InputError: Its files are damaged, or have another alphabet than config.json.
    """
    path = checkpoint_path(name)
    alphabet = alphabet_of_checkpoint(name)
    has_files = any(Path(path, file).exists() for file in ("tokenizer.json", "tokenizer_config.json"))
    with loading(name, f"the tokenizer of model {name!r} cannot be loaded"):
        try:
            tokenizer = HyenaDNATokenizer.from_pretrained(path, **settings)
        except OSError:
            # Raised for missing files and for damaged ones. Only missing ones are fine.
            if has_files:
                raise
            return new_tokenizer(alphabet, **settings)
        if tokenizer.alphabet != alphabet.spec:
            raise InputError(
                f"model {name!r}: its tokenizer has the alphabet {tokenizer.alphabet!r}, but its config.json "
                f"{alphabet.spec!r}; write the right one into config.json"
            )
        return tokenizer


def new_tokenizer(alphabet: Alphabet, **settings: Any) -> HyenaDNATokenizer:
    """Make a tokenizer of an alphabet."""
    return HyenaDNATokenizer(alphabet=alphabet.spec, complement=alphabet.complement_spec, **settings)


def load_language_model(name: str, device: str | None = None) -> HyenaDNAForCausalLM:
    """Load a checkpoint as a language model for evaluation.

    Args:
        name: A folder, or an id on the Hub.
        device: By default the GPU if there is one, else the CPU.

    Raises:
        InputError: See `load_checkpoint`; or there is no such device.
    """
    model, _ = load_checkpoint(HyenaDNAForCausalLM, name, {})
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError) as error:  # no such device, or PyTorch is built without it
        raise InputError(f"device {device!r} cannot be used: {error}") from error
