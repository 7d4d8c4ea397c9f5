"""Classify from labelled examples in the context: `hyenadna few-shot`.

    hyenadna few-shot --data promoters.csv --model pretrained --samples 4 16 64 --shots 1 2
    hyenadna few-shot --data promoters.csv --model pretrained --tuning_steps 0  # in context alone
    hyenadna few-shot few_shot.yaml --resume  # go on with what is missing

The model reads `X1 [SEP] Y1 [SEP] ... X [SEP]`: k sequences with their labels, and a query without.
The next token is the label, one letter for each class (arXiv 2306.15794). A model pretrained on
genomes has never seen this format. So all its weights are first tuned briefly on n samples, with
the loss on the last label only.

A result has seen n labels and no more. The examples in a context are drawn from the n samples, by
turns from each class, and in tuning never include the query. Each (n, k) is repeated with other
samples.

`metrics.json` has every result on the test part (on the validation part if there is none),
`few_shot.md` and `few_shot.png` the means and standard deviations.
"""

import copy
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from matplotlib.figure import Figure
from transformers import set_seed

from hyenadna import HyenaDNAForCausalLM
from hyenadna.errors import InputError, read_json, reading
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData, count_table
from hyenadna.training.runs.files import write_json, write_whole
from hyenadna.training.runs.folder import (
    METRICS_FILE,
    SETTINGS_FILE,
    check_output_folder,
    one_writer,
    versions,
)
from hyenadna.training.runs.language import NextTokenCollator, letters_of_labels
from hyenadna.training.runs.models import BackboneArguments
from hyenadna.training.runs.pictures import draw_accuracy, finish_accuracy, save_figure
from hyenadna.training.runs.settings import (
    parse_settings,
    refuse_unused,
    say_next,
    setting,
    settings_not_compared,
)
from hyenadna.training.runs.supervised import (
    RowsArguments,
    majority_share,
    read_data,
    settings_of,
    tested_part,
)
from hyenadna.training.runs.trainer import HyenaDNATrainer, RecipeArguments
from hyenadna.training.soft_prompt import language_model_for_letters


@dataclass
class FewShotArguments(RowsArguments, BackboneArguments, RecipeArguments):
    """Settings of `hyenadna few-shot`, beside those of `transformers.TrainingArguments`."""

    SHOWN: ClassVar = {
        "your data": ("data", "validation_data", "test_data", "sequence_column", "label_column"),
        "the model": ("model", "label_letters"),
        "the study": ("shots", "samples", "repeats", "tuning_steps"),
        "training": ("learning_rate", "per_device_train_batch_size", "seed", "use_cpu"),
        "the run": ("output_dir", "resume"),
    }
    EXAMPLE: ClassVar = "hyenadna few-shot --model pretrained --data sites.csv"
    NEXT: ClassVar = {
        "hyenadna finetune --model {model} --data {data}": "train on all rows instead",
    }

    shots: list[int] = setting([1, 2, 4], "Numbers k of labelled examples in the context.")
    samples: list[int] = setting([4, 16, 64], "Numbers n of labelled samples to tune on.")
    repeats: int = setting(3, "Repeat each that many times, with other samples.")
    tuning_steps: int = setting(50, "Steps of tuning; 0: none.")
    label_letters: str | None = setting(None, "A letter of ACGTN for each class, in their sorted order.")
    # Defaults that differ from those of Transformers. A tuning is too short for evaluations and
    # checkpoints on the way.
    output_dir: str = setting(
        "hyenadna-few-shot", "Folder for everything that the run writes.", decides=False
    )
    learning_rate: float = setting(1e-4, "Highest learning rate.")
    per_device_train_batch_size: int = setting(16, "Batch size on each device.")
    per_device_eval_batch_size: int = setting(16, "Batch size on each device for evaluation.", decides=False)
    num_train_epochs: float = setting(20.0, "Leave this: tuning_steps is the length of a tuning.")
    save_strategy: str = setting("no", "When to save a checkpoint.", decides=False)
    logging_strategy: str = setting("no", "When to log.", decides=False)

    def __post_init__(self):
        super().__post_init__()
        self.check_rows()
        self.check_training()
        if self.model is None:
            raise InputError("few-shot needs a checkpoint (model): a random model has learned nothing")
        for name, values in (("shots", self.shots), ("samples", self.samples)):
            if not values or min(values) < 1:
                raise InputError(
                    f"{name} is {values}; each must be at least 1 (without examples: hyenadna soft-prompt)"
                )
        if min(self.shots) >= min(self.samples):
            raise InputError(
                f"{min(self.shots)} shots with {min(self.samples)} samples: the query is one of the "
                "samples and never its own example, so there must be more samples than shots"
            )
        if self.repeats < 1:
            raise InputError(f"repeats is {self.repeats}; it must be at least 1")
        if self.tuning_steps < 0:
            raise InputError(f"tuning_steps is {self.tuning_steps}; it must be at least 0")
        refuse_unused(self, ("label_smoothing_factor", "num_train_epochs", "max_steps"), "few-shot")


def draw_samples(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `n` row numbers, by turns from each class in a random order.

    Args:
        labels: Class indices `(rows,)`.
        n: At least one for each class.
        rng: The source of randomness.

    Raises:
        InputError: There are too few rows, or fewer samples than classes.
    """
    classes = np.unique(labels)
    if not len(classes) <= n <= len(labels):
        raise InputError(
            f"{n} samples of {len(labels)} rows and {len(classes)} classes: there must be one of each class"
        )
    # A shuffled pile of rows for each class. Each round takes one row from every pile that has one.
    piles = [list(rng.permutation(np.flatnonzero(labels == c))) for c in rng.permutation(classes)]
    drawn = []
    while len(drawn) < n:
        drawn += [pile.pop() for pile in piles if pile]
    return np.array(drawn[:n])


class ContextRows(torch.utils.data.Dataset):
    """Queries with `k` labelled examples each, for `NextTokenCollator`.

    A row is a function of the seed and its position, so workers and resuming change nothing.

    Args:
        rows: A part of `LabelledData`.
        samples: The rows to draw examples from, another such part.
        k: The number of examples.
        seed: The seed of the draw.
        queries: The number of queries to tune on: the samples over and over, reshuffled each time,
            with a query never among its own examples. None: every row of `rows` once.
    """

    def __init__(self, rows: Dataset, samples: Dataset, k: int, seed: int, queries: int | None = None):
        self.rows = rows
        self.samples = samples
        self.k = k
        self.seed = seed
        self.queries = queries
        self.labels = np.array(samples["label"][:])

    def __len__(self) -> int:
        if self.queries is None:
            return len(self.rows)
        return self.queries

    def __getitem__(self, i: int) -> dict:
        candidates = np.arange(len(self.samples))
        if self.queries is None:
            query = self.rows[i]
        else:
            # Pass t over the samples follows a permutation that depends on (seed, t) alone.
            number_of_pass, place = divmod(i, len(self.samples))
            order = np.random.default_rng((self.seed, number_of_pass)).permutation(len(self.samples))
            query_number = int(order[place])
            query = self.samples[query_number]
            candidates = np.delete(candidates, query_number)

        rng = np.random.default_rng((self.seed, self.k, i))
        # Shuffled once more: the model must not learn the order of the classes.
        examples = [self.samples[int(j)] for j in rng.permutation(self._choose(candidates, rng))]
        return {
            "examples": [(row["sequence"], row["label"]) for row in examples],
            "sequence": query["sequence"],
            "label": query["label"],
        }

    def _choose(self, candidates: np.ndarray, rng: np.random.Generator) -> list[int]:
        """Return `k` candidates: the first of each class in random order, then the second, ..."""
        of_class = []
        for label in rng.permutation(self.classes):
            of_class.append(list(rng.permutation(candidates[self.labels[candidates] == label])))
        # Read across the classes. `zip_longest` fills up the shorter ones with None.
        turns = itertools.zip_longest(*of_class)
        chosen = [candidate for turn in turns for candidate in turn if candidate is not None]
        return chosen[: self.k]

    @property
    def classes(self) -> np.ndarray:
        return np.unique(self.labels)


def check_context(data: LabelledData, shots: int, max_seq_len: int) -> None:
    """Raise `InputError` if a query with that many examples may be too long for the model."""
    # The worst case: examples are drawn at random, so all of them may be the longest sequence.
    longest = max(len(sequence) for rows in data.parts.values() for sequence in rows["sequence"])
    # Each sequence comes with a [SEP] and a label (or the query's place for one).
    tokens = (shots + 1) * (longest + 2)
    if tokens > max_seq_len:
        fits = max_seq_len // (longest + 2) - 1
        advice = "Not one example fits"
        if fits >= 1:
            advice = f"Ask for at most {fits} shots"
        raise InputError(
            f"{shots} shots of up to {longest} bases make a context of {tokens} tokens, but max_seq_len "
            f"of the model is {max_seq_len}. {advice}, or use a checkpoint with a larger max_seq_len"
        )


def _results_so_far(output: Path) -> list[dict]:
    path = output / METRICS_FILE
    if not path.exists():
        return []
    hint = "; delete it, and --resume starts again"
    results = read_json(path, hint)
    with reading(f"{path} holds no results of few-shot", hint, errors=(LookupError, TypeError)):
        return [{**result} for result in results["results"]]


def _one_result(
    args: FewShotArguments,
    model: HyenaDNAForCausalLM,
    tokenizer,
    letters: str,
    data: LabelledData,
    task: dict,
) -> dict:
    """Tune a copy of the model on n samples, test it, and return the result."""
    # The seed decides the samples and the order. A repeat has another one.
    n = task["samples"]
    k = task["shots"]
    seed = args.seed + task["repeat"]
    tested = data.parts.get("test", data.parts["validation"])
    labels = np.array(data.parts["train"]["label"][:])
    samples = data.parts["train"].select(draw_samples(labels, n, np.random.default_rng((seed, n))))
    # A copy, because the next task tunes with other settings.
    trainer_args = copy.copy(args)
    trainer_args.max_steps = args.tuning_steps
    trainer_args.seed = seed
    set_seed(seed)
    collator = NextTokenCollator(tokenizer, letters)
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    trainer = HyenaDNATrainer(
        model=model,
        args=trainer_args,
        train_dataset=ContextRows(samples, samples, k, seed, queries=args.tuning_steps * batch),
        **collator.for_trainer(),
    )
    start = time.monotonic()
    if args.tuning_steps:
        trainer.train()
    seconds = time.monotonic() - start
    metrics = trainer.predict(ContextRows(tested, samples, k, seed), metric_key_prefix="test").metrics
    return {
        **task,
        **{name: metrics[f"test_{name}"] for name in ("accuracy", "mcc", "loss")},
        "tuning_seconds": round(seconds, 1),
    }


@one_writer
def few_shot(args: FewShotArguments, data: Dataset | DatasetDict | None = None) -> dict:
    """Tune and evaluate for all numbers of samples and shots, and return the metrics.

    Args:
        args: All settings.
        data: A `datasets` object instead of `args.data`.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used. Nothing was
            written.
    """
    labelled = read_data(args, data)
    if labelled.problem_type != SINGLE_LABEL:
        raise InputError(f"few-shot is for single labels, but the problem is {labelled.problem_type}")
    letters = letters_of_labels(labelled.label_names, args.label_letters, labelled.alphabet)
    output = Path(args.output_dir)
    is_main = args.process_index == 0
    settings = settings_of(args, labelled)
    if is_main:
        check_output_folder(output, settings, args.resume, settings_not_compared(args))
    model, tokenizer = language_model_for_letters(args)
    tasks = _tasks(args)
    _check_tasks(labelled, tasks, model.config.max_seq_len)

    done = _results_so_far(output)
    part = tested_part(labelled)
    results = {
        "results": done,
        "evaluated_on": part,
        "majority_accuracy": majority_share(labelled, part),
        "label_letters": dict(zip(labelled.label_names, letters, strict=True)),
        "settings": settings,
        "versions": versions(),
    }
    if is_main:
        print(count_table(labelled))
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / SETTINGS_FILE, settings)
    for task in tasks:
        # Done by an earlier session: a result has the samples, shots and repeat of its task.
        if any(task.items() <= result.items() for result in done):
            continue
        done.append(_one_result(args, copy.deepcopy(model), tokenizer, letters, labelled, task))
        if is_main:
            last = "  ".join(f"{name} {value:.4g}" for name, value in done[-1].items())
            print(f"{len(done)} of {len(tasks)}: {last}")
            # After each result, so that an interrupted run can go on from here.
            write_json(output / METRICS_FILE, results)
    if is_main:
        _write_table(output, results)
    return results


def _tasks(args: FewShotArguments) -> list[dict]:
    """Return the samples, shots and repeat of each result, in the order of the table."""
    return [
        {"samples": n, "shots": k, "repeat": repeat}
        for n in sorted(set(args.samples))
        for k in sorted(set(args.shots))
        for repeat in range(args.repeats)
        if k < n
    ]


def _check_tasks(labelled: LabelledData, tasks: list[dict], max_seq_len: int) -> None:
    """Check every task now: the last one should not fail after those before it are done."""
    check_context(labelled, max(task["shots"] for task in tasks), max_seq_len)
    # Drawing is cheap, and raises if there are too few rows or classes.
    labels = np.array(labelled.parts["train"]["label"][:])
    for n in sorted({task["samples"] for task in tasks}):
        draw_samples(labels, n, np.random.default_rng(0))


def _write_table(output: Path, results: dict) -> None:
    table = few_shot_table(results)
    write_whole(output / "few_shot.md", lambda path: path.write_text(table + "\n"))
    _draw(results, output / "few_shot.png")
    print(f"\n{table}\n\nmetrics.json, few_shot.md and few_shot.png are in {output}")


def _summary(results: dict) -> dict[tuple[int, int], tuple[float, float]]:
    """Return mean and standard deviation of the accuracy over the repeats, by (samples, shots)."""
    groups: dict[tuple[int, int], list[float]] = {}
    for result in results["results"]:
        groups.setdefault((result["samples"], result["shots"]), []).append(result["accuracy"])
    return {key: (float(np.mean(values)), float(np.std(values))) for key, values in groups.items()}


def few_shot_table(results: dict) -> str:
    """Return the accuracies as a Markdown table: a row for each n, a column for each k."""
    summary = _summary(results)
    shots = sorted({k for _, k in summary})
    lines = ["| samples | " + " | ".join(f"{k}-shot" for k in shots) + " |", "|---" * (len(shots) + 1) + "|"]
    for n in sorted({n for n, _ in summary}):
        cells = []
        for k in shots:
            mean, deviation = summary.get((n, k), (None, None))
            cells.append("" if mean is None else f"{mean:.3f} ± {deviation:.3f}")
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Always the most frequent class: {results['majority_accuracy']:.3f}"])


def _draw(results: dict, path: Path) -> None:
    summary = _summary(results)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for k in sorted({k for _, k in summary}):
        points = sorted((n, *summary[n, k]) for n, other in summary if other == k)
        n, mean, deviation = zip(*points, strict=True)
        draw_accuracy(axes, n, mean, deviation, f"{k}-shot")
    finish_accuracy(axes, results["majority_accuracy"], results["evaluated_on"], "labelled samples")
    save_figure(path, figure)


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna few-shot` with these arguments (default: those of the command line)."""
    help = "Classify from labelled examples in the context."
    args = parse_settings(FewShotArguments, "few-shot", help, argv)
    few_shot(args)
    say_next(args)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
