"""Adapt a frozen HyenaDNA by a few learned tokens: `hyenadna soft-prompt`.

    hyenadna soft-prompt --data promoters.csv --model pretrained --num_virtual_tokens 32
    hyenadna soft-prompt --data promoters.csv --model pretrained --form next_token  # label = next base
    hyenadna soft-prompt prompt.yaml --seed 1

The weights of the checkpoint do not change. T learned tokens are put before each sequence. There
are two forms:

- `classifier`: a head on the pooled outputs is learned too. It takes any problem that `hyenadna
  finetune` takes.
- `next_token`: nothing else is learned. The model reads `{T tokens, sequence, [SEP]}`, and the next
  token is the label, one letter for each class: A and N for two, A, G and N for three (arXiv
  2306.15794). The loss is on that token only.

`--data` and the output folder are those of `hyenadna finetune`, except that the folder holds the
adapter (tokens and head) instead of the model. `hyenadna.training.adapters.load_adapted` loads it.
"""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training.runs.adapters import add_prompt
from hyenadna.training.runs.language import NextTokenCollator, letters_of_labels
from hyenadna.training.runs.metrics import make_compute_metrics
from hyenadna.training.runs.models import (
    BackboneArguments,
    RunResult,
    alphabet_of,
    make_model,
    new_tokenizer,
)
from hyenadna.training.runs.settings import (
    SHOWN_OF_TRAINING,
    names_of,
    parse_settings,
    refuse_unused,
    say_next,
    setting,
)
from hyenadna.training.runs.supervised import (
    HeadArguments,
    RowsArguments,
    SequenceCollator,
    SupervisedArguments,
    check_rows_fit,
    make_classifier,
    train_and_test,
)

FORMS = ("classifier", "next_token")


@dataclass
class SoftPromptArguments(RowsArguments, HeadArguments, BackboneArguments, SupervisedArguments):
    """Settings of `hyenadna soft-prompt`, beside those of `transformers.TrainingArguments`."""

    SHOWN: ClassVar = {
        "your data": ("data", "validation_data", "test_data", "sequence_column", "label_column"),
        "the model": ("model", "form", "num_virtual_tokens", "init_text"),
        "training": (*SHOWN_OF_TRAINING, "patience"),
        "the run": ("output_dir", "resume"),
    }
    EXAMPLE: ClassVar = "hyenadna soft-prompt --model pretrained --data sites.csv"
    NEXT: ClassVar = {
        "hyenadna export {output_dir} {output_dir}-hub": "a folder to publish, with a card",
    }

    form: str = setting(
        "classifier", "classifier (prompt and head) or next_token (prompt alone; the paper's)."
    )
    num_virtual_tokens: int = setting(32, "Learned tokens that precede each sequence.")
    init_text: str | None = setting(
        None, "Bases from whose embeddings the tokens start; without it N(0, 0.02)."
    )
    prompt_dropout: float = setting(0.1, "Dropout on the learned tokens.")
    label_letters: str | None = setting(
        None, "next_token: a letter of ACGTN for each class, in their sorted order."
    )
    # Defaults that differ from those of fine-tuning.
    output_dir: str = setting(
        "hyenadna-soft-prompt", "Folder for everything that the run writes.", decides=False
    )
    patience: int = setting(5, "Stop after that many evaluations without a better one; 0: never.")
    embed_dropout: float | None = setting(0.0, "Dropout on the embeddings of prompt and sequence.")
    learning_rate: float = setting(1e-3, "Highest learning rate.")
    weight_decay: float = setting(0.0, "Weight decay of the learned tokens and the head.")
    per_device_train_batch_size: int = setting(16, "Batch size on each device.")

    def __post_init__(self):
        super().__post_init__()
        self.check_rows()
        self.check_supervised()
        if self.model is None:
            raise InputError("a soft prompt needs a checkpoint (model): a random backbone would stay random")
        if self.form not in FORMS:
            raise InputError(f"form is {self.form!r}; use one of {', '.join(FORMS)}")
        if self.num_virtual_tokens < 1:
            raise InputError(f"num_virtual_tokens is {self.num_virtual_tokens}; it must be at least 1")
        if not 0 <= self.prompt_dropout < 1:
            raise InputError(f"prompt_dropout is {self.prompt_dropout}; it is a probability, 0 to below 1")

        if self.form == "next_token":
            refuse_unused(self, names_of(HeadArguments), "the form next_token")  # there is no head
        else:
            refuse_unused(self, ("label_letters",), "the form classifier")
        # For label smoothing, Trainer reads the class of the model from an attribute that peft's
        # prompt models do not have.
        refuse_unused(self, ("label_smoothing_factor",), "soft-prompt")


def check_room(args: RowsArguments, data: LabelledData, max_seq_len: int, form: str, length: int) -> int:
    """Return how many tokens the model reads in addition to a sequence.

    Args:
        args: Their `truncation` and `add_special_tokens` count.
        data: The rows.
        max_seq_len: The most tokens that the model takes.
        form: One of `FORMS`.
        length: The number of learned tokens.

    Raises:
        InputError: They leave no room for a sequence or, without truncation, for the longest.
    """
    # The prompt, then [SEP] and the letter; or the prompt and, if asked for, [SEP].
    if form == "next_token":
        special = length + 2
    else:
        special = length + int(args.add_special_tokens)
    if special >= max_seq_len:
        raise InputError(
            f"num_virtual_tokens is {length}, which leaves no room for a sequence: max_seq_len of the "
            f"model is {max_seq_len} tokens for both"
        )
    if not args.truncation:
        check_rows_fit(data, max_seq_len, special, from_scratch=False)
    return special


def language_model_for_letters(args: BackboneArguments) -> tuple[HyenaDNAForCausalLM, HyenaDNATokenizer]:
    """Load the checkpoint as a language model, and a tokenizer without special tokens."""
    # `NextTokenCollator` puts [SEP] where it belongs, so the tokenizer must not add one.
    model, _ = make_model(HyenaDNAForCausalLM, args)
    settings = {"add_eos_token": False, "model_max_length": model.config.max_seq_len}
    return model, new_tokenizer(alphabet_of(args), **settings)


def _classifier_with_prompt(args: SoftPromptArguments, labelled: LabelledData) -> dict:
    """Return the parts of a Trainer: the frozen classifier with its prompt, collator, metrics."""
    model, tokenizer = make_classifier(args, labelled.problem_type, labelled.label_names)
    check_room(args, labelled, model.config.max_seq_len, args.form, args.num_virtual_tokens)
    # What is truncated must leave room for the prompt, which the tokenizer knows nothing of.
    tokenizer.model_max_length = model.config.max_seq_len - args.num_virtual_tokens
    return {
        "model": add_prompt(model, args.num_virtual_tokens, args.init_text, args.prompt_dropout),
        "processing_class": tokenizer,
        "data_collator": SequenceCollator(tokenizer, labelled.problem_type, args.truncation),
        "compute_metrics": make_compute_metrics(labelled.problem_type),
    }


def _language_model_with_prompt(args: SoftPromptArguments, labelled: LabelledData) -> dict:
    """Return the parts of a Trainer: the frozen language model with its prompt, and collator."""
    if labelled.problem_type != SINGLE_LABEL:
        raise InputError(
            f"the form next_token is for single labels, but the problem is {labelled.problem_type}"
        )
    letters = letters_of_labels(labelled.label_names, args.label_letters, labelled.alphabet)
    model, tokenizer = language_model_for_letters(args)
    # The prompt, [SEP] and the letter must fit beside the longest sequence.
    max_seq_len = model.config.max_seq_len
    special = check_room(args, labelled, max_seq_len, args.form, args.num_virtual_tokens)
    tokenizer.model_max_length = max_seq_len - args.num_virtual_tokens
    return {
        "model": add_prompt(model, args.num_virtual_tokens, args.init_text, args.prompt_dropout),
        "processing_class": tokenizer,
        **NextTokenCollator(tokenizer, letters, longest=max_seq_len - special).for_trainer(),
    }


def soft_prompt(args: SoftPromptArguments, data: Dataset | DatasetDict | None = None) -> RunResult:
    """Learn a prompt, evaluate and save.

    Args:
        args: All settings.
        data: A `datasets` object instead of `args.data`.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used. Nothing was
            written.

    >>> soft_prompt(SoftPromptArguments(model="pretrained", data="promoters.csv"))  # doctest: +SKIP
    """
    if args.form == "next_token":
        return train_and_test(args, data, _language_model_with_prompt)
    return train_and_test(args, data, _classifier_with_prompt)


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna soft-prompt` with these arguments (default: those of the command line)."""
    help = "Adapt a frozen HyenaDNA by learned tokens."
    args = parse_settings(SoftPromptArguments, "soft-prompt", help, argv)
    soft_prompt(args)
    say_next(args)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
