"""Fine-tune HyenaDNA on labelled DNA: `hyenadna finetune --data promoters.csv --output_dir promoters`.

    hyenadna finetune --data promoters.csv --output_dir promoters  # from the checkpoint in the package
    hyenadna finetune --data folder --model LongSafari/hyenadna-tiny-1k-seqlen-hf  # from another
    hyenadna finetune --data folder --model none --n_layer 4  # from scratch
    hyenadna finetune promoters.yaml --seed 1  # settings from a YAML file
    hyenadna finetune --data folder --lora_rank 8  # LoRA instead of all weights
    hyenadna finetune --data promoters.csv --output_dir promoters --resume  # go on after a kill
    accelerate launch -m hyenadna finetune --data promoters.csv  # on several devices

`--data` takes what `genomics.labelled.read_labelled_data` takes. The output folder holds

- the model and its tokenizer, ready for `pipeline("text-classification", "promoters")`; with
  `--lora_rank` the adapter instead, for `hyenadna.training.adapters.load_adapted`;
- `metrics.json`, and in `baselines.json` what k-mers reach on the same rows;
- `predictions.csv` of the test part, or of the validation part if there is none (`.npz` for more
  than 50 labels);
- `confusion_matrix.png`;
- the last and the best checkpoint.

No special tokens, mean pooling, and the optimisation in `runs/trainer.py` follow the paper
(arXiv 2306.15794). The other defaults were chosen by validation rows: `docs/fine-tuning.md`.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData
from hyenadna.genomics.letters import DNA, Alphabet
from hyenadna.training.runs.baselines import fit_kmers, logistic_name
from hyenadna.training.runs.files import write_json
from hyenadna.training.runs.models import SHIPPED, RunResult, published_checkpoints
from hyenadna.training.runs.settings import SHOWN_OF_TRAINING, parse_settings, say_next, setting
from hyenadna.training.runs.strands import (
    AUTO,
    BOTH,
    ONE,
    READ,
    Strands,
    check_second_strand,
    has_second_strand,
)
from hyenadna.training.runs.supervised import (
    ClassifierArguments,
    Comparison,
    RowsArguments,
    classifier_for_trainer,
    settings_of,
    train_and_test,
)

BASELINES_FILE = "baselines.json"
PATIENCE = 8


@dataclass
class FinetuneArguments(RowsArguments, ClassifierArguments):
    """Settings of `hyenadna finetune`, beside those of `transformers.TrainingArguments`."""

    SHOWN: ClassVar = {
        "your data": (
            "data",
            "validation_data",
            "test_data",
            "sequence_column",
            "label_column",
            "problem_type",
        ),
        "the model": ("model", "lora_rank", "strands"),
        "training": (*SHOWN_OF_TRAINING, "patience", "baselines"),
        "the run": ("output_dir", "resume"),
    }
    EXAMPLE: ClassVar = "hyenadna finetune --data promoters.csv --output_dir promoters"
    NEXT: ClassVar = {
        "hyenadna predict --model {output_dir} --data NEW.fa --output new.csv": "classes of new sequences",
        "hyenadna export {output_dir} {output_dir}-hub": "a folder to publish, with a card",
    }

    model: str | None = setting(
        None, "Checkpoint: a folder or an id on the Hub; none: from scratch. By default that in the package."
    )
    strands: str = setting(
        AUTO,
        "one; both: train on random strands and average the logits of both; auto: ask k-mers on the "
        "validation rows.",
    )
    reverse_complement: float | None = setting(
        None, "Probability to train on the other strand, in place of strands; .5 in the paper."
    )
    test_time_averaging: bool = setting(
        False, "Evaluate at the end on the mean of both strands' logits, in place of strands."
    )
    baselines: bool = setting(True, "Fit a k-mer model on the same rows to compare with.")
    patience: int | None = setting(
        None, f"Stop after that many evaluations without a better one; 0: never ({PATIENCE} epochs)."
    )
    weight_averaging: float = setting(
        1.0, "Evaluate and keep an average of the weights over about so many epochs; 0: the last weights."
    )
    metric_for_best_model: str = setting(
        "loss", "What the best checkpoint is best in; auto: mcc, or else the loss."
    )
    output_dir: str = setting(
        "hyenadna-finetuned", "Folder for everything that the run writes.", decides=False
    )

    def __post_init__(self):
        super().__post_init__()
        self.choose_checkpoint()
        self._check_strands()
        if self.patience is None:
            each_epoch = self.load_best_model_at_end and self.eval_strategy == "epoch"
            self.patience = PATIENCE if each_epoch else 0
        self.check_rows()
        self.check_classifier()

    def _check_strands(self) -> None:
        """Raise `InputError` if `strands` is none of its values, or the older flags contradict it."""
        if self.strands not in (AUTO, ONE, BOTH):
            raise InputError(f"strands is {self.strands!r}; use {AUTO}, {ONE} or {BOTH}")
        older = [name for name in ("reverse_complement", "test_time_averaging") if self._given(name)]
        if older and self.strands != AUTO:
            raise InputError(f"strands is {self.strands!r}: leave {' and '.join(older)} out, which it sets")

    def _given(self, name: str) -> bool:
        value = getattr(self, name)
        return value is not None and value is not False  # 0.0 is a probability that was given

    def asks_strands(self) -> bool:
        """Return whether the validation rows are to choose the strands."""
        older = self._given("reverse_complement") or self._given("test_time_averaging")
        return self.strands == AUTO and not older


# ------------------------------------------------------------------------------------------- k-mers


def compare_with_kmers(args: FinetuneArguments, labelled: LabelledData, output: Path) -> Comparison:
    """Fit k-mers on the same rows, choose the strands, and prepare what is said at the end.

    Args:
        args: All settings.
        labelled: Checked data.
        output: Folder of the run. A resumed run finds there what the first one fitted.
    """
    can_ask = labelled.problem_type == SINGLE_LABEL and has_second_strand(labelled)
    asks = args.asks_strands() and can_ask
    kmers = None
    if labelled.problem_type == SINGLE_LABEL and (args.baselines or asks):
        kmers = _kmers(args, labelled, output / BASELINES_FILE, asks)

    strands = _strands(args, kmers if asks else None)
    results = {"strands": {"used": strands.name, **(kmers["strands"] if asks else {})}}
    if kmers is None or not args.baselines:
        return Comparison(strands, results)
    name = logistic_name(labelled.alphabet)
    results["baselines"] = {name: {key: kmers[key] for key in ("metrics", "seconds", "C", "rows")}}
    return Comparison(strands, results, partial(verdict, args, strands, kmers, alphabet=labelled.alphabet))


def _kmers(args: FinetuneArguments, labelled: LabelledData, path: Path, asks: bool) -> dict:
    """Return the content of the file if it is of these rows; else fit, and write it."""
    digest = settings_of(args, labelled)["data_sha256"]
    if path.exists():
        earlier = json.loads(path.read_text())
        if earlier["data_sha256"] == digest and (not asks or "strands" in earlier):
            return earlier
    kmers = {"data_sha256": digest, **fit_kmers(labelled, compare_strands=asks)}
    if args.process_index == 0:
        write_json(path, kmers)
    return kmers


def _strands(args: FinetuneArguments, kmers: dict | None) -> Strands:
    """Return how the run reads the strands, and say so if the validation rows chose it."""
    if not args.asks_strands():
        older = Strands(args.reverse_complement or 0.0, args.test_time_averaging)
        return READ.get(args.strands, older)
    if kmers is None:
        print("strands: one (k-mers cannot be asked about these labels; --strands both reads both)")
        return READ[ONE]
    answer = kmers["strands"]
    print(
        f"strands: {answer['better']}. Validation loss of k-mers {answer['loss_one']:.3f} on one strand, "
        f"{answer['loss_both']:.3f} on both (standard error of the difference "
        f"{answer['standard_error']:.3f}); --strands one or both decides it"
    )
    return READ[answer["better"]]


def verdict(
    args: FinetuneArguments,
    strands: Strands,
    kmers: dict,
    metrics: dict[str, dict],
    part: str,
    alphabet: Alphabet = DNA,
) -> str:
    """Say how a trained model compares with k-mers on the tested part, and if it lost, what to try."""
    ours = 100 * metrics[part]["mcc"]
    theirs = 100 * kmers["metrics"][part]["mcc"]
    text = (
        f"{logistic_name(alphabet)} on the same rows ({kmers['seconds']:.0f} s): mcc {theirs:.1f} %. "
        f"This model: {ours:.1f} %, {abs(ours - theirs):.1f} points "
    )
    if ours >= theirs:
        return f"{text}{'higher' if ours > theirs else 'apart'}."
    return f"{text}LOWER. To try: {'; '.join(_cures(args, strands, alphabet))}."


def _cures(args: FinetuneArguments, strands: Strands, alphabet: Alphabet) -> list[str]:
    """Return what may help a model that k-mers beat, the likeliest first."""
    cures = []
    if args.model is None:
        cures.append("start from a checkpoint (no --model none, no shape)")
    elif args.model == SHIPPED:
        cures.append("a larger checkpoint: --model LongSafari/hyenadna-small-32k-seqlen-hf")
    if strands == READ[ONE] and alphabet.complement is not None:
        cures.append("--strands both, if the labels belong to both strands")
    if args.lora_rank is None and args.model is not None:
        cures.append("--lora_rank 8")
    cures.append(f"another --learning_rate ({args.learning_rate / 2:g}, {args.learning_rate * 2:g})")
    cures.append("more labelled rows, and another --seed: few rows vary much")
    return cures


# ------------------------------------------------------------------------------------------ the run


def finetune(args: FinetuneArguments, data: Dataset | DatasetDict | LabelledData | None = None) -> RunResult:
    """Fine-tune, evaluate and save.

    Args:
        args: All settings.
        data: A `datasets` object or checked data instead of `args.data`.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used; nothing was
            written then.
    """
    return train_and_test(args, data, prepare, compare_with_kmers)


def prepare(args: FinetuneArguments, labelled: LabelledData) -> dict:
    """Make `Trainer`'s arguments, after what the strands need was checked."""
    if args.strands == BOTH:
        check_second_strand(labelled)
    return classifier_for_trainer(args, labelled)


def parse(argv: list[str] | None = None) -> FinetuneArguments:
    """Read the settings from flags, or from a YAML file and flags that override it."""
    return parse_settings(
        FinetuneArguments,
        "finetune",
        "Fine-tune HyenaDNA on labelled DNA.",
        argv,
        epilog=published_checkpoints(),
    )


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna finetune` with these arguments (default: those of the command line)."""
    args = parse(argv)
    finetune(args)
    say_next(args)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
