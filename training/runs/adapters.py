"""Adapters of a frozen HyenaDNA through `peft`: soft prompts and LoRA.

    from hyenadna.training.adapters import load_adapted
    model = load_adapted("folder")     # from hyenadna soft-prompt, or hyenadna finetune --lora_rank
    merged = model.merge_and_unload()  # LoRA only: a plain model without peft

All of this room's use of `peft` is in this file.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model
from torch import nn

from hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAPreTrainedModel,
)
from hyenadna.errors import InputError
from hyenadna.genomics.letters import encode
from hyenadna.tokenization import Alphabet, find_alphabet

from .models import check_finite, load_checkpoint, loading

_TASKS = {
    HyenaDNAForSequenceClassification: TaskType.SEQ_CLS,
    HyenaDNAForCausalLM: TaskType.CAUSAL_LM,
}
# What base and adapter must agree in. `max_seq_len` is the unit of the filters' time axis.
_SHAPE = ("d_model", "n_layer", "d_inner", "hyena_order", "max_seq_len")


def add_lora(model: HyenaDNAPreTrainedModel, rank: int) -> PeftModel:
    """Add LoRA matrices to each block's projections and MLP. They and the head are trained."""
    return get_peft_model(model, LoraConfig(task_type=_TASKS[type(model)], r=rank, lora_alpha=2 * rank))


def add_prompt(
    model: HyenaDNAPreTrainedModel, length: int, init_text: str | None = None, dropout: float = 0.0
) -> PeftModel:
    """Put `length` learned tokens before every sequence. They and the head are trained.

    Args:
        model: A classifier or a language model. Its weights are frozen, and it is changed in place.
        length: The number of learned tokens.
        init_text: Bases whose embeddings the tokens start from, repeated or cut to `length`.
            Without it they start from N(0, 0.02), as the embeddings of a model do (arXiv
            2306.15794).
        dropout: The probability that an element of a learned token is dropped in training.

    Raises:
        InputError: `length` or `init_text` cannot be used.
    """
    if not 1 <= length < model.config.max_seq_len:
        raise InputError(
            f"a prompt of {length} tokens: there must be at least 1, and the model takes max_seq_len="
            f"{model.config.max_seq_len} tokens with the sequence"
        )
    ids = None
    if init_text is not None:
        ids = _letters(init_text, find_alphabet(model.config.alphabet, model.config.complement))
    # peft starts the tokens from N(0, 1), fifty times as wide as the embeddings: they would drown
    # the sequence. So set them here.
    adapted = get_peft_model(
        model, PromptTuningConfig(task_type=_TASKS[type(model)], num_virtual_tokens=length)
    )
    tokens = adapted.prompt_encoder[adapted.active_adapter].embedding.weight
    with torch.no_grad():
        if ids is None:
            nn.init.normal_(tokens, std=0.02)
        else:
            ids = torch.tensor(ids).repeat(-(-length // len(ids)))[:length]
            tokens.copy_(model.get_input_embeddings()(ids.to(tokens.device)))

    def drop(module, args, kwargs):
        # A hook, because peft repeats one prompt for the whole batch: dropout on the prompt itself
        # would be the same in every row. Without `inputs_embeds`, the base was called without it.
        if module.training and dropout and "inputs_embeds" in kwargs:
            embeddings = kwargs["inputs_embeds"]
            prompt = F.dropout(embeddings[:, :length], dropout)
            kwargs["inputs_embeds"] = torch.cat([prompt, embeddings[:, length:]], dim=1)
        return args, kwargs

    model.register_forward_pre_hook(drop, with_kwargs=True)
    return adapted


def _letters(text: str, alphabet: Alphabet) -> list[int]:
    """Return the ids of a text that holds the letters of the alphabet and no others."""
    known = f"{alphabet.unit}s: {', '.join(alphabet.letters)}"
    if alphabet.ignores_case:
        text = text.upper()
    if not text:
        raise InputError(f"init_text '' is empty; write {known}")
    wrong = sorted(set(alphabet.tokens(alphabet.pack(text))) - set(alphabet.letters))
    if wrong:
        raise InputError(f"init_text {text!r} holds {wrong}; write {known}")
    return encode(text, alphabet).tolist()


def load_adapted(folder: str | Path, base: str | Path | None = None) -> PeftModel:
    """Load an adapter of `hyenadna soft-prompt` or `finetune --lora_rank`, for evaluation.

    Args:
        folder: The folder with `adapter_config.json`, `adapter_model.safetensors` and the
            `config.json` of the adapted model.
        base: The checkpoint under the adapter, if it has moved.

    Raises:
        InputError: The folder holds no adapter, its base does not load, or the base has another
            shape.

    >>> model = load_adapted("promoters-prompt")                            # doctest: +SKIP
    """
    folder = Path(folder)
    for file in ("adapter_config.json", "config.json"):
        if not (folder / file).exists():
            raise InputError(
                f"{str(folder)!r} holds no {file}. This loads what `hyenadna soft-prompt` and `hyenadna "
                "finetune --lora_rank` save; load other adapters with peft"
            )
    with loading(folder, f"the adapter in {str(folder)!r} cannot be loaded"):
        adapter = PeftConfig.from_pretrained(folder)
        config = HyenaDNAConfig.from_pretrained(folder)
    cls = next((cls for cls, task in _TASKS.items() if task == adapter.task_type), None)
    if cls is None:
        raise InputError(
            f"the adapter in {str(folder)!r} is for {adapter.task_type}; known are {list(_TASKS.values())}"
        )
    # The base knows nothing of the head: its labels and pooling are stored with the adapter.
    settings = {}
    if cls is HyenaDNAForSequenceClassification:
        settings = {
            name: getattr(config, name) for name in ("id2label", "label2id", "problem_type", "pooling")
        }
    # The head comes with the adapter, so its parameters may be missing in the base.
    base = str(base or adapter.base_model_name_or_path)
    try:
        model, _ = load_checkpoint(cls, base, settings, new="score.")
    except InputError as error:
        raise InputError(
            f"the adapter in {str(folder)!r} needs the model under it; name it as base: {error}"
        ) from error
    # peft silently skips the matrices of layers that do not exist.
    wrong = [name for name in _SHAPE if getattr(model.config, name) != getattr(config, name)]
    if wrong:
        raise InputError(
            f"the adapter in {str(folder)!r} is for a model with {_values(config, wrong)}, but {base!r} has "
            f"{_values(model.config, wrong)}; name the right one as base"
        )
    with loading(folder, f"the adapter in {str(folder)!r} cannot be loaded"):
        adapted = PeftModel.from_pretrained(model, folder).eval()
    check_finite(adapted, str(folder))
    return adapted


def _values(config: HyenaDNAConfig, names: list[str]) -> str:
    return ", ".join(f"{name}={getattr(config, name)}" for name in names)
