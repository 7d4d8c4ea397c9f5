"""The model of a call: an object, a folder or an id on the Hub; afterwards it is as it was.

    with borrowed(model, LANGUAGE, "score") as lm:      # on its device, in evaluation mode
        lm(ids)

Everything public in this room takes `model` in these three forms, and an adapter folder in place of
a model's.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
)
from hyenadna.errors import InputError, reading
from hyenadna.genomics.letters import DNA, FIRST_BASE, Alphabet
from hyenadna.tokenization import HyenaDNATokenizer, find_alphabet
from hyenadna.training.runs.folder import METRICS_FILE
from hyenadna.training.runs.models import (
    alphabet_of_checkpoint,
    checkpoint_path,
    load_checkpoint,
    load_tokenizer,
    loading,
)
from hyenadna.training.runs.strands import BOTH

__all__ = [
    "ANY",
    "BACKBONE",
    "CLASSIFIER",
    "LANGUAGE",
    "SCALES",
    "TOKENS",
    "ModelOrName",
    "Outputs",
    "SpecialIds",
    "alphabet_of_model",
    "borrowed",
    "check_dna",
    "class_of",
    "described",
    "device_of",
    "head_of",
    "special_ids",
    "tested_strand",
]

ModelOrName: TypeAlias = PreTrainedModel | str | Path

# The scales of what a classifier gives.
SCALES = ("probability", "logit")

# What a model says: its head.
BACKBONE = "backbone"
LANGUAGE = "language model"
CLASSIFIER = "classifier"
TOKENS = "token classifier"
ANY = (LANGUAGE, CLASSIFIER, TOKENS)

_CLASSES = {
    LANGUAGE: HyenaDNAForCausalLM,
    CLASSIFIER: HyenaDNAForSequenceClassification,
    TOKENS: HyenaDNAForTokenClassification,
    BACKBONE: HyenaDNAModel,
}
_ADVICE = {
    LANGUAGE: "log-likelihoods come from `score`, effects from `variant_effects`",
    CLASSIFIER: "classes and numbers come from `predict`, effects from `mutagenesis`",
    TOKENS: "classes of positions come from `predict`, effects from `mutagenesis`",
    BACKBONE: "a backbone has no head, and gives vectors alone: `embed`",
}


# ------------------------------------------------------------------------------ heads


def head_of(model: nn.Module) -> str:
    """Return what kind of head a model has: `LANGUAGE`, `CLASSIFIER`, `TOKENS` or `BACKBONE`.

    Raises:
        InputError: It is no HyenaDNA model.

    >>> head_of(HyenaDNAModel(HyenaDNAConfig(d_model=8, n_layer=1)))
    'backbone'
    """
    # By the class's name too: a model loaded as remote code has classes of its own.
    names = {cls.__name__ for cls in type(model).__mro__}
    for head, cls in _CLASSES.items():
        if cls.__name__ in names:
            return head
    raise InputError(
        f"model is a {type(model).__name__}; expected a HyenaDNA model, a folder of one, or its id on the Hub"
    )


def class_of(name: str) -> str:
    """Return the head of a checkpoint, as its config.json names it; `LANGUAGE` where it does not.

    Raises:
        InputError: There is no such checkpoint, or it is another architecture.
    """
    with loading(name, f"model {name!r} is neither a folder with a checkpoint nor loads from the Hub"):
        config = AutoConfig.from_pretrained(checkpoint_path(name))
    if not isinstance(config, HyenaDNAConfig):
        raise InputError(f"model {name!r} is a {config.model_type!r} model, not 'hyenadna'")
    for head, cls in _CLASSES.items():
        if cls.__name__ in (config.architectures or []):
            return head
    return LANGUAGE


def _check_head(head: str, wanted: tuple[str, ...], what: str, name: str) -> None:
    if head in wanted:
        return
    needed = " or ".join(f"a {kind}" for kind in wanted)
    raise InputError(f"{what} needs {needed}, but {name} is a {head}: {_ADVICE[head]}")


def alphabet_of_model(model: ModelOrName) -> Alphabet:
    """Return the alphabet that the configuration of a model, or of a checkpoint, names.

    >>> alphabet_of_model(HyenaDNAModel(HyenaDNAConfig(d_model=8, n_layer=1))).name
    'dna'
    """
    if isinstance(model, str | Path):
        return alphabet_of_checkpoint(str(model))
    # What is no model of ours is refused by `borrowed`; remote code may be older than alphabets.
    config = getattr(model, "config", None)
    return find_alphabet(getattr(config, "alphabet", DNA.name), getattr(config, "complement", None))


def check_dna(model: ModelOrName, what: str) -> None:
    """Raise `InputError` for a model of another alphabet than DNA."""
    alphabet = alphabet_of_model(model)
    if alphabet != DNA:
        raise InputError(
            f"{what} is for DNA, with its two strands and four bases, but the alphabet of the model is "
            f"{alphabet.spec!r}"
        )


# ------------------------------------------------------------------------------ borrowing


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter, where its inputs go."""
    return next(model.parameters()).device


@contextmanager
def borrowed(
    model: ModelOrName, heads: str | tuple[str, ...], what: str, device: str | torch.device | None = None
) -> Iterator[PreTrainedModel]:
    """Yield the model for a call: in evaluation mode, on its device, its weights without gradients.

    Afterwards every module is in its mode again, every weight asks for gradients as before, and the
    model is back on its device.

    Args:
        model: A model, a folder, or an id on the Hub; a folder may hold an adapter (LoRA).
        heads: The heads that will do. A folder is loaded as its config.json says; as a backbone if
            `BACKBONE` is among them.
        what: Who asks, for messages.
        device: Where to compute. By default an object stays where it is, and a loaded model goes to
            the GPU if there is one.

    Raises:
        InputError: The model cannot be loaded, has another head, or there is no such device.
    """
    wanted = (heads,) if isinstance(heads, str) else heads
    if isinstance(model, str | Path):
        yield _to_device(_loaded(str(model), wanted, what), device or _best_device())
        return

    inner = _without_adapter(model, what)
    if BACKBONE not in wanted:
        _check_head(head_of(inner), wanted, what, "the model")
    else:
        head_of(inner)
    with ExitStack() as at_end:
        at_end.enter_context(_as_it_was(inner))
        inner.eval()
        inner.requires_grad_(False)
        if device is not None:
            before = device_of(inner)
            at_end.callback(inner.to, before)
            _to_device(inner, device)
        yield inner


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    # Every module's mode: a frozen one may be in evaluation mode while others train.
    modes = [(module, module.training) for module in model.modules()]
    wants = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _to_device(model: PreTrainedModel, device: str | torch.device) -> PreTrainedModel:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # no such device, or PyTorch is built without it
        raise InputError(f"device {str(device)!r} cannot be used: {error}") from error


def _loaded(name: str, wanted: tuple[str, ...], what: str) -> PreTrainedModel:
    if Path(name, "adapter_config.json").is_file():
        from hyenadna.training.runs.adapters import load_adapted

        adapted = _without_adapter(load_adapted(name), what)
        if BACKBONE not in wanted:
            _check_head(head_of(adapted), wanted, what, f"{name!r}")
        return adapted.eval().requires_grad_(False)

    head = BACKBONE
    if BACKBONE not in wanted:
        head = class_of(name)
        _check_head(head, wanted, what, f"{name!r}")
    loaded, _ = load_checkpoint(_CLASSES[head], name, {})
    return loaded.eval().requires_grad_(False)


def _without_adapter(model: Any, what: str) -> Any:
    """Return the HyenaDNA model inside a `PeftModel`. LoRA acts within its layers, so it stays."""
    adapters = getattr(model, "peft_config", None)
    if not hasattr(model, "get_base_model") or adapters is None:
        return model
    if any(adapter.is_prompt_learning for adapter in adapters.values()):
        raise InputError(
            f"{what} cannot read a model with a soft prompt: its learned tokens are no bases. Use LoRA "
            "(`hyenadna finetune --lora_rank`) or full fine-tuning"
        )
    return model.get_base_model()


# ------------------------------------------------------------------------------ inputs


class SpecialIds(NamedTuple):
    """The ids that a tokenizer puts before and after the letters of a sequence."""

    before: list[int]
    after: list[int]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.before) + len(self.after)


def special_ids(model: ModelOrName, tokenizer: HyenaDNATokenizer | None = None) -> SpecialIds:
    """Return the special tokens around a sequence that a classifier reads.

    Args:
        model: A folder or Hub id has its own tokenizer. With an object, and without `tokenizer`,
            the letters stand alone, as `hyenadna finetune` trains by default.
        tokenizer: The tokenizer that the model was trained with.

    >>> special_ids(HyenaDNAModel(HyenaDNAConfig(d_model=8, n_layer=1)), HyenaDNATokenizer())
    SpecialIds(before=[], after=[1])
    """
    if tokenizer is None:
        if not isinstance(model, str | Path):
            return SpecialIds([], [])
        tokenizer = load_tokenizer(str(model))
    # The first letter of every alphabet has the same id.
    ids = list(tokenizer(tokenizer.convert_ids_to_tokens(FIRST_BASE))["input_ids"])
    at = ids.index(FIRST_BASE)
    return SpecialIds(ids[:at], ids[at + 1 :])


def tested_strand(model: ModelOrName) -> str:
    """Return the strands that `hyenadna finetune` tested a folder with: `"both"` or `"forward"`.

    Its `metrics.json` says so. An object, or a folder of other origin, reads forward.
    """
    path = Path(str(model), METRICS_FILE)
    if not isinstance(model, str | Path) or not path.is_file():
        return "forward"
    with reading(f"{path} cannot be read"):
        strands = json.loads(path.read_text()).get("strands", {})
    return "both" if strands.get("used") == BOTH else "forward"


# ------------------------------------------------------------------------------ outputs


class Outputs:
    """The names and the scale of what a classifier or regression gives.

    Args:
        config: The model's configuration.

    Attributes:
        names: A name for each output, from `id2label`.
        problem_type: As in the configuration; if it says nothing, one output is a regression and
            several are classes.
    """

    def __init__(self, config: HyenaDNAConfig):
        count = config.class_count
        self.names = [str(config.id2label[i]) for i in range(count)]
        self.problem_type: str = config.problem_type or (
            "regression" if count == 1 else "single_label_classification"
        )

    @property
    def is_regression(self) -> bool:
        """Whether the outputs are numbers, not classes."""
        return self.problem_type == "regression"

    def number_of(self, target: str | int) -> int:
        """Return the number of an output, given by its name or number.

        Raises:
            InputError: There is no such output.
        """
        if isinstance(target, str):
            if target in self.names:
                return self.names.index(target)
            if not target.isdecimal():
                raise InputError(f"the model has no class {target!r}; it has {self.names}")
            target = int(target)
        if not 0 <= target < len(self.names):
            raise InputError(f"the model has no class {target}; it has {len(self.names)}: {self.names}")
        return target

    def scaled(self, logits: torch.Tensor, output: str) -> torch.Tensor:
        """Return logits `(..., outputs)` as they are, or as probabilities; numbers stay numbers.

        Args:
            logits: Of any shape whose last axis is the outputs.
            output: `"logit"` or `"probability"`.

        Raises:
            InputError: `output` is neither.
        """
        if output not in SCALES:
            raise InputError(f"output is {output!r}; it must be one of {', '.join(SCALES)}")
        if output == "logit" or self.is_regression:
            return logits
        if self.problem_type == "multi_label_classification":
            return logits.sigmoid()
        return logits.softmax(-1)


def described(model: ModelOrName) -> str:
    """Return a short name of a model for the title of a picture."""
    if isinstance(model, str | Path):
        return Path(model).name
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Path(name).name
