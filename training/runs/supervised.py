"""Runs on labelled sequences: settings, rows, collator, and `train_and_test` for all recipes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import EarlyStoppingCallback, EvalPrediction, TrainerCallback

from hyenadna import HyenaDNAForSequenceClassification
from hyenadna.errors import InputError
from hyenadna.genomics.labelled import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    LabelledData,
    count_table,
    read_labelled_data,
)
from hyenadna.genomics.letters import DNA, Alphabet, reverse_complement
from hyenadna.tokenization import HyenaDNATokenizer

from .checkpoints import last_complete_checkpoint
from .files import write_json, write_whole
from .folder import (
    METRICS_FILE,
    SETTINGS_FILE,
    Fingerprint,
    check_output_folder,
    finished_results,
    hardware,
    one_writer,
    saying_how_to_go_on,
    versions,
)
from .metrics import make_compute_metrics, predicted_labels, probabilities
from .models import (
    RunResult,
    ScratchArguments,
    alphabet_of,
    check_alphabet,
    given,
    load_checkpoint,
    load_tokenizer,
    make_model,
)
from .outputs import inert
from .pictures import write_confusion_matrix
from .settings import result_settings, setting, settings_not_compared
from .strands import Strands, check_strand_settings, mean_of_strands
from .trainer import HyenaDNATrainer, RecipeArguments

_LABEL_DTYPE = {SINGLE_LABEL: torch.int64, MULTI_LABEL: torch.float32, REGRESSION: torch.float32}
_MOST_COLUMNS = 50  # labels whose predictions are written as a csv; each takes three columns


# ----------------------------------------------------------------------------------------- settings


@dataclass
class RowsArguments:
    """Where the labelled rows are, and how they are split."""

    data: str | None = setting(
        None, "csv, tsv, parquet or FASTA file, folder, or id of a data set on the Hub.", compared=False
    )
    validation_data: str | None = setting(
        None, "Validation rows; by default they are split off the training rows.", compared=False
    )
    test_data: str | None = setting(None, "Test rows.", compared=False)
    sequence_column: str = setting("sequence", "Column with the sequences.")
    label_column: list[str] = setting(
        ["label"], "Column with the labels; several columns of 0 and 1 are a multi-label problem."
    )
    id_column: str = setting("id", "Column with unique names of the rows, used if it is there.")
    problem_type: str | None = setting(
        None, "single_label_classification, multi_label_classification (a column of lists too) or regression."
    )
    validation_fraction: float = setting(
        0.1, "Fraction of the training rows to validate on if none are given."
    )
    folds: int | None = setting(None, "Cross-validation: folds of the training rows; see fold.")
    fold: int | None = setting(
        None, "The fold, from 0, to validate on, or to test on if there are no test rows."
    )
    task: str | None = setting(None, "Name of the data in reports (that of the file or folder).")

    def check_rows(self) -> None:
        """Raise `InputError` if settings of the rows contradict each other."""
        if (self.folds is None) != (self.fold is None):
            raise InputError(f"folds is {self.folds} and fold is {self.fold}; they go together")


@dataclass
class SupervisedArguments(RecipeArguments):
    """How a run trains and evaluates: once an epoch, keeping the best checkpoint."""

    truncation: bool = setting(
        False, "Cut what is longer than the model's max_seq_len instead of refusing it."
    )
    reverse_complement: float = setting(0.0, "Probability to train on the other strand; .5 in the paper.")
    test_time_averaging: bool = setting(False, "Evaluate at the end on the mean of both strands' logits.")
    patience: int = setting(0, "Stop after that many evaluations without a better one; 0: never.")
    weight_averaging: float = setting(
        0.0, "Evaluate and keep an average of the weights over about so many epochs; 0: the last weights."
    )
    # other defaults than those of Transformers
    num_train_epochs: float = setting(20.0, "Passes over the training rows.")
    per_device_train_batch_size: int = setting(64, "Batch size on each device.")
    per_device_eval_batch_size: int = setting(64, "Batch size on each device for evaluation.", decides=False)
    eval_strategy: str = setting("epoch", "When to evaluate.", decides=False)
    save_strategy: str = setting(
        "epoch", "When to save a checkpoint, from which the run can resume.", decides=False
    )
    logging_strategy: str = setting("epoch", "When to log.", decides=False)
    save_total_limit: int = setting(1, "Checkpoints to keep besides the best one.", decides=False)
    metric_for_best_model: str = setting(
        "auto", "What the best checkpoint is best in: mcc, or else the loss."
    )
    load_best_model_at_end: bool = setting(
        True, "Keep the checkpoint that is best on the validation part.", decides=False
    )

    def check_supervised(self) -> None:
        """Raise `InputError` for settings with which such a run cannot train."""
        self.check_training()
        if not 0 <= (self.reverse_complement or 0) <= 1:
            raise InputError(f"reverse_complement is {self.reverse_complement}; it is a probability, 0 to 1")
        if self.patience < 0 or (self.patience and not self.load_best_model_at_end):
            raise InputError(
                f"patience is {self.patience}; it must be at least 0, and needs load_best_model_at_end"
            )
        if not 0 <= self.weight_averaging < math.inf:
            raise InputError(
                f"weight_averaging is {self.weight_averaging}; it is a number of epochs, 0 or more"
            )
        if self.patience:
            self.restore_callback_states_from_checkpoint = True  # a resumed run goes on counting


@dataclass
class HeadArguments:
    """The head of a classifier, and its loss."""

    pooling: str | None = setting(None, "mean (from scratch), last, first or max.")
    add_special_tokens: bool = setting(False, "Append [SEP] to each sequence.")
    class_weights: bool = setting(False, "Weigh the loss so that each class counts the same.")

    def check_head(self, label_smoothing_factor: float) -> None:
        """Raise `InputError` if two settings both change the loss."""
        if self.class_weights and label_smoothing_factor:
            raise InputError("class_weights and label_smoothing_factor do not go together; leave one out")


@dataclass
class ClassifierArguments(HeadArguments, ScratchArguments, SupervisedArguments):
    """A classifier or regression, from scratch or a checkpoint, without its rows."""

    freeze_backbone: bool = setting(False, "Train the head only.")
    lora_rank: int | None = setting(
        None, "Train LoRA matrices of this rank and the head; the folder holds only those."
    )

    def check_classifier(self) -> None:
        """Raise `InputError` for settings with which no classifier can be trained."""
        self.check_supervised()
        self.check_head(self.label_smoothing_factor)
        if self.freeze_backbone and self.model is None and self.lora_rank is None:
            raise InputError(
                "freeze_backbone needs a checkpoint (model): a random backbone would stay random"
            )
        if self.lora_rank is not None and (self.lora_rank < 1 or self.model is None or self.freeze_backbone):
            raise InputError(
                f"lora_rank is {self.lora_rank}; it must be at least 1, needs a checkpoint (model), and "
                "freezes the backbone by itself (no freeze_backbone)"
            )


# --------------------------------------------------------------------------------------------- rows


class StrandedRows(torch.utils.data.Dataset):
    """Rows of a part as `{"sequence", "label"}`, each on the other strand with probability `p`.

    The coin is a function of (seed, epoch, row), not of a running generator: a resumed run, and any
    number of workers, sees the strands that an uninterrupted one sees.

    Args:
        rows: A `datasets.Dataset` with the columns `sequence` and `label`, or `WindowRows`, which
            stay in their genome.
        p: Probability of the other strand.
        seed: Of the coin.
        both: Give the rows and after the last of them all their reverse complements, in order.
        alphabet: Which letters pair.
    """

    def __init__(
        self,
        rows: Dataset,
        p: float = 0.0,
        seed: int = 0,
        both: bool = False,
        alphabet: Alphabet = DNA,
    ):
        self.sequences = rows["sequence"][:]
        self.labels = rows["label"][:]
        self.p = p
        self.seed = seed
        self.both = both
        self.alphabet = alphabet
        # In shared memory: data-loader workers may outlive an epoch, and have to see the next one's
        # number.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.sequences) * (2 if self.both else 1)

    def __getitem__(self, i: int) -> dict:
        if self.both and i >= len(self.sequences):
            i -= len(self.sequences)
            return {
                "sequence": reverse_complement(self.sequences[i], self.alphabet),
                "label": self.labels[i],
            }
        sequence = self.sequences[i]
        if self.p and np.random.default_rng((self.seed, int(self.epoch), i)).random() < self.p:
            sequence = reverse_complement(sequence, self.alphabet)
        return {"sequence": sequence, "label": self.labels[i]}


class SetEpoch(TrainerCallback):
    """Set the `epoch` of the training rows when an epoch begins."""

    def __init__(self, rows: StrandedRows):
        self.rows = rows

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.rows.epoch.fill_(int(state.epoch or 0))


class SequenceCollator:
    """Tokenize a batch and pad it to its longest sequence.

    Labels are numbers (classes, regression), lists of 0 and 1 or arrays of them (multi-label).
    """

    def __init__(self, tokenizer: HyenaDNATokenizer, problem_type: str, truncation: bool = False):
        self.tokenizer = tokenizer
        self.truncation = truncation
        self.dtype = _LABEL_DTYPE[problem_type]

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        sequences = [row["sequence"] for row in rows]
        batch = self.tokenizer(sequences, padding=True, truncation=self.truncation, return_tensors="pt")
        labels = np.array([row["label"] for row in rows])
        return {**batch, "labels": torch.tensor(labels, dtype=self.dtype)}


def read_data(args: RowsArguments, data: Dataset | DatasetDict | LabelledData | None = None) -> LabelledData:
    """Read and check what the settings name, or `data` instead of `args.data`."""
    if isinstance(data, LabelledData):
        return data
    source = args.data if data is None else data
    if source is None:
        raise InputError(
            "no data: say --data FILE (csv, tsv, parquet, FASTA), a folder or the id of a data set"
        )
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
        alphabet=alphabet_of(args),
    )


def check_rows_fit(data: LabelledData, max_seq_len: int, n_special: int, from_scratch: bool) -> None:
    """Raise `InputError` if a sequence and its special tokens are too long for the model."""
    for part, rows in data.parts.items():
        lengths = np.array([data.alphabet.count(sequence) for sequence in rows["sequence"]]) + n_special
        too_long = np.flatnonzero(lengths > max_seq_len)
        if len(too_long):
            first = int(too_long[0])
            longer = f"--max_seq_len {lengths.max()}"
            if not from_scratch:
                longer = (
                    "--model with a checkpoint of a larger max_seq_len, --model none --max_seq_len "
                    f"{lengths.max()} to start from scratch,"
                )
            raise InputError(
                f"row {rows[first]['row']} of the {part} rows has {lengths[first]} tokens, but "
                f"max_seq_len of the model is {max_seq_len}; {len(too_long)} of {len(rows)} rows are "
                f"too long. Use {longer} or --truncation"
            )


def settings_of(args: Any, data: LabelledData) -> dict:
    """Return what decides a result: the settings, and a digest of sequences and labels."""
    digest = data.digest
    if digest is None:
        content = Fingerprint()
        for part, rows in data.parts.items():
            content.add(part)
            for sequence, label in zip(rows["sequence"], rows["label"], strict=True):
                content.add(f"{sequence}\t{label}\n")
        digest = content.text
    return {**result_settings(args), "data_sha256": digest}


def majority_share(data: LabelledData, part: str) -> float:
    """Return the accuracy on a part of always guessing its most frequent class."""
    counts = np.bincount(np.array(data.parts[part]["label"][:]))
    return float(counts.max() / counts.sum())


def tested_part(data: LabelledData) -> str:
    """Return the part that is reported: the test part, or the validation part if there is none."""
    return "test" if "test" in data.parts else "validation"


# ----------------------------------------------------------------------------------- the classifier


def make_classifier(
    args: Any, problem_type: str, label_names: list[str]
) -> tuple[HyenaDNAForSequenceClassification, HyenaDNATokenizer]:
    """Make a classifier or regression and its tokenizer, from scratch or from `args.model`.

    Raises:
        InputError: The checkpoint cannot be loaded, is of another architecture, or conflicts with
            the settings.
    """
    labels = {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: i for i, name in enumerate(label_names)},
        "problem_type": problem_type,
    }
    model, checkpoint_config = make_model(
        HyenaDNAForSequenceClassification, args, {**labels, **given(args, ("pooling",))}, new="score."
    )
    if checkpoint_config is None:
        tokenizer = HyenaDNATokenizer(
            add_eos_token=args.add_special_tokens,
            alphabet=model.config.alphabet,
            complement=model.config.complement,
        )
    else:
        is_classifier = "HyenaDNAForSequenceClassification" in (checkpoint_config.architectures or [])
        if not (is_classifier and checkpoint_config.label2id == labels["label2id"]):
            _reset_head(model)
        tokenizer = load_tokenizer(args.model, add_eos_token=args.add_special_tokens)
    tokenizer.model_max_length = model.config.max_seq_len
    if getattr(args, "freeze_backbone", False):
        model.base_model.requires_grad_(False)
    return model, tokenizer


def _reset_head(model: HyenaDNAForSequenceClassification) -> None:
    """Start the head anew.

    One of the same shape for other labels would start from what it learned about those.
    """
    nn.init.normal_(model.score.weight, std=model.config.initializer_range)
    if model.score.bias is not None:
        nn.init.zeros_(model.score.bias)


def classifier_for_trainer(args: ClassifierArguments, labelled: LabelledData) -> dict:
    """Make `Trainer`'s arguments for a classifier or regression; see `train_and_test`."""
    model, tokenizer = make_classifier(args, labelled.problem_type, labelled.label_names)
    if not args.truncation:
        check_rows_fit(labelled, model.config.max_seq_len, int(args.add_special_tokens), args.model is None)
    if args.lora_rank:
        from .adapters import add_lora  # peft is slow to import

        model = add_lora(model, args.lora_rank)
    return {
        "model": model,
        "processing_class": tokenizer,
        "data_collator": SequenceCollator(tokenizer, labelled.problem_type, args.truncation),
        "compute_metrics": make_compute_metrics(labelled.problem_type),
    }


def make_weighted_loss(labels: np.ndarray, n_labels: int) -> Callable:
    """Return a cross-entropy in which all classes have the same total weight, 1 on average."""
    # n / (classes * n_c): the rows of each class weigh n / classes together, and all rows weigh n.
    counts = np.bincount(labels, minlength=n_labels)
    weight = torch.tensor(len(labels) / (n_labels * counts), dtype=torch.float32)

    def weighted_loss(outputs, labels, num_items_in_batch=None):
        logits = outputs.logits.float()
        total = nn.functional.cross_entropy(logits, labels, weight=weight.to(logits.device), reduction="sum")
        # With accumulated batches, Trainer hands in the number of rows of the whole optimizer step.
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return weighted_loss


# ------------------------------------------------------------------------------------------ the run


@dataclass(frozen=True)
class Comparison:
    """What simple models say about the same rows before a training, and of its result.

    Attributes:
        strands: How the run reads the strands.
        results: Entries of `metrics.json`.
        verdict: Says how the trained model's metrics compare; called with those of all parts and the
            name of the tested one.
    """

    strands: Strands
    results: dict[str, Any] = field(default_factory=dict)
    verdict: Callable[[dict[str, dict], str], str] | None = None


def _by_settings(args: SupervisedArguments, labelled: LabelledData, output: Path) -> Comparison:
    """Compare with nothing, and read the strands as the settings say."""
    return Comparison(Strands(args.reverse_complement, args.test_time_averaging))


@one_writer
def train_and_test(
    args: SupervisedArguments,
    data: Dataset | DatasetDict | LabelledData | None,
    prepare: Callable[[Any, LabelledData], dict],
    compare: Callable[[Any, LabelledData, Path], Comparison] | None = None,
) -> RunResult:
    """Read and check the data, train, evaluate and save, for every supervised recipe.

    Args:
        args: All settings.
        data: A `datasets` object or checked data instead of `args.data`.
        prepare: Makes arguments of `Trainer` from the settings and the data: the model, its
            tokenizer as `processing_class`, and what depends on them. Predictions have to be logits
            `(rows, labels)`. A `train_dataset` of its own has an `epoch`, like `StrandedRows`.
        compare: Fits simple models on the same rows, and chooses the strands; see `Comparison`.
            Without it the settings choose them.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used; nothing was
            written then.
    """
    output = Path(args.output_dir)
    is_main = args.process_index == 0

    # Everything that may refuse the run comes before the first file is written.
    labelled = read_data(args, data)
    _check_problem(args, labelled)
    settings = settings_of(args, labelled)
    if is_main:
        check_output_folder(output, settings, args.resume, settings_not_compared(args))
    finished = finished_results(output)
    if finished is not None:
        return _load_finished(output, finished)

    prepared = prepare(args, labelled)
    check_alphabet(labelled.alphabet, prepared["model"].config)
    if is_main:
        print(count_table(labelled))
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / SETTINGS_FILE, settings)

    comparison = (compare or _by_settings)(args, labelled, output)
    trainer = _make_trainer(args, labelled, prepared, comparison.strands)
    cost = _train(trainer, output, args.resume)
    if comparison.strands.average:  # `_predict` averages the strands itself
        trainer.compute_metrics = prepared["compute_metrics"]
    metrics, probability = _evaluate(trainer, comparison.strands, labelled)
    # every process takes part in this and in the predictions above
    trainer.save_model(args.output_dir)
    result = RunResult({"metrics": metrics}, trainer.model, prepared["processing_class"])
    if not is_main:
        return result

    trainer.save_run(output)
    tested = tested_part(labelled)
    _write_predictions(output, labelled, tested, probability[tested])
    result.results |= {
        "predictions_of": tested,
        **_about(labelled),
        **_sizes(prepared["model"]),
        "best_checkpoint": _name_of(trainer.state.best_model_checkpoint),
        **cost,
        "hardware": hardware(args.device, args.world_size),
        "versions": versions(),
        "settings": settings,
        **comparison.results,
    }
    # last: its presence says that the run is finished
    write_json(output / METRICS_FILE, result.results)
    _print_metrics(metrics, tested, output)
    if labelled.problem_type == SINGLE_LABEL:
        print(f"always guessing the most frequent class: accuracy {majority_share(labelled, tested):.4f}")
    if comparison.verdict is not None:
        print(comparison.verdict(metrics, tested))
    return result


def _train(trainer: HyenaDNATrainer, output: Path, resume: bool) -> dict:
    """Train; return the checkpoint it was resumed from and the seconds it took."""
    checkpoint = None
    if resume:
        checkpoint = last_complete_checkpoint(output)
    start = time.monotonic()
    cpu_start = time.process_time()
    with saying_how_to_go_on(output):
        trainer.train(resume_from_checkpoint=checkpoint)
    return {
        "resumed_from": _name_of(checkpoint),
        "train_seconds": round(time.monotonic() - start, 1),
        # on a busy machine the fairer one
        "train_cpu_seconds": round(time.process_time() - cpu_start, 1),
    }


def _print_metrics(metrics: dict[str, dict], tested: str, output: Path) -> None:
    for part, values in metrics.items():
        print(f"{part:>12}: " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    print(f"model, tokenizer, metrics.json, predictions.csv ({tested}) are in {output}")


def _check_problem(args: SupervisedArguments, labelled: LabelledData) -> None:
    """Refuse what does not fit the problem, and choose the metric of the best checkpoint."""
    is_single = labelled.problem_type == SINGLE_LABEL
    check_strand_settings(args, labelled.alphabet)
    for name in ("class_weights", "label_smoothing_factor"):
        if getattr(args, name, None) and not is_single:
            raise InputError(f"{name} is for single labels, but the problem is {labelled.problem_type}")
    if args.metric_for_best_model == "auto":
        args.metric_for_best_model = "mcc" if is_single else "loss"
        args.greater_is_better = is_single


def _make_trainer(
    args: SupervisedArguments, labelled: LabelledData, prepared: dict, strands: Strands
) -> HyenaDNATrainer:
    train = labelled.parts["train"]
    rows = prepared.get("train_dataset")
    if rows is None:
        rows = StrandedRows(train, strands.flip, args.seed, alphabet=labelled.alphabet)
    options = {**prepared, "train_dataset": rows}
    options["eval_dataset"] = StrandedRows(
        labelled.parts["validation"], both=strands.average, alphabet=labelled.alphabet
    )
    if strands.average:
        options["compute_metrics"] = mean_of_strands(prepared["compute_metrics"])
    if getattr(args, "class_weights", False):
        options["compute_loss_func"] = make_weighted_loss(
            np.array(train["label"][:]), len(labelled.label_names)
        )

    trainer = HyenaDNATrainer(**options, args=args)
    trainer.add_callback(SetEpoch(rows))
    if args.patience:
        trainer.add_callback(EarlyStoppingCallback(args.patience))
    return trainer


def _evaluate(
    trainer: HyenaDNATrainer, strands: Strands, labelled: LabelledData
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Return the metrics and probabilities `(rows, labels)` of validation and test part."""
    metrics = {}
    probability = {}
    for part in ("validation", "test"):
        if part in labelled.parts:
            metrics[part], logits = _predict(trainer, labelled, part, strands)
            probability[part] = probabilities(logits, labelled.problem_type)
    return metrics, probability


def _predict(
    trainer: HyenaDNATrainer, labelled: LabelledData, part: str, strands: Strands
) -> tuple[dict[str, float], np.ndarray]:
    """Return metrics and logits `(rows, labels)`; of both strands, the means of their logits."""
    # Timings are left out: `metrics.json` of a resumed run equals that of an uninterrupted one.
    rows = labelled.parts[part]
    forward = trainer.predict(StrandedRows(rows), metric_key_prefix=part)
    keys = [key for key in forward.metrics if not key.endswith(("_runtime", "_per_second"))]
    metrics = {key.removeprefix(f"{part}_"): forward.metrics[key] for key in keys}
    if not strands.average_at_end:
        return metrics, forward.predictions
    # DNA has two strands, and a label belongs to both. Averaging the logits of a strand and its
    # reverse complement makes the prediction the same whichever of them is given.
    other_strand = StrandedRows(rows, p=1.0, alphabet=labelled.alphabet)
    reverse = trainer.predict(other_strand, metric_key_prefix=part)
    logits = (forward.predictions + reverse.predictions) / 2
    averaged = trainer.compute_metrics(EvalPrediction(predictions=logits, label_ids=forward.label_ids))
    losses = {"loss_forward_strand": metrics["loss"]}
    if strands.average:  # the loss by which the best checkpoint was chosen
        losses["loss"] = (metrics["loss"] + reverse.metrics[f"{part}_loss"]) / 2
    return {**losses, **averaged}, logits


def _about(labelled: LabelledData) -> dict:
    return {
        "problem_type": labelled.problem_type,
        "label_names": labelled.label_names,
        "rows": {part: len(rows) for part, rows in labelled.parts.items()},
    }


def _sizes(model: nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def _name_of(checkpoint: str | None) -> str | None:
    return checkpoint and Path(checkpoint).name


def predictions_table(
    rows: Dataset, probability: np.ndarray, problem_type: str, label_names: list[str]
) -> pd.DataFrame:
    """Return a line per row: `row` in its source, `id`, label, prediction, probabilities.

    Args:
        rows: A part of `LabelledData`.
        probability: Probabilities (for regression: numbers) of shape `(rows, labels)`.
        problem_type: As in `LabelledData`.
        label_names: Likewise.
    """
    table = {name: rows[name][:] for name in ("row", "id") if name in rows.column_names}
    labels = np.array(rows["label"][:])
    predicted = predicted_labels(probability, problem_type)
    if problem_type == REGRESSION:
        return pd.DataFrame({**table, "label": labels, "predicted": predicted})

    if problem_type == SINGLE_LABEL:
        table["label"] = [label_names[i] for i in labels]
        table["predicted"] = [label_names[i] for i in predicted]
    else:
        for i, name in enumerate(label_names):
            table[f"label_{name}"] = labels[:, i].astype(int)
            table[f"predicted_{name}"] = predicted[:, i]
    for i, name in enumerate(label_names):
        table[f"probability_{name}"] = probability[:, i]
    return pd.DataFrame(table)


def _write_predictions(output: Path, data: LabelledData, part: str, probability: np.ndarray) -> None:
    rows = data.parts[part]
    labels = np.array(rows["label"][:])
    if len(data.label_names) > _MOST_COLUMNS:
        arrays = {
            "row": rows["row"][:],
            "label": labels.astype(np.uint8),
            "probability": np.float32(probability),
        }
        write_whole(output / "predictions.npz", lambda path: np.savez_compressed(path, **arrays))
        return

    table = predictions_table(rows, probability, data.problem_type, data.label_names)
    for name in {"id", "label", "predicted"} & set(table):
        if pd.api.types.is_string_dtype(table[name]):  # of a regression, labels are numbers
            table[name] = table[name].map(inert)
    write_whole(output / "predictions.csv", lambda path: table.to_csv(path, index=False))
    if data.problem_type == SINGLE_LABEL:
        predicted = predicted_labels(probability, data.problem_type)
        write_confusion_matrix(output / "confusion_matrix.png", labels, predicted, data.label_names)


def _load_finished(output: Path, results: dict) -> RunResult:
    if (output / "adapter_config.json").exists():
        from .adapters import load_adapted

        model = load_adapted(output)
    else:
        model, _ = load_checkpoint(HyenaDNAForSequenceClassification, str(output), {})
    return RunResult(results, model, load_tokenizer(str(output)))
