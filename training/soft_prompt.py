"""Adapt a frozen HyenaDNA by a few learned tokens: `hyenadna soft-prompt --data DATA --model CHECKPOINT`.

    hyenadna soft-prompt --data promoters.csv --model pretrained --num_virtual_tokens 32 --output_dir promoters-prompt
    hyenadna soft-prompt --data promoters.csv --model pretrained --form next_token      # the label is the next base
    hyenadna soft-prompt prompt.yaml --seed 1

The weights of the checkpoint do not change. T learned tokens stand in front of each sequence, and in the form

- `classifier` a head on the pooled outputs is learned with them: any problem that `hyenadna finetune` takes;
- `next_token` nothing else: the model reads `{T tokens, sequence, [SEP]}` and its next token is the label, a letter for
  each class (A and N for two, A, G, N for three: arXiv 2306.15794). The loss is that token's alone.

`--data` and the folder are as in `hyenadna finetune`, but the folder holds the adapter in the place of the model: the
tokens and the head. `hyenadna.training.adapters.load_adapted` loads it.
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import EvalPrediction, set_seed

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training.runs.adapters import add_prompt
from hyenadna.training.runs.metrics import make_compute_metrics
from hyenadna.training.runs.settings import parse_settings, refuse_unused, setting
from hyenadna.training.runs.trainer import load_checkpoint

from .finetune import FinetuneArguments, FinetuneResult, SequenceCollator, check_lengths, load_model, train_and_test

FORMS = ("classifier", "next_token")
_LETTERS = {2: "AN", 3: "AGN", 4: "ACGN", 5: "ACGTN"}
# Settings of a classifier that mean nothing where the label is the next token.
NOT_FOR_LETTERS = ("pooling", "add_special_tokens", "class_weights", "label_smoothing_factor")
NOT_FOR_LETTERS += ("d_model", "n_layer", "max_seq_len", "initializer_range")


@dataclass
class SoftPromptArguments(FinetuneArguments):
    """Settings of `hyenadna soft-prompt`, on top of those of `hyenadna finetune`."""

    form: str = setting("classifier", "classifier (prompt and head) or next_token (prompt alone; the paper's).")
    num_virtual_tokens: int = setting(32, "Learned tokens in front of each sequence.")
    init_text: str | None = setting(None, "Bases from whose embeddings the tokens start; without it N(0, 0.02).")
    prompt_dropout: float = setting(0.1, "Dropout on the learned tokens.")
    label_letters: str | None = setting(None, "next_token: a letter of ACGTN for each class, in their sorted order.")
    # other defaults than those of fine-tuning
    output_dir: str = setting("hyenadna-soft-prompt", "Folder for everything that the run writes.")
    patience: int = setting(5, "Stop after so many evaluations without a better one; 0: never.")
    embed_dropout: float | None = setting(0.0, "Dropout on the embeddings of prompt and sequence.")
    learning_rate: float = setting(1e-3, "Highest learning rate.")
    weight_decay: float = setting(0.0, "Weight decay of the learned tokens and the head.")
    per_device_train_batch_size: int = setting(16, "Batch size on each device.")

    def __post_init__(self):
        super().__post_init__()
        if self.model is None:
            raise InputError("a soft prompt needs a checkpoint (model): a random backbone would stay random")
        if self.form not in FORMS:
            raise InputError(f"form is {self.form!r}; use one of {', '.join(FORMS)}")
        if self.num_virtual_tokens < 1:
            raise InputError(f"num_virtual_tokens is {self.num_virtual_tokens}; it must be at least 1")
        if not 0 <= self.prompt_dropout < 1:
            raise InputError(f"prompt_dropout is {self.prompt_dropout}; it is a probability, 0 to below 1")
        if self.lora_rank is not None or self.freeze_backbone:
            raise InputError("a soft prompt freezes the backbone by itself: leave lora_rank and freeze_backbone out")
        if self.form == "next_token":
            refuse_unused(self, NOT_FOR_LETTERS, "the form next_token")
        else:
            refuse_unused(self, ("label_letters",), "the form classifier")
        # Trainer looks for the name of the model in a place that only peft's other methods have.
        refuse_unused(self, ("label_smoothing_factor",), "soft-prompt")


def letters_of_labels(label_names: list[str], letters: str | None = None) -> str:
    """Return a letter for each class, in the order of `label_names`.

    Raises:
        InputError: There are too many classes, or the letters do not fit them.
    """
    if letters is None and len(label_names) not in _LETTERS:
        raise InputError(
            f"{len(label_names)} classes {label_names[:6]} have no letters: a label is one of A, C, G, T, N. Use the "
            "form classifier"
        )
    letters = _LETTERS[len(label_names)] if letters is None else letters.upper()
    if len(letters) != len(label_names) or len(set(letters)) < len(letters) or set(letters) - set("ACGTN"):
        raise InputError(
            f"label_letters {letters!r} do not fit the {len(label_names)} classes {label_names}: write a different "
            "letter of ACGTN for each"
        )
    return letters


class NextTokenCollator:
    """Rows as `sequence [SEP] letter`, padded on the left, where the last letter is the only target.

    Labelled `examples` of a row, pairs of a sequence and a label, stand in front as `sequence [SEP] letter [SEP]`.
    """

    def __init__(self, tokenizer: HyenaDNATokenizer, letters: str, longest: int | None = None):
        self.tokenizer, self.longest = tokenizer, longest  # bases to keep of a sequence; None: all
        self.letter_ids = tokenizer.convert_tokens_to_ids(list(letters))

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        sep, texts = self.tokenizer.sep_token_id, []
        for row in rows:
            pairs = [*row.get("examples", []), (row["sequence"], row["label"])]
            sequences = self.tokenizer([sequence for sequence, _ in pairs], add_special_tokens=False)["input_ids"]
            ids = []
            for sequence, (_, label) in zip(sequences, pairs, strict=True):
                ids += [*sequence[: self.longest], sep, self.letter_ids[label], sep]
            texts.append(ids[:-1])
        batch = self.tokenizer.pad({"input_ids": texts}, return_tensors="pt", padding_side="left")
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -1] = batch["input_ids"][:, -1]
        return {**batch, "labels": labels}

    def letter_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the logits of the letters after `[SEP]`, (batch, classes), for `Trainer`'s evaluation."""
        return logits[:, -2, self.letter_ids]

    def metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Compute the metrics of a classifier from letters: `label_ids` (rows, length) hold one that is not -100."""
        tokens = np.asarray(output.label_ids).max(axis=1)
        classes = (tokens[:, None] == np.array(self.letter_ids)).argmax(axis=1)
        return make_compute_metrics(SINGLE_LABEL)(EvalPrediction(output.predictions, classes))


def load_language_model(args: FinetuneArguments) -> tuple[HyenaDNAForCausalLM, HyenaDNATokenizer]:
    """Load the checkpoint as a language model, and a tokenizer without special tokens."""
    set_seed(args.seed)
    names = ("embed_dropout", "resid_dropout")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    model, _ = load_checkpoint(HyenaDNAForCausalLM, args.model, chosen)
    return model, HyenaDNATokenizer(add_eos_token=False, model_max_length=model.config.max_seq_len)


def check_room(args: FinetuneArguments, data: LabelledData, max_seq_len: int, form: str, length: int) -> int:
    """Return the number of tokens beside a sequence, or raise `InputError` if they and the sequences do not fit."""
    special = length + (2 if form == "next_token" else int(args.add_special_tokens))
    if special >= max_seq_len:
        raise InputError(
            f"num_virtual_tokens is {length}, which leaves no room for a sequence: max_seq_len of the model is "
            f"{max_seq_len} tokens for both"
        )
    if not args.truncation:
        check_lengths(data, max_seq_len, special, from_scratch=False)
    return special


def _prompted(args: SoftPromptArguments, labelled: LabelledData) -> dict:
    next_token, length = args.form == "next_token", args.num_virtual_tokens
    if next_token and labelled.problem_type != SINGLE_LABEL:
        raise InputError(f"the form next_token is for single labels, but the problem is {labelled.problem_type}")
    if next_token:
        letters = letters_of_labels(labelled.label_names, args.label_letters)
        model, tokenizer = load_language_model(args)
    else:
        model, tokenizer = load_model(args, labelled.problem_type, labelled.label_names)
    special = check_room(args, labelled, model.config.max_seq_len, args.form, length)
    tokenizer.model_max_length = model.config.max_seq_len - length
    prepared = {
        "model": add_prompt(model, length, args.init_text, args.prompt_dropout),
        "processing_class": tokenizer,
    }
    if next_token:
        collator = NextTokenCollator(tokenizer, letters, longest=model.config.max_seq_len - special)
        trainer = {
            "data_collator": collator,
            "preprocess_logits_for_metrics": collator.letter_logits,
            "compute_metrics": collator.metrics,
        }
    else:
        trainer = {
            "data_collator": SequenceCollator(tokenizer, labelled.problem_type, args.truncation),
            "compute_metrics": make_compute_metrics(labelled.problem_type),
        }
    return {**prepared, **trainer}


def soft_prompt(args: SoftPromptArguments, data: Dataset | DatasetDict | None = None) -> FinetuneResult:
    """Learn a prompt, evaluate and save.

    Args:
        args: All settings.
        data: A `datasets` object instead of `args.data`.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used; nothing was written then.
    """
    return train_and_test(args, data, _prompted)


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna soft-prompt` with these arguments (default: those of the command line)."""
    help = "Adapt a frozen HyenaDNA by learned tokens."
    soft_prompt(parse_settings(SoftPromptArguments, "soft-prompt", help, argv))


if __name__ == "__main__":
    from .cli import main as command_line

    sys.exit(command_line(["soft-prompt", *sys.argv[1:]]))
