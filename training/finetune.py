"""Fine-tune HyenaDNA on labelled DNA: `hyenadna finetune --data promoters.csv --output_dir
promoters`.

    hyenadna finetune --data promoters.csv --output_dir promoters  # from scratch, tiny model
    hyenadna finetune --data folder --model LongSafari/hyenadna-tiny-1k-seqlen-hf  # from a checkpoint
    hyenadna finetune promoters.yaml --seed 1  # settings from a YAML file
    hyenadna finetune --data folder --model pretrained --lora_rank 8  # LoRA instead of all weights
    hyenadna finetune --data promoters.csv --output_dir promoters --resume  # go on after a kill
    accelerate launch -m hyenadna finetune --data promoters.csv  # on several devices

`--data` takes what `genomics.labelled.read_labelled_data` takes. The output folder holds

- the model and its tokenizer, ready for `pipeline("text-classification", "promoters")`; with
  `--lora_rank` the adapter instead, for `hyenadna.training.adapters.load_adapted`;
- `metrics.json`;
- `predictions.csv` of the test part, or of the validation part if there is none (`.npz` for more
  than 50 labels);
- `confusion_matrix.png`;
- the last and the best checkpoint.

The settings follow the paper's fine-tuning (arXiv 2306.15794): no special tokens, mean pooling, and
the optimisation in `runs/trainer.py`.
"""

from dataclasses import dataclass

from datasets import Dataset, DatasetDict

from hyenadna.genomics.labelled import LabelledData
from hyenadna.training.runs.models import RunResult
from hyenadna.training.runs.settings import parse_settings, setting
from hyenadna.training.runs.supervised import (
    ClassifierArguments,
    RowsArguments,
    classifier_for_trainer,
    train_and_test,
)


@dataclass
class FinetuneArguments(RowsArguments, ClassifierArguments):
    """Settings of `hyenadna finetune`, beside those of `transformers.TrainingArguments`."""

    output_dir: str = setting(
        "hyenadna-finetuned", "Folder for everything that the run writes.", decides=False
    )

    def __post_init__(self):
        super().__post_init__()
        self.check_rows()
        self.check_classifier()


def finetune(args: FinetuneArguments, data: Dataset | DatasetDict | LabelledData | None = None) -> RunResult:
    """Fine-tune, evaluate and save.

    Args:
        args: All settings.
        data: A `datasets` object or checked data instead of `args.data`.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used; nothing was
            written then.
    """
    return train_and_test(args, data, classifier_for_trainer)


def parse(argv: list[str] | None = None) -> FinetuneArguments:
    """Read the settings from flags, or from a YAML file and flags that override it."""
    return parse_settings(FinetuneArguments, "finetune", "Fine-tune HyenaDNA on labelled DNA.", argv)


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna finetune` with these arguments (default: those of the command line)."""
    finetune(parse(argv))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
