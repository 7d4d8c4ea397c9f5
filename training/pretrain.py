"""Pretrain HyenaDNA on genomes: `hyenadna pretrain`.

    hyenadna pretrain --data hg38.fa --validation chr8 --test chr20 chr21:0-20,000,000  # whole, tiled
    hyenadna pretrain --data hg38.fa --bed sequences.bed  # intervals, with splits
    hyenadna pretrain --data human.fa mouse.fa.gz --weights 1 0.5 --reverse_complement 0.5  # several species
    hyenadna pretrain --data hg38.fa --bed classes.bed --class_weights exon=4 repeat=0.1  # by class
    hyenadna pretrain --data hg38.fa --output_dir pretrained --resume  # go on after a kill
    hyenadna pretrain --data proteins.fa --alphabet protein  # other letters than those of DNA
    accelerate launch -m hyenadna pretrain --data hg38.fa  # on several devices

Every position predicts the next base (arXiv 2306.15794): cross-entropy over all rows of the
vocabulary, on windows that end in `[SEP]`. N and pads are not targets. The optimisation is in
`runs/trainer.py`.

The reported perplexity is per base: exp of the mean loss on A, C, G and T, without `[SEP]`. Only
the training log differs: there it is exp of the training loss, `[SEP]` included.

Did the network learn more than k-mers? Markov models of order 0 to 8 answer that: they are fitted
on the same training bases and measured on the same targets (`runs/markov.py`).

The output folder holds the model and its tokenizer, `metrics.json`, `markov.json`,
`trainer_state.json` with the whole curve, and the last checkpoints.
"""

import itertools
import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import EvalPrediction, TrainerCallback

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError, read_json
from hyenadna.genomics.fasta import SequenceFile, open_genomes
from hyenadna.genomics.held_out import split_windows
from hyenadna.genomics.intervals import Intervals, class_weights
from hyenadna.genomics.letters import SEP, SOFT_MASKED, is_exact
from hyenadna.genomics.windows import WindowCollator, WindowDataset, WindowSampler
from hyenadna.tokenization import Alphabet, HyenaDNATokenizer
from hyenadna.training.runs.checkpoints import last_complete_checkpoint, remove_old_checkpoints
from hyenadna.training.runs.files import write_json
from hyenadna.training.runs.folder import (
    METRICS_FILE,
    SETTINGS_FILE,
    Fingerprint,
    check_output_folder,
    finished_results,
    one_writer,
    saying_how_to_go_on,
    versions,
)
from hyenadna.training.runs.markov import ContextCounts, MarkovModels, count_contexts, highest_order
from hyenadna.training.runs.models import (
    RunResult,
    ScratchArguments,
    alphabet_of,
    load_checkpoint,
    make_model,
    new_tokenizer,
)
from hyenadna.training.runs.settings import (
    SHOWN_OF_TRAINING,
    parse_settings,
    result_settings,
    say_next,
    setting,
    settings_not_compared,
)
from hyenadna.training.runs.strands import check_strand_settings
from hyenadna.training.runs.trainer import HyenaDNATrainer, RecipeArguments

MARKOV_FILE = "markov.json"
_STAGING = ".unfinished"  # holds a checkpoint until it is complete
_SHORTEST_STAGE = 64  # bases; the first stage of the paper's warm-up of the sequence length


@dataclass
class PretrainArguments(ScratchArguments, RecipeArguments):
    """Settings of `hyenadna pretrain`, beside those of `transformers.TrainingArguments`."""

    SHOWN: ClassVar = {
        "your data": ("data", "validation", "test", "bed", "weights", "soft_masked", "reverse_complement"),
        "the model": ("model", "d_model", "n_layer", "max_seq_len", "window"),
        "training": ("max_steps", *SHOWN_OF_TRAINING, "gradient_accumulation_steps", "length_warmup_steps"),
        "the run": ("output_dir", "resume", "eval_steps", "save_steps", "markov_order"),
    }
    EXAMPLE: ClassVar = "hyenadna pretrain --data hg38.fa --validation chr8 --output_dir pretrained"
    NEXT: ClassVar = {
        "hyenadna finetune --model {output_dir} --data LABELLED.csv": "a classifier from this model",
        "hyenadna score --model {output_dir} --data NEW.fa --output scores.tsv": "likelihoods",
        "hyenadna export {output_dir} {output_dir}-hub": "a folder to publish, with a card",
    }

    # data
    data: list[str] = setting(
        [], "FASTA files (plain or bgzip), .txt (a sequence a line), csv, parquet.", compared=False
    )
    weights: list[float] = setting(
        [], "How often each file's windows come in an epoch (1); .5: about every 2nd."
    )
    bed: list[str] = setting(
        [],
        "A BED file for each data file, with a split as 4th column or without; else all is tiled.",
        compared=False,
    )
    bed_windows: str = setting(
        "centre", "centre: one window around each interval's centre; tile: cut it into windows."
    )
    validation: list[str] = setting(
        [], "Held-out chromosomes, regions such as chr20:0-5,000,000 (0-based, half-open) or .bed files."
    )
    test: list[str] = setting([], "The same for the test part.")
    validation_fraction: float = setting(
        0.05, "Last bases of each file to validate on where no validation is given."
    )
    sequence_column: str = setting(
        "sequence", "Column of csv and parquet files; a column split may name the part."
    )
    window: int | None = setting(None, "Bases in a window (max_seq_len - 2, as published: 1024 of 1026).")
    min_window: int | None = setting(
        None,
        "Each training step draws the length of its windows, from this one to window; else all are window.",
    )
    class_weights: list[str] = setting(
        [],
        "How often windows of a BED class come in an epoch: exon=4 repeat=0.1 (others 1). The class is "
        "the 4th column, or the 5th if the 4th names splits.",
    )
    soft_masked: str = setting(
        "keep",
        "keep: lower case counts as upper case; ignore: it is no target of the loss; a number between 0 "
        "and 1: its weight in the training loss alone.",
    )
    reverse_complement: float = setting(0.0, "Probability to train on a window's other strand.")
    # training
    length_warmup_steps: float = setting(
        0.0, "Steps with shorter sequences; below 1, a fraction of all steps."
    )
    length_warmup_stages: list[int] = setting(
        [], "Their lengths in bases, equally long stages (64, doubled up to window)."
    )
    markov_order: int = setting(
        8, "Highest order of the Markov models to compare with; 0 for none. Of proteins 3 at most."
    )
    eval_windows: int = setting(
        512, "Validation windows, evenly spaced, for evaluations on the way; at the end: all.", compared=False
    )
    # Defaults that differ from those of Transformers. A resumed run must have the same rows per
    # step (`rows_per_step`), but may divide them otherwise over devices and batches.
    output_dir: str = setting(
        "hyenadna-pretrained", "Folder for everything that the run writes.", decides=False
    )
    num_train_epochs: float = setting(1.0, "Passes over the training windows; max_steps overrides it.")
    per_device_train_batch_size: int = setting(64, "Windows in a batch on each device.", compared=False)
    per_device_eval_batch_size: int = setting(
        64, "Windows in a batch on each device for evaluation.", decides=False
    )
    gradient_accumulation_steps: int = setting(
        1, "Batches on each device in an optimizer step.", compared=False
    )
    eval_strategy: str = setting("steps", "When to evaluate.", decides=False)
    eval_steps: float = setting(500, "Steps between evaluations.", decides=False)
    save_strategy: str = setting(
        "steps", "When to save a checkpoint, from which the run can resume.", decides=False
    )
    save_steps: float = setting(500, "Steps between checkpoints.", decides=False)
    save_total_limit: int = setting(
        2, "Checkpoints to keep: should the last one break, there is the one before.", decides=False
    )
    logging_steps: float = setting(50, "Steps between lines of the log.", decides=False)
    include_num_input_tokens_seen: str = setting(
        "non_padding", "Which tokens are counted; needed for the speed.", decides=False
    )

    def __post_init__(self):
        super().__post_init__()
        self.check_training()
        if not 0 <= self.reverse_complement <= 1:
            raise InputError(f"reverse_complement is {self.reverse_complement}; it is a probability, 0 to 1")
        # Read now, because they raise an error for text that they cannot read.
        _ = self.soft_masked_weight
        _ = self.weight_of_class
        if self.class_weights and not self.bed:
            raise InputError(
                "class_weights needs bed: a column of the BED files names the class of each interval"
            )
        if self.min_window is not None and self.min_window < 1:
            raise InputError(f"min_window is {self.min_window}; it must be at least 1")
        if self.weights and (
            len(self.weights) != len(self.data) or not all(weight > 0 for weight in self.weights)
        ):
            raise InputError(
                f"weights are {self.weights} for {len(self.data)} files; give a positive one for each"
            )
        if not 0 <= self.markov_order <= 10:
            raise InputError(
                f"markov_order is {self.markov_order}; it must lie between 0 and 10 (each further "
                "order takes four times the memory)"
            )
        if self.eval_windows < 1:
            raise InputError(f"eval_windows is {self.eval_windows}; it must be at least 1")
        if self.length_warmup_steps < 0:
            raise InputError(f"length_warmup_steps is {self.length_warmup_steps}; it must not be negative")
        # What follows are settings of Trainer that would change what the results mean.
        if self.label_smoothing_factor:
            raise InputError(
                "label_smoothing_factor cannot be used here: the perplexity would be that of other labels"
            )
        if self.load_best_model_at_end or self.save_strategy == "best":
            raise InputError(
                "load_best_model_at_end and save_strategy 'best' cannot be used here: the result is the "
                "model at the end of the run, and the last checkpoints are kept; leave them out"
            )
        if self.include_num_input_tokens_seen == "no":
            raise InputError(
                "include_num_input_tokens_seen is 'no'; without the tokens there is no speed to report"
            )

    @property
    def soft_masked_weight(self) -> float:
        """Weight of lower-case bases in the loss, 0 to 1."""
        named = {"keep": 1.0, "ignore": 0.0}
        if self.soft_masked in named:
            return named[self.soft_masked]
        try:
            weight = float(self.soft_masked)
        except ValueError:
            weight = math.nan
        if not 0 <= weight <= 1:
            raise InputError(
                f"soft_masked is {self.soft_masked!r}; use 'keep', 'ignore' or a weight between 0 and 1"
            )
        return weight

    @property
    def weight_of_class(self) -> dict[str, float]:
        """Weights of the BED classes by name."""
        weights = {}
        for pair in self.class_weights:
            # From the right: the name of a class may contain a `=`.
            name, _, number = pair.rpartition("=")
            try:
                weight = float(number)
            except ValueError:
                weight = math.nan
            if not name or not 0 < weight < math.inf:
                raise InputError(
                    f"class_weights has {pair!r}; expected a class and a positive weight, such as exon=4"
                )
            if name in weights:
                raise InputError(f"class_weights names the class {name!r} twice; give it one weight")
            weights[name] = weight
        return weights


def length_stages(window: int, steps: int, lengths: list[int]) -> list[tuple[int, int]]:
    """Return the stages of a length warm-up: (first optimizer step, length in bases).

    Args:
        window: The length after the warm-up, in bases.
        steps: The optimizer steps of the whole warm-up, divided equally among the stages.
        lengths: The lengths of the stages in bases. If empty: 64 and its doubles below `window`
            (arXiv 2306.15794, section 3.2).

    Raises:
        InputError: The lengths do not rise, or there are more stages than steps.

    >>> length_stages(256, 10, [])
    [(0, 64), (5, 128), (10, 256)]
    """
    if not steps:
        return []
    if not lengths:
        length = _SHORTEST_STAGE
        while length < window:
            lengths = [*lengths, length]
            length *= 2
    rising = all(shorter < longer for shorter, longer in itertools.pairwise([0, *lengths, window]))
    if not lengths or not rising:
        raise InputError(
            f"length_warmup_stages are {lengths}; they must increase and stay below the window of {window}"
        )
    if steps < len(lengths):
        raise InputError(f"a warm-up of {steps} steps is too short for the {len(lengths)} lengths {lengths}")
    # Stage i starts at the i-th part of the warm-up, rounded down; the last ends at `steps`.
    stages = [(i * steps // len(lengths), length) for i, length in enumerate(lengths)]
    return [*stages, (steps, window)]


# ------------------------------------------------------------------------------------------ Trainer


class PretrainTrainer(HyenaDNATrainer):
    """A `HyenaDNATrainer` that samples windows and logs perplexity and speed."""

    def __init__(self, *args, sampler: WindowSampler, markov: dict[str, float], **kwargs):
        # Made before `super`, which takes it as a callback. The accelerator exists only after.
        self.progress = _Progress(sampler)
        super().__init__(*args, compute_metrics=_per_base, callbacks=[self.progress], **kwargs)
        self.progress.accelerator = self.accelerator
        self.sampler = sampler
        self.markov = markov  # prefix of the evaluation -> the best perplexity of a Markov model
        # For the speed: when the last line was logged, after how many tokens, and the seconds that
        # evaluations have taken since.
        self._logged_at = None
        self._logged_tokens = 0
        self._paused = 0.0

    def _get_train_sampler(self, train_dataset=None) -> WindowSampler:
        # Trainer would shuffle rows. Ours also draws strands and lengths, and survives resuming.
        return self.sampler

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        """Return the targets of an optimizer step, or the sum of their weights if they have any."""
        if not batch_samples or "loss_weights" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        # Without column 0: the first token of a row is no target.
        total = sum(batch["loss_weights"][:, 1:].sum() for batch in batch_samples).to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the mean loss, weighted by `loss_weights` `(batch, length)` if there are any."""
        if "loss_weights" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(input_ids=inputs["input_ids"])
        nats = _nats(outputs.logits, inputs["labels"][:, 1:])
        weights = inputs["loss_weights"][:, 1:]

        # With gradient accumulation, divide by the total of the whole optimizer step: dividing each
        # batch by its own would weigh its bases differently.
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (nats * weights).sum() / total
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The total covers all processes, but their gradients are averaged, not summed.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return the summed loss and the number of bases of each row, both `(batch,)`.

        Trainer would keep all logits in memory, and average over batches instead of bases.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(input_ids=inputs["input_ids"]).logits
        # The perplexity is per base: [SEP] is learned but not measured.
        labels = inputs["labels"][:, 1:]
        labels = labels.masked_fill(labels == SEP, -100)
        nats = _nats(logits, labels)
        return None, nats.sum(dim=1, dtype=torch.float64), (labels != -100).sum(dim=1)

    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        # Remember how long it took, so that `log` can leave it out of the speed.
        start = time.monotonic()
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._paused += time.monotonic() - start
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the perplexity, and the tokens per second and process since the last line.

        The time of evaluations does not count.
        """
        now = time.monotonic()
        tokens = self.state.num_input_tokens_seen
        if "loss" in logs:
            logs["perplexity"] = math.exp(min(logs["loss"], 100.0))  # exp(710) overflows
            if self._logged_at is not None:
                seconds = now - self._logged_at - self._paused
                logs["tokens_per_second"] = round(
                    (tokens - self._logged_tokens) / seconds / self.args.world_size
                )
            self._logged_at = now
            self._logged_tokens = tokens
            self._paused = 0.0
            logs["length"] = self.sampler.length_at(self.state.global_step - 1)
            logs["seconds"] = round(self.progress.seconds, 1)
        # Beside the perplexity of an evaluation, that of the best Markov model on the same part.
        for prefix, perplexity in self.markov.items():
            if f"{prefix}_perplexity" in logs:
                logs[f"{prefix}_markov_perplexity"] = perplexity
        super().log(logs)

    def _save_checkpoint(self, model, trial) -> None:
        """Write the checkpoint into a hidden folder, then rename it.

        Trainer writes it in place: a full disk would leave half a checkpoint under its final name.
        """
        output = Path(self.args.output_dir)
        staging = output / _STAGING
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        # No process may write before the folder is empty, or rename before all have written.
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        except Exception:  # a full disk: Python raises OSError, PyTorch RuntimeError
            shutil.rmtree(staging, ignore_errors=True)
            kept = last_complete_checkpoint(output)
            print(
                f"The checkpoint of step {self.state.global_step} cannot be written. There is "
                f"{kept or 'none yet'}; when there is space again, the same command with --resume goes on."
            )
            raise
        finally:
            self.args.output_dir = str(output)
        self.accelerator.wait_for_everyone()
        if self.args.should_save and staging.exists():
            for checkpoint in staging.glob("checkpoint-*"):
                final = output / checkpoint.name
                shutil.rmtree(final, ignore_errors=True)  # an incomplete one of an earlier session
                checkpoint.rename(final)
                remove_old_checkpoints(final, self._checkpoints_to_keep, best=None)
            staging.rmdir()
        self.accelerator.wait_for_everyone()


def _nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return -log p of each next label in nats, `(batch, length - 1)`; 0 for a label of -100."""
    # `cross_entropy` wants the classes in the second dimension.
    return cross_entropy(logits[:, :-1].float().transpose(1, 2), labels, ignore_index=-100, reduction="none")


def _per_base(output: EvalPrediction) -> dict[str, float]:
    """Return the metrics of an evaluation from what `prediction_step` returned."""
    # A mean over bases, not over windows: a short window must not count as much as a long one.
    nats = float(output.predictions.sum())
    bases = int(output.label_ids.sum())
    loss = nats / bases if bases else float("nan")
    return {"loss": loss, "perplexity": math.exp(loss), "bases": bases}


class _Progress(TrainerCallback):
    """Set the sampler's epoch, add up the seconds of all sessions, and stop after SIGTERM."""

    def __init__(self, sampler: WindowSampler):
        self.sampler = sampler
        self.before = 0.0  # seconds of all sessions that are over
        self.start = None
        self.stopped = False
        self.accelerator = None  # set by the trainer

    @property
    def seconds(self) -> float:
        if self.start is None:
            return self.before
        return self.before + time.monotonic() - self.start

    def on_train_begin(self, args, state, control, **kwargs):
        # The log of a resumed run holds the seconds of the earlier sessions.
        self.before = max((line.get("seconds", 0.0) for line in state.log_history), default=0.0)
        self.start = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.before = self.seconds
        self.start = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        # From the step, not by counting: a resumed run begins in the middle of its epoch.
        self.sampler.epoch = state.global_step // self.sampler.steps_per_epoch

    def on_step_end(self, args, state, control, **kwargs):
        # SIGTERM may reach one process only, or all of them at different steps. They must stop at
        # the same step, or they would wait for each other forever.
        if self.stopped:
            self.accelerator.set_trigger()
        self.stopped = self.accelerator.check_trigger()
        if self.stopped:
            control.should_save = True
            control.should_training_stop = True

    @contextmanager
    def stopping_at_sigterm(self) -> Iterator[None]:
        """On SIGTERM, save a checkpoint and end the training after the current step."""

        def stop(*_) -> None:
            self.stopped = True

        # Only a flag: a signal may come in the middle of a step, where nothing can be saved.
        earlier = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, earlier)


# ------------------------------------------------------------------------------------ Markov models


def _contexts(
    dataset: WindowDataset,
    rows: np.ndarray,
    order: int,
    both_strands: bool,
    keep_soft_masked: bool,
    what: str,
) -> ContextCounts:
    """Count the contexts of the bases that the network trains on, or is measured on.

    Args:
        dataset: The windows.
        rows: Which of them.
        order: The highest order of the Markov models.
        both_strands: Count each window on both strands, as training may show either.
        keep_soft_masked: Lower-case bases are targets too.
        what: The part, for the progress bar.
    """
    strands = [False]
    if both_strands:
        strands.append(True)
    # 0, 1, ... for the letters in order, 255 for all other ids.
    exact = is_exact(dataset.genomes[0].alphabet)
    digit_of_id = np.full(2 * SOFT_MASKED, 255, dtype=np.uint8)
    for case in (0, SOFT_MASKED):
        digit_of_id[case + np.flatnonzero(exact)] = np.arange(exact.sum())

    # Batches of about half a million bases, to bound the memory at any length of window.
    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = max(1, 2**19 // dataset.window)
        for i in tqdm(range(0, len(rows), size), desc=f"counting k-mers, {what}", leave=False, mininterval=2):
            for flip in strands:
                items = [(row, dataset.window, flip) for row in rows[i : i + size].tolist()]
                # Without the last column, which holds [SEP] or pads.
                ids = dataset.__getitems__(items)[:, :-1]
                bases = digit_of_id[ids]
                if keep_soft_masked:
                    targets = np.ones_like(bases, dtype=bool)
                else:
                    targets = ids < SOFT_MASKED
                yield bases, targets

    return count_contexts(batches(), order, int(exact.sum()))


def fit_markov(args: PretrainArguments, datasets: dict[str, WindowDataset]) -> dict:
    """Fit Markov models on the training windows and measure them on the other parts.

    Returns:
        `strengths`, `training_bases`, and for each other part a dict of its `bases` and its
        `perplexity` by order: `{"0": 3.98, "1": 3.95, ...}`.
    """
    keep = args.soft_masked_weight > 0
    both_strands = args.reverse_complement > 0
    train = datasets["train"]
    letters = int(is_exact(train.genomes[0].alphabet).sum())
    order = min(args.markov_order, highest_order(letters))
    # `MarkovModels` tunes itself on one half against the other. Every second window, so that both
    # halves come from all over the genome.
    halves = [
        _contexts(train, np.arange(half, len(train), 2), order, both_strands, keep, "train")
        for half in range(2)
    ]
    models = MarkovModels(*halves)
    result = {"strengths": models.strengths, "training_bases": sum(half.targets for half in halves)}
    for part, dataset in datasets.items():
        if part != "train":
            counts = _contexts(dataset, np.arange(len(dataset)), order, False, keep, part)
            perplexity = {str(k): value for k, value in models.perplexity(counts).items()}
            result[part] = {"bases": counts.targets, "perplexity": perplexity}
    return result


# --------------------------------------------------------------------------------------- the recipe


@dataclass
class _Plan:
    """What a run reads, in which order, and for how long.

    Attributes:
        genomes: The data files.
        parts: The windows of each part.
        datasets: The parts, and `eval`, a sample of the validation part.
        sampler: The order of the training windows.
        steps: The optimizer steps of the whole run.
    """

    genomes: list[SequenceFile]
    parts: dict[str, Intervals]
    datasets: dict[str, WindowDataset]
    sampler: WindowSampler
    steps: int


@one_writer
def pretrain(args: PretrainArguments) -> RunResult:
    """Pretrain, evaluate and save.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used. Nothing was
            written.
        SystemExit: SIGTERM was received (status 143). A checkpoint was saved for `--resume`.

    >>> args = PretrainArguments(data=["hg38.fa"], test=["chr20"])          # doctest: +SKIP
    >>> pretrain(args).results["metrics"]["test"]["perplexity"]             # doctest: +SKIP
    """
    if not args.data:
        raise InputError(
            "no data: say --data FILE (FASTA, .txt, csv, tsv or parquet; several files are several species)"
        )
    output = Path(args.output_dir)
    is_main = args.process_index == 0
    alphabet = alphabet_of(args)
    check_strand_settings(args, alphabet)
    model, _ = make_model(HyenaDNAForCausalLM, args)
    tokenizer = new_tokenizer(alphabet, model_max_length=model.config.max_seq_len)
    plan = _plan(args, _window(args, model.config.max_seq_len), alphabet)

    settings = {**result_settings(args), **_fingerprints(plan)}
    settings["rows_per_step"] = plan.sampler.rows_per_step
    if is_main:
        check_output_folder(output, settings, args.resume, settings_not_compared(args))
    # With --resume, a finished run gives its results again.
    finished = finished_results(output)
    if finished is not None:
        trained, _ = load_checkpoint(HyenaDNAForCausalLM, str(output), {})
        return RunResult(finished, trained, tokenizer)
    if is_main:
        _begin(output, settings)
        _print_plan(plan)

    markov = {}
    # The main process counts and writes the file; the others read it.
    if args.markov_order:
        with args.main_process_first(local=False, desc="counting k-mers"):
            markov = _markov(args, output, plan.datasets, settings["data_blake2b"])
    trainer = _make_trainer(args, plan, model, tokenizer, markov)
    checkpoint = last_complete_checkpoint(output) if args.resume else None
    _train(trainer, checkpoint, output)

    metrics = _evaluate(trainer, plan.datasets, markov)
    trainer.save_model(args.output_dir)  # by all processes: with FSDP each has a part of the weights
    result = RunResult({"metrics": metrics}, trainer.model, tokenizer)
    if is_main:
        trainer.save_run(output)
        result.results |= {
            "markov": markov,
            "windows": {part: len(windows) for part, windows in plan.parts.items()},
            **_cost(trainer),
            "resumed_from": checkpoint and Path(checkpoint).name,
            "versions": versions(),
            "settings": settings,
        }
        # Last, because its presence says that the run is finished.
        write_json(output / METRICS_FILE, result.results)
        print(_summary(result.results, output, alphabet.unit))
    return result


def _begin(output: Path, settings: dict) -> None:
    """Make the folder of a run, and write the settings that a resumed run is compared with."""
    output.mkdir(parents=True, exist_ok=True)
    # A run that was killed may have left half a checkpoint.
    shutil.rmtree(output / _STAGING, ignore_errors=True)
    write_json(output / SETTINGS_FILE, settings)


def _window(args: PretrainArguments, max_seq_len: int) -> int:
    """Return the bases in a window, after checking that the window and its [SEP] fit the model."""
    # The default leaves two tokens, as published. The model needs only one, for [SEP].
    window = args.window or max_seq_len - 2
    if window + 1 > max_seq_len:
        raise InputError(
            f"window is {window} bases and [SEP], but max_seq_len of the model is {max_seq_len}; use a "
            f"window of {max_seq_len - 1} at most, or a model with a larger max_seq_len"
        )
    if args.min_window is not None and args.min_window > window:
        raise InputError(f"min_window is {args.min_window}, longer than the window of {window} bases")
    return window


def _plan(args: PretrainArguments, window: int, alphabet: Alphabet) -> _Plan:
    """Open the data, split them into windows, and lay out the training."""
    # The main process goes first and writes the indexes that are missing. The others read them.
    with args.main_process_first(local=False, desc="indexing"):
        genomes = open_genomes(args.data, args.sequence_column, alphabet)
    parts = split_windows(
        genomes,
        window,
        bed=args.bed,
        bed_windows=args.bed_windows,
        validation=args.validation,
        test=args.test,
        validation_fraction=args.validation_fraction,
        ignore_soft_masked=args.soft_masked_weight == 0,
    )
    datasets = {part: WindowDataset(genomes, windows, window) for part, windows in parts.items()}
    # The validation windows are in the order of the genome. Evenly spaced ones miss no region, and
    # every evaluation reads the same.
    sample = np.linspace(0, len(parts["validation"]) - 1, args.eval_windows).round().astype(int)
    datasets["eval"] = WindowDataset(genomes, parts["validation"][np.unique(sample)], window)

    # `max_steps` wins over epochs, as in Trainer.
    sampler = _sampler(args, genomes, parts["train"], window)
    steps = args.max_steps
    if steps <= 0:
        steps = math.ceil(args.num_train_epochs * sampler.steps_per_epoch)
    warmup_steps = args.length_warmup_steps
    if warmup_steps < 1:  # a fraction of all steps
        warmup_steps *= steps
    sampler.stages += length_stages(window, round(warmup_steps), args.length_warmup_stages)
    return _Plan(genomes, parts, datasets, sampler, steps)


def _sampler(
    args: PretrainArguments, genomes: list[SequenceFile], windows: Intervals, window: int
) -> WindowSampler:
    """Return the sampler of the training windows, if every file and class is read at all."""
    weights = args.weights or [1.0] * len(genomes)
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    window_weights = None
    if args.class_weights:
        window_weights = class_weights(windows, args.bed, genomes, args.weight_of_class)
    sampler = WindowSampler(
        windows,
        weights,
        rows_per_step,
        window,
        args.seed,
        args.reverse_complement,
        window_weights=window_weights,
        shortest=args.min_window,
    )
    # A weight so small that it rounds to no window at all is more likely a mistake than a wish.
    for group, count in zip(sampler.groups, sampler.per_epoch, strict=True):
        if len(group.rows) and not count:
            weight = "weight times class weight" if args.class_weights else "weight"
            raise InputError(
                f"{genomes[group.file].path} has {len(group.rows)} training windows and {weight} "
                f"{group.weight:g}: none of them would be read in an epoch. Give it a larger weight, or "
                "leave it out"
            )
    return sampler


def _fingerprints(plan: _Plan) -> dict[str, str]:
    """Return digests of the data: up to each file, then up to the windows of each part.

    They accumulate: if a run is resumed with other data, the first digest that differs names what
    has changed.
    """
    data = Fingerprint("blake2b")
    digests = {}
    for i, genome in enumerate(plan.genomes):
        for piece in genome.pieces():
            data.add(piece)
        digests[f"data_file_{i}_blake2b"] = data.text
    for part, windows in plan.parts.items():
        digests[f"{part}_windows_blake2b"] = data.add(part).add(windows.array()).text
    return {**digests, "data_blake2b": data.text}


def _make_trainer(
    args: PretrainArguments,
    plan: _Plan,
    model: HyenaDNAForCausalLM,
    tokenizer: HyenaDNATokenizer,
    markov: dict,
) -> PretrainTrainer:
    return PretrainTrainer(
        model=model,
        args=args,
        train_dataset=plan.datasets["train"],
        eval_dataset=plan.datasets["eval"],
        processing_class=tokenizer,
        data_collator=WindowCollator(args.soft_masked_weight, plan.genomes[0].alphabet),
        sampler=plan.sampler,
        markov={part: min(markov[part]["perplexity"].values()) for part in plan.datasets if part in markov},
    )


def _train(trainer: PretrainTrainer, checkpoint: str | None, output: Path) -> None:
    """Train to the end. After Ctrl-C or SIGTERM, say how to continue."""
    with trainer.progress.stopping_at_sigterm(), saying_how_to_go_on(output):
        trainer.train(resume_from_checkpoint=checkpoint)
    # 128 + the number of the signal is what a shell reports, so schedulers see a stopped job.
    if trainer.progress.stopped:
        if trainer.args.process_index == 0:
            print(
                f"SIGTERM: saved at step {trainer.state.global_step}. The same command with --resume goes on."
            )
        raise SystemExit(128 + signal.SIGTERM)


def _evaluate(trainer: PretrainTrainer, datasets: dict[str, WindowDataset], markov: dict) -> dict[str, dict]:
    """Evaluate the network on the same bases as the Markov models, and check that they are."""
    metrics = {}
    for part in ("validation", "test"):
        if part not in datasets:
            continue
        measured = trainer.evaluate(datasets[part], metric_key_prefix=part)
        metrics[part] = {name: measured[f"{part}_{name}"] for name in ("loss", "perplexity", "bases")}
        # The two perplexities are compared with each other, so they must be of the same bases.
        if markov and metrics[part]["bases"] != markov[part]["bases"]:
            raise RuntimeError(
                f"{part}: the network was measured on {metrics[part]['bases']} bases, {markov[part]}"
            )
    return metrics


def _cost(trainer: PretrainTrainer) -> dict:
    """Return steps, tokens, speed, time and size of a run for `metrics.json`."""
    # The median over the log, so that a slow start or a pause of the machine does not count.
    speeds = [line["tokens_per_second"] for line in trainer.state.log_history if "tokens_per_second" in line]
    return {
        "steps": trainer.state.global_step,
        "tokens_seen": trainer.state.num_input_tokens_seen,
        "tokens_per_second_per_process": float(np.median(speeds)) if speeds else None,
        "processes": trainer.args.world_size,
        "train_seconds": round(trainer.progress.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
    }


def _print_plan(plan: _Plan) -> None:
    for part, windows in plan.parts.items():
        for file, genome in enumerate(plan.genomes):
            in_file = windows[windows.file == file]
            if len(in_file):
                bases = in_file.lengths.sum()
                unit = genome.alphabet.unit
                print(f"{part:>12}: {len(in_file):>10,} windows, {bases:>14,} {unit}s of {genome.path}")
    sampler = plan.sampler
    print(f"{plan.steps:,} steps of {sampler.rows_per_step} windows, {sampler.steps_per_epoch:,} an epoch")
    if len(sampler.stages) > 1:
        print("lengths: " + ", ".join(f"{length} from step {step}" for step, length in sampler.stages[1:]))


def _markov(args: PretrainArguments, output: Path, datasets: dict[str, WindowDataset], data: str) -> dict:
    """Fit the Markov models, or read the results of an earlier session of this run."""
    # What the counts depend on. If an earlier session had the same, its results are used.
    names = ("markov_order", "reverse_complement", "soft_masked", "eval_windows")
    made_of = {"data": data, **{name: getattr(args, name) for name in names}}
    known = {}
    if (output / MARKOV_FILE).exists():
        with suppress(InputError):  # a damaged one is made again
            known = read_json(output / MARKOV_FILE)
    is_main = args.process_index == 0
    if known.get("made_of") != made_of:
        known = {**fit_markov(args, datasets), "made_of": made_of}
        if is_main:
            write_json(output / MARKOV_FILE, known)
    if is_main:
        print(_markov_table(known))
    return known


def _markov_table(markov: dict) -> str:
    parts = [part for part in ("validation", "test") if part in markov]
    lines = [
        "perplexity of Markov models, order" + "".join(f"{k:>8}" for k in markov[parts[0]]["perplexity"])
    ]
    for part in parts:
        lines.append(
            f"{part:>34}" + "".join(f"{value:8.4f}" for value in markov[part]["perplexity"].values())
        )
    return "\n".join(lines)


def _summary(results: dict, output: Path, unit: str) -> str:
    lines = []
    if results["markov"]:
        lines.append(_markov_table(results["markov"]))
    for part, values in results["metrics"].items():
        line = f"{part}: perplexity {values['perplexity']:.4f} per {unit}, on {values['bases']:,} {unit}s"
        if results["markov"]:
            order, best = min(results["markov"][part]["perplexity"].items(), key=lambda item: item[1])
            line += f"; best Markov model (order {order}): {best:.4f}"
        lines.append(line)
    seconds = (
        f"{results['train_seconds']:,.0f} s, {results['tokens_seen']:,} tokens, {results['steps']:,} steps"
    )
    return "\n".join(
        [
            *lines,
            seconds,
            f"model, tokenizer, metrics.json and the curve (trainer_state.json) are in {output}",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna pretrain` with these arguments (default: those of the command line)."""
    args = parse_settings(PretrainArguments, "pretrain", "Pretrain HyenaDNA on genomes.", argv)
    pretrain(args)
    say_next(args)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
