"""Fine-tune HyenaDNA on labelled DNA: `hyenadna finetune --data promoters.csv --output_dir promoters`.

    hyenadna finetune --data promoters.csv --output_dir promoters                        # from scratch, tiny model
    hyenadna finetune --data folder --model LongSafari/hyenadna-tiny-1k-seqlen-hf        # from a checkpoint
    hyenadna finetune promoters.yaml --seed 1                                            # settings from a YAML file
    hyenadna finetune --data folder --model pretrained --lora_rank 8                     # LoRA instead of all weights
    hyenadna finetune --data promoters.csv --output_dir promoters --resume               # go on after a kill
    accelerate launch -m hyenadna.training.finetune --data promoters.csv                 # on several devices

`--data` takes what `labelled_data.read_labelled_data` takes. The folder then holds the model and its tokenizer (ready
for `pipeline("text-classification", "promoters")`; with `--lora_rank` the adapter, for `adapters.load_adapted`),
`metrics.json`, `predictions.csv` (of the test part, or of the validation part if there is none; `.npz` for more than 50
labels), `confusion_matrix.png` and the last and best checkpoints. The settings follow the paper's fine-tuning (arXiv
2306.15794): no special tokens, mean pooling, and the optimisation in `trainer.py`.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel, TrainerCallback, set_seed

from hyenadna import HyenaDNAConfig, HyenaDNAForSequenceClassification
from hyenadna.errors import InputError
from hyenadna.genomics.labelled import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    LabelledData,
    count_table,
    read_labelled_data,
)
from hyenadna.genomics.letters import reverse_complement
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training.runs.metrics import make_compute_metrics, predicted_labels, probabilities
from hyenadna.training.runs.results import (
    hardware,
    predictions_table,
    versions,
    write_confusion_matrix,
    write_json,
    write_whole,
)
from hyenadna.training.runs.settings import (
    METRICS_FILE,
    SETTINGS_FILE,
    SHAPE,
    check_output_folder,
    one_writer,
    parse_settings,
    result_settings,
    setting,
)
from hyenadna.training.runs.trainer import HyenaDNATrainer, RecipeArguments, last_complete_checkpoint, load_checkpoint

_LABEL_DTYPE = {SINGLE_LABEL: torch.int64, MULTI_LABEL: torch.float32, REGRESSION: torch.float32}


@dataclass
class FinetuneArguments(RecipeArguments):
    """Settings of `hyenadna finetune`, on top of those of `transformers.TrainingArguments`."""

    # data
    data: str | None = setting(None, "csv, tsv, parquet or FASTA file, folder, or id of a data set on the Hub.")
    validation_data: str | None = setting(None, "Validation rows; by default they are split off the training rows.")
    test_data: str | None = setting(None, "Test rows.")
    sequence_column: str = setting("sequence", "Column with the sequences.")
    label_column: list[str] = field(
        default_factory=lambda: ["label"],
        metadata={"help": "Column with the labels; several columns of 0 and 1 are a multi-label problem."},
    )
    id_column: str = setting("id", "Column with unique names of the rows, used if it is there.")
    problem_type: str | None = setting(
        None, "single_label_classification, multi_label_classification (a column of lists too) or regression."
    )
    validation_fraction: float = setting(0.1, "Fraction of the training rows to validate on if none are given.")
    folds: int | None = setting(None, "Cross-validation: folds of the training rows; see fold.")
    fold: int | None = setting(None, "The fold, from 0, to validate on, or to test on if there are no test rows.")
    task: str | None = setting(None, "Name of the data in reports (that of the file or folder).")
    truncation: bool = setting(False, "Cut what is longer than the model's max_seq_len instead of refusing it.")
    # model
    model: str | None = setting(None, "Checkpoint: a folder or an id on the Hub. Without it: from scratch.")
    d_model: int | None = setting(None, "Width, from scratch (128).")
    n_layer: int | None = setting(None, "Number of blocks, from scratch (2).")
    max_seq_len: int | None = setting(None, "Longest input in tokens, from scratch (1026).")
    initializer_range: float | None = setting(None, "Standard deviation of the initial weights, from scratch (0.02).")
    pooling: str | None = setting(None, "mean (from scratch), last, first or max.")
    embed_dropout: float | None = setting(None, "Dropout on the embeddings (from scratch: 0.1).")
    resid_dropout: float | None = setting(None, "Dropout on each mixer and MLP output (from scratch: 0).")
    freeze_backbone: bool = setting(False, "Train the head only.")
    lora_rank: int | None = setting(None, "Train LoRA matrices of this rank and the head; the folder holds only those.")
    add_special_tokens: bool = setting(False, "Append [SEP] to each sequence.")
    # training
    reverse_complement: float = setting(0.0, "Probability to train on the other strand; .5 in the paper.")
    test_time_averaging: bool = setting(False, "Evaluate at the end on the mean of both strands' logits.")
    class_weights: bool = setting(False, "Weigh the loss so that each class counts the same.")
    patience: int = setting(0, "Stop after so many evaluations without a better one; 0: never.")
    # other defaults than those of Transformers
    output_dir: str = setting("hyenadna-finetuned", "Folder for everything that the run writes.")
    num_train_epochs: float = setting(20.0, "Passes over the training rows.")
    per_device_train_batch_size: int = setting(64, "Batch size on each device.")
    per_device_eval_batch_size: int = setting(64, "Batch size on each device for evaluation.")
    eval_strategy: str = setting("epoch", "When to evaluate.")
    save_strategy: str = setting("epoch", "When to save a checkpoint, from which the run can resume.")
    logging_strategy: str = setting("epoch", "When to log.")
    save_total_limit: int = setting(1, "Checkpoints to keep besides the best one.")
    metric_for_best_model: str = setting("auto", "What the best checkpoint is best in: mcc, or else the loss.")
    load_best_model_at_end: bool = setting(True, "Keep the checkpoint that is best on the validation part.")

    def __post_init__(self):
        super().__post_init__()
        self.check_training()
        if not 0 <= self.reverse_complement <= 1:
            raise InputError(f"reverse_complement is {self.reverse_complement}; it is a probability, 0 to 1")
        if (self.folds is None) != (self.fold is None):
            raise InputError(f"folds is {self.folds} and fold is {self.fold}; they go together")
        if self.patience < 0 or (self.patience and not self.load_best_model_at_end):
            raise InputError(f"patience is {self.patience}; it must be at least 0, and needs load_best_model_at_end")
        if self.patience:
            self.restore_callback_states_from_checkpoint = True  # a resumed run goes on counting
        if self.class_weights and self.label_smoothing_factor:
            raise InputError("class_weights and label_smoothing_factor do not go together; leave one out")
        if self.lora_rank is not None and (self.lora_rank < 1 or self.model is None or self.freeze_backbone):
            raise InputError(
                f"lora_rank is {self.lora_rank}; it must be at least 1, needs a checkpoint (model), and freezes the "
                "backbone by itself (no freeze_backbone)"
            )


class StrandedRows(torch.utils.data.Dataset):
    """Rows of a part as `{"sequence", "label"}`, each on the other strand with probability `p`.

    `rows` has the columns `sequence` and `label`: a `datasets.Dataset`, or `WindowRows`, which stay in their genome.

    The coin is a function of (seed, epoch, row), not of a running generator: a resumed run, and any number of workers,
    sees the strands that an uninterrupted one sees.
    """

    def __init__(self, rows: Dataset, p: float = 0.0, seed: int = 0):
        self.sequences, self.labels, self.p, self.seed = rows["sequence"][:], rows["label"][:], p, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, i: int) -> dict:
        sequence = self.sequences[i]
        if self.p and np.random.default_rng((self.seed, int(self.epoch), i)).random() < self.p:
            sequence = reverse_complement(sequence)
        return {"sequence": sequence, "label": self.labels[i]}


class _TellEpoch(TrainerCallback):
    def __init__(self, rows: StrandedRows):
        self.rows = rows

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.rows.epoch.fill_(int(state.epoch or 0))


class SequenceCollator:
    """Tokenize a batch and pad it to its longest sequence.

    Labels are numbers (classes, regression), lists of 0 and 1 or arrays of them (multi-label).
    """

    def __init__(self, tokenizer: HyenaDNATokenizer, problem_type: str, truncation: bool = False):
        self.tokenizer, self.truncation, self.dtype = tokenizer, truncation, _LABEL_DTYPE[problem_type]

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        sequences = [row["sequence"] for row in rows]
        batch = self.tokenizer(sequences, padding=True, truncation=self.truncation, return_tensors="pt")
        return {**batch, "labels": torch.tensor(np.array([row["label"] for row in rows]), dtype=self.dtype)}


def load_model(
    args: FinetuneArguments, problem_type: str, label_names: list[str]
) -> tuple[HyenaDNAForSequenceClassification, HyenaDNATokenizer]:
    """Make the classifier and its tokenizer, from scratch or from `args.model`.

    Raises:
        InputError: The checkpoint cannot be loaded, is of another architecture, or conflicts with the settings.
    """
    set_seed(args.seed)
    labels = {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: i for i, name in enumerate(label_names)},
        "problem_type": problem_type,
    }
    names = ("pooling", "embed_dropout", "resid_dropout")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    shape = {name: getattr(args, name) for name in SHAPE if getattr(args, name) is not None}
    if args.model is None:
        if args.freeze_backbone:
            raise InputError("freeze_backbone needs a checkpoint (model): a random backbone would stay random")
        try:
            config = HyenaDNAConfig(**shape, **chosen, **labels)
        except StrictDataclassError as error:
            raise InputError(f"the model cannot be made: {error}") from error
        model = HyenaDNAForSequenceClassification(config)
        tokenizer = HyenaDNATokenizer(add_eos_token=args.add_special_tokens)
    else:
        if shape:
            raise InputError(
                f"{shape} cannot be chosen with model {args.model!r}: a checkpoint has its own; leave it out"
            )
        model = _load_checkpoint(args.model, {**labels, **chosen})
        try:
            tokenizer = HyenaDNATokenizer.from_pretrained(args.model, add_eos_token=args.add_special_tokens)
        except OSError:  # a checkpoint without tokenizer files; the vocabulary is always the published one
            tokenizer = HyenaDNATokenizer(add_eos_token=args.add_special_tokens)
    tokenizer.model_max_length = model.config.max_seq_len
    if args.freeze_backbone:
        model.base_model.requires_grad_(False)
    return model, tokenizer


def _load_checkpoint(name: str, settings: dict) -> HyenaDNAForSequenceClassification:
    model, config = load_checkpoint(HyenaDNAForSequenceClassification, name, settings, new="score.")
    is_classifier = "HyenaDNAForSequenceClassification" in (config.architectures or [])
    if not (is_classifier and config.label2id == settings["label2id"]):
        # a head of the same shape for other labels would start from what it learned about those
        nn.init.normal_(model.score.weight, std=model.config.initializer_range)
        if model.score.bias is not None:
            nn.init.zeros_(model.score.bias)
    return model


def check_lengths(data: LabelledData, max_seq_len: int, n_special: int, from_scratch: bool) -> None:
    """Raise `InputError` if a sequence, with its special tokens, has more tokens than the model takes."""
    for part, rows in data.parts.items():
        lengths = np.array([len(sequence) for sequence in rows["sequence"]]) + n_special
        too_long = np.flatnonzero(lengths > max_seq_len)
        if len(too_long):
            i = int(too_long[0])
            longer = f"--max_seq_len {lengths.max()}" if from_scratch else "a checkpoint with a larger max_seq_len"
            raise InputError(
                f"row {rows[i]['row']} of the {part} rows has {lengths[i]} tokens, but max_seq_len of the model is "
                f"{max_seq_len}; {len(too_long)} of {len(rows)} rows are too long. Use {longer} or --truncation"
            )


def make_weighted_loss(labels: np.ndarray, n_labels: int):
    """Return a cross-entropy for `Trainer` in which every class has the same total weight and the mean weight is 1."""
    weight = torch.tensor(len(labels) / (n_labels * np.bincount(labels, minlength=n_labels)), dtype=torch.float32)

    def weighted_loss(outputs, labels, num_items_in_batch=None):
        logits = outputs.logits.float()
        total = nn.functional.cross_entropy(logits, labels, weight=weight.to(logits.device), reduction="sum")
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return weighted_loss


@dataclass
class FinetuneResult:
    """What a recipe returns: the content of `metrics.json`, the trained model and its tokenizer.

    The model is a `HyenaDNAForSequenceClassification`, or a `peft.PeftModel` where an adapter was trained.
    """

    results: dict
    model: nn.Module
    tokenizer: HyenaDNATokenizer


def finetune(args: FinetuneArguments, data: Dataset | DatasetDict | LabelledData | None = None) -> FinetuneResult:
    """Fine-tune, evaluate and save.

    Args:
        args: All settings.
        data: A `datasets` object or checked data instead of `args.data`.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used; nothing was written then.
    """
    return train_and_test(args, data, classifier)


def classifier(args: FinetuneArguments, labelled: LabelledData) -> dict:
    """Make the arguments of `Trainer` for a classifier or regression on these data; see `train_and_test`."""
    model, tokenizer = load_model(args, labelled.problem_type, labelled.label_names)
    if not args.truncation:
        check_lengths(labelled, model.config.max_seq_len, int(args.add_special_tokens), args.model is None)
    if args.lora_rank:
        from hyenadna.training.runs.adapters import add_lora  # peft is slow to import

        model = add_lora(model, args.lora_rank)
    return {
        "model": model,
        "processing_class": tokenizer,
        "data_collator": SequenceCollator(tokenizer, labelled.problem_type, args.truncation),
        "compute_metrics": make_compute_metrics(labelled.problem_type),
    }


def read_data(args: FinetuneArguments, data: Dataset | DatasetDict | LabelledData | None = None) -> LabelledData:
    """Read and check what the settings name, or `data` instead of `args.data`."""
    if isinstance(data, LabelledData):
        return data
    source = data if data is not None else args.data
    if source is None:
        raise InputError("no data: say --data FILE (csv, tsv, parquet, FASTA), a folder or the id of a data set")
    return read_labelled_data(
        source,
        args.validation_data,
        args.test_data,
        sequence_column=args.sequence_column,
        label_columns=args.label_column,
        id_column=args.id_column,
        problem_type=args.problem_type,
        validation_fraction=args.validation_fraction,
        seed=args.seed,
        fold=None if args.folds is None else (args.fold, args.folds),
    )


@one_writer
def train_and_test(
    args: FinetuneArguments,
    data: Dataset | DatasetDict | LabelledData | None,
    prepare: Callable[[FinetuneArguments, LabelledData], dict],
) -> FinetuneResult:
    """Read and check the data, train, evaluate and save: what every recipe on labelled sequences does.

    Args:
        args: All settings.
        data: A `datasets` object or checked data instead of `args.data`.
        prepare: Makes arguments of `Trainer` from the settings and the data: the model, its tokenizer as
            `processing_class`, and what depends on them. Predictions have to be logits `(rows, labels)`. A
            `train_dataset` of its own has an `epoch`, like `StrandedRows`.
    """
    labelled = read_data(args, data)
    if args.class_weights and labelled.problem_type != SINGLE_LABEL:
        raise InputError(f"class_weights is for single labels, but the problem is {labelled.problem_type}")
    if args.label_smoothing_factor and labelled.problem_type != SINGLE_LABEL:
        raise InputError(f"label_smoothing_factor is for single labels, but the problem is {labelled.problem_type}")
    if args.metric_for_best_model == "auto":
        args.metric_for_best_model = "mcc" if labelled.problem_type == SINGLE_LABEL else "loss"
        args.greater_is_better = labelled.problem_type == SINGLE_LABEL
    output, is_main = Path(args.output_dir), args.process_index == 0
    settings = settings_of(args, labelled)
    if is_main:
        # data_sha256 compares what the paths hold
        check_output_folder(output, settings, args.resume, ("data", "validation_data", "test_data"))
    if (output / METRICS_FILE).exists():
        return _load_finished(output)
    prepared = prepare(args, labelled)
    model, tokenizer = prepared["model"], prepared["processing_class"]
    if is_main:
        print(count_table(labelled))
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / SETTINGS_FILE, settings)

    prepared.setdefault("train_dataset", StrandedRows(labelled.parts["train"], args.reverse_complement, args.seed))
    if args.class_weights:
        labels = np.array(labelled.parts["train"]["label"][:])
        prepared["compute_loss_func"] = make_weighted_loss(labels, len(labelled.label_names))
    trainer = HyenaDNATrainer(**prepared, args=args, eval_dataset=StrandedRows(labelled.parts["validation"]))
    trainer.add_callback(_TellEpoch(prepared["train_dataset"]))
    if args.patience:
        trainer.add_callback(EarlyStoppingCallback(args.patience))
    checkpoint = last_complete_checkpoint(output) if args.resume else None
    start, cpu = time.monotonic(), time.process_time()
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        kept = last_complete_checkpoint(output)
        print(f"\nInterrupted; {kept or 'no checkpoint yet'}. The same command with --resume goes on from there.")
        raise
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    metrics, probability = {}, {}
    for part in ("validation", "test"):
        if part in labelled.parts:
            metrics[part], logits = _predict(trainer, labelled.parts[part], part, args.test_time_averaging)
            probability[part] = probabilities(logits, labelled.problem_type)
    trainer.save_model(args.output_dir)  # every process takes part in this and in the predictions above
    result = FinetuneResult({"metrics": metrics}, trainer.model, tokenizer)
    if not is_main:
        return result

    if not isinstance(trainer.model, PreTrainedModel):  # an adapter's folder: labels and pooling go with it
        trainer.model.config.save_pretrained(output)
    (output / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nothing here needs
    trainer.state.save_to_json(str(output / "trainer_state.json"))
    tested = "test" if "test" in probability else "validation"
    _write_predictions(output, labelled, tested, probability[tested])
    best = trainer.state.best_model_checkpoint
    result.results |= {
        "predictions_of": tested,
        "problem_type": labelled.problem_type,
        "label_names": labelled.label_names,
        "rows": {part: len(rows) for part, rows in labelled.parts.items()},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "best_checkpoint": best and Path(best).name,
        "resumed_from": checkpoint and Path(checkpoint).name,
        "train_seconds": round(seconds, 1),
        "train_cpu_seconds": round(cpu, 1),  # on a busy machine the fairer one
        "hardware": hardware(args.device, args.world_size),
        "versions": versions(),
        "settings": settings,
    }
    write_json(output / METRICS_FILE, result.results)  # last: its presence says that the run is finished
    for part, values in metrics.items():
        print(f"{part:>12}: " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    print(f"model, tokenizer, metrics.json, predictions.csv ({tested}) are in {output}")
    return result


def _predict(trainer: HyenaDNATrainer, rows, part: str, both_strands: bool) -> tuple[dict[str, float], np.ndarray]:
    """Return metrics and logits `(rows, labels)`; of both strands, the means of their logits."""
    forward = trainer.predict(StrandedRows(rows), metric_key_prefix=part)
    keys = [key for key in forward.metrics if not key.endswith(("_runtime", "_per_second"))]
    metrics = {key.removeprefix(f"{part}_"): forward.metrics[key] for key in keys}
    if not both_strands:
        return metrics, forward.predictions
    reverse = trainer.predict(StrandedRows(rows, p=1.0), metric_key_prefix=part)
    logits = (forward.predictions + reverse.predictions) / 2
    averaged = trainer.compute_metrics(EvalPrediction(predictions=logits, label_ids=forward.label_ids))
    return {"loss_forward_strand": metrics["loss"], **averaged}, logits


def _write_predictions(output: Path, data: LabelledData, part: str, probability: np.ndarray) -> None:
    rows = data.parts[part]
    if len(data.label_names) > 50:  # three columns for each would be a table that nothing opens
        write_whole(
            output / "predictions.npz",
            lambda path: np.savez_compressed(
                path,
                row=rows["row"][:],
                label=np.array(rows["label"][:], np.uint8),
                probability=np.float32(probability),
            ),
        )
        return
    table = predictions_table(rows, probability, data.problem_type, data.label_names)
    write_whole(output / "predictions.csv", lambda path: table.to_csv(path, index=False))
    if data.problem_type == SINGLE_LABEL:
        labels, predicted = np.array(rows["label"][:]), predicted_labels(probability, data.problem_type)
        write_confusion_matrix(output / "confusion_matrix.png", labels, predicted, data.label_names)


def _load_finished(output: Path) -> FinetuneResult:
    print(f"{output} holds this run, and it is finished: nothing to do")
    if (output / "adapter_config.json").exists():
        from hyenadna.training.runs.adapters import load_adapted

        model = load_adapted(output)
    else:
        model = HyenaDNAForSequenceClassification.from_pretrained(output)
    results = json.loads((output / METRICS_FILE).read_text())
    return FinetuneResult(results, model, HyenaDNATokenizer.from_pretrained(output))


def settings_of(args: FinetuneArguments, data: LabelledData) -> dict:
    """Return what decides the result of a run: its settings, and a digest of the sequences and labels."""
    if data.digest is not None:
        return {**result_settings(args), "data_sha256": data.digest}
    content = hashlib.sha256()
    for part, rows in data.parts.items():
        content.update(part.encode())
        for sequence, label in zip(rows["sequence"], rows["label"], strict=True):
            content.update(f"{sequence}\t{label}\n".encode())
    return {**result_settings(args), "data_sha256": content.hexdigest()}


def parse(argv: list[str] | None = None) -> FinetuneArguments:
    """Read the settings from flags, or from one YAML file with flags after it, which override it."""
    return parse_settings(FinetuneArguments, "finetune", "Fine-tune HyenaDNA on labelled DNA.", argv)


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna finetune` with these arguments (default: those of the command line)."""
    finetune(parse(argv))


if __name__ == "__main__":
    from .cli import main as command_line

    sys.exit(command_line(["finetune", *sys.argv[1:]]))
