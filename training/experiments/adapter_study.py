"""Compare ways to adapt a checkpoint by the parameters they train: `hyenadna adapter-study`.

    hyenadna adapter-study --data promoters --model pretrained --output_dir study
    hyenadna adapter-study --data promoters --model pretrained --prompt_lengths 2 32 --lora_ranks 8
    hyenadna adapter-study --model pretrained --output_dir study --resume  # go on with what is missing

One checkpoint is adapted in each of these ways and tested on the same rows:

- a linear probe: the backbone is frozen, only the head is trained;
- a soft prompt of each length, with a head;
- a soft prompt of each length, with the label as the next token;
- LoRA of each rank;
- full fine-tuning.

All stop early by the same rule. Each is a run of `hyenadna finetune` or `hyenadna soft-prompt` in
its own folder. `adapter_study.md` is the table, `adapter_study.png` shows the accuracy against the
number of trained parameters. Without `--data`, the built-in splice junctions are used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from datasets import DatasetDict
from matplotlib.figure import Figure
from transformers import TrainingArguments

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData, load_splice_junctions
from hyenadna.training.finetune import FinetuneArguments, finetune
from hyenadna.training.runs.files import write_json, write_whole
from hyenadna.training.runs.folder import METRICS_FILE, SETTINGS_FILE, check_output_folder, one_writer
from hyenadna.training.runs.language import letters_of_labels
from hyenadna.training.runs.models import BackboneArguments
from hyenadna.training.runs.pictures import draw_accuracy, finish_accuracy, save_figure
from hyenadna.training.runs.settings import SHOWN_OF_TRAINING, names_of, parse_settings, say_next, setting
from hyenadna.training.runs.supervised import (
    HeadArguments,
    RowsArguments,
    SupervisedArguments,
    majority_share,
    read_data,
    settings_of,
    tested_part,
)
from hyenadna.training.soft_prompt import (
    FORMS,
    SoftPromptArguments,
    check_room,
    language_model_for_letters,
    soft_prompt,
)

# Trainer's settings that a study passes on to its runs. For all others the runs keep the defaults
# of their recipes.
_SHARED = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "bf16",
    "fp16",
)
_SHARED += ("gradient_accumulation_steps", "dataloader_num_workers", "use_cpu", "disable_tqdm", "ddp_backend")
# Transformers 5.23 renamed the first to the second. It keeps both in step, and warns if only the
# first is set.
_CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")
_SHARED += tuple(name for name in _CHECKPOINTING if name in names_of(TrainingArguments))


@dataclass
class StudyArguments(RowsArguments, HeadArguments, BackboneArguments, SupervisedArguments):
    """Settings of `hyenadna adapter-study`. Its runs share them."""

    SHOWN: ClassVar = {
        "your data": ("data", "validation_data", "test_data", "sequence_column", "label_column"),
        "the model": ("model",),
        "the study": ("forms", "prompt_lengths", "lora_ranks", "seeds"),
        "training": (*SHOWN_OF_TRAINING, "patience"),
        "the run": ("output_dir", "resume"),
    }
    EXAMPLE: ClassVar = "hyenadna adapter-study --model pretrained --data sites.csv"
    NEXT: ClassVar = {
        "hyenadna finetune --model {model} --data {data} --lora_rank 4": "one of these, to keep",
    }

    prompt_lengths: list[int] = setting([2, 8, 32, 128], "Lengths of the prompts, in tokens.")
    forms: list[str] = setting(list(FORMS), "Forms of the prompts: classifier, next_token.")
    lora_ranks: list[int] = setting([1, 4, 16], "Ranks of LoRA.")
    seeds: list[int] = setting([0], "Seeds; the table has their mean.")
    label_letters: str | None = setting(
        None, "For next_token: a letter of ACGTN for each class, in sorted order."
    )
    prompt_learning_rate: float = setting(1e-2, "Highest learning rate of the prompts.")
    probe_learning_rate: float = setting(1e-2, "Highest learning rate of the linear probe.")
    lora_learning_rate: float = setting(2e-3, "Highest learning rate of LoRA.")
    # Defaults that differ from those of fine-tuning. `learning_rate` is that of full fine-tuning.
    output_dir: str = setting(
        "hyenadna-adapter-study", "Folder for everything that the study writes.", decides=False
    )
    patience: int = setting(5, "Stop a run after that many evaluations without a better one; 0: never.")
    per_device_train_batch_size: int = setting(32, "Batch size on each device.")

    def __post_init__(self):
        super().__post_init__()
        self.check_rows()
        self.check_supervised()
        self.check_head(self.label_smoothing_factor)
        if self.model is None:
            raise InputError("a study needs a checkpoint (model)")
        for name in ("prompt_lengths", "lora_ranks"):
            if any(value < 1 for value in getattr(self, name)):
                raise InputError(f"{name} is {getattr(self, name)}; each must be at least 1")
        if not set(self.forms) <= set(FORMS) or not self.seeds:
            raise InputError(
                f"forms is {self.forms} and seeds {self.seeds}; forms are {FORMS}, seeds at least one"
            )
        if self.class_weights and "next_token" in self.forms:
            raise InputError("class_weights are for a head: leave them out, or say --forms classifier")


def planned_runs(args: StudyArguments) -> list[dict]:
    """Return for each run of one seed: `name`, `method`, `tokens` or `rank`, and `settings`.

    The order is that of the table: prompts by length, LoRA by rank, full fine-tuning last.
    """
    runs = [
        {
            "name": "probe",
            "method": "linear probe",
            "settings": {"freeze_backbone": True, "learning_rate": args.probe_learning_rate},
        }
    ]
    for form in args.forms:
        for length in sorted(set(args.prompt_lengths)):
            runs.append(
                {
                    "name": f"{form}-{length}",
                    "method": {"classifier": "prompt + head", "next_token": "prompt, next token"}[form],
                    "tokens": length,
                    "settings": {
                        "form": form,
                        "num_virtual_tokens": length,
                        "learning_rate": args.prompt_learning_rate,
                    },
                }
            )
            if form == "next_token":
                runs[-1]["settings"]["label_letters"] = args.label_letters
    for rank in sorted(set(args.lora_ranks)):
        runs.append(
            {
                "name": f"lora-{rank}",
                "method": "LoRA + head",
                "rank": rank,
                "settings": {"lora_rank": rank, "learning_rate": args.lora_learning_rate},
            }
        )
    return [
        *runs,
        {"name": "full", "method": "full fine-tuning", "settings": {"learning_rate": args.learning_rate}},
    ]


def _refuse_what_no_run_gets(args: StudyArguments) -> None:
    """Raise `InputError` for a setting of Trainer that would have no effect in a study."""
    # Compared with what the defaults become: Trainer fills in some settings itself.
    default = StudyArguments(**{name: getattr(args, name) for name in ("model", "learning_rate", *_SHARED)})
    passed_on = {"output_dir", "learning_rate", *_SHARED}
    names = [name for name in names_of(TrainingArguments) if name not in passed_on]
    given = [name for name in names if getattr(args, name) != getattr(default, name)]
    if given:
        raise InputError(
            f"a study does not use {', '.join(given)}: leave it out (the runs use the settings of "
            "their recipes; instead of seed, use seeds)"
        )


@one_writer
def adapter_study(args: StudyArguments) -> list[dict]:
    """Do every missing run. Return a row for each way of adapting; [] in processes but the first.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used.
    """
    _refuse_what_no_run_gets(args)
    data = None
    if args.data is None:
        data = load_splice_junctions()
    labelled = read_data(args, data)
    _check_every_run(args, labelled)

    output = Path(args.output_dir)
    is_main = args.process_index == 0
    settings = settings_of(args, labelled)
    if is_main:
        # With --resume the runs check their own folders, so that runs can be added to a study.
        if not (args.resume and (output / SETTINGS_FILE).exists()):
            check_output_folder(output, settings, resume=False)
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / SETTINGS_FILE, settings)

    # All processes take part in each run; the first one also writes the table.
    part = tested_part(labelled)
    majority = majority_share(labelled, part)
    rows = []
    for run in planned_runs(args):
        done = [_one_run(args, run, seed, data) for seed in args.seeds]
        # After each way, so that an interrupted study leaves a table.
        if is_main:
            rows.append(_row(run, done, part))
            table = _write_study(output, rows, part, majority)
    if is_main:
        print(f"\n{table}\n\nadapter_study.md and adapter_study.png are in {output}")
    return rows


def _check_every_run(args: StudyArguments, labelled: LabelledData) -> None:
    """Check every run now: the last one should not fail after hours of the others."""
    if labelled.problem_type != SINGLE_LABEL:
        raise InputError(
            f"the study compares accuracies of single labels, but the problem is {labelled.problem_type}"
        )
    if "next_token" in args.forms and args.prompt_lengths:
        letters_of_labels(labelled.label_names, args.label_letters)
    # The model is loaded only to see that it loads, and for its max_seq_len.
    model, _ = language_model_for_letters(args)
    for run in planned_runs(args):
        if "tokens" in run:
            check_room(args, labelled, model.config.max_seq_len, run["settings"]["form"], run["tokens"])


def _one_run(args: StudyArguments, run: dict, seed: int, data: DatasetDict | None) -> dict:
    """Do one run in its folder and return its results."""
    print(f"\n== {run['name']}, seed {seed} ==")
    if "form" in run["settings"]:
        recipe = soft_prompt
        cls = SoftPromptArguments
    else:
        recipe = finetune
        cls = FinetuneArguments

    settings = _shared_settings(args, cls)
    # There is no head, and a run refuses settings that it would not use.
    if run["settings"].get("form") == "next_token":
        settings = {name: value for name, value in settings.items() if name not in names_of(HeadArguments)}
    # Always with `resume`: a finished run returns its results at once.
    folder = Path(args.output_dir, f"{run['name']}-seed{seed}")
    settings |= {**run["settings"], "output_dir": str(folder), "seed": seed, "resume": True}
    return recipe(cls(**settings), data).results


def _shared_settings(args: StudyArguments, cls: type) -> dict:
    """Return the settings that a study passes on to a run. The recipe chooses those left None."""
    # What study and recipe have in common. Of Trainer's settings, only the shared ones.
    of_recipes = set(names_of(StudyArguments)) & set(names_of(FinetuneArguments))
    of_recipes -= {*names_of(TrainingArguments), "resume"}
    names = {*_SHARED, *of_recipes} & set(names_of(cls))
    return {name: getattr(args, name) for name in sorted(names) if getattr(args, name) is not None}


def _row(run: dict, done: list[dict], part: str) -> dict:
    """Return the row of one way of adapting: its results, averaged over the seeds."""
    accuracy = [results["metrics"][part]["accuracy"] for results in done]
    validation_accuracy = [results["metrics"]["validation"]["accuracy"] for results in done]
    return {
        "method": run["method"],
        "tokens": run.get("tokens"),
        "rank": run.get("rank"),
        "trained_parameters": done[0]["trained_parameters"],
        "parameters": done[0]["parameters"],
        "accuracy": float(np.mean(accuracy)),
        "accuracy_sd": float(np.std(accuracy)),
        "validation_accuracy": float(np.mean(validation_accuracy)),
        "mcc": float(np.mean([results["metrics"][part]["mcc"] for results in done])),
        "train_seconds": float(np.mean([results["train_seconds"] for results in done])),
        "resumed": any(results["resumed_from"] for results in done),
    }


def _write_study(output: Path, rows: list[dict], part: str, majority: float) -> str:
    """Write the results so far, and return the table."""
    write_json(output / METRICS_FILE, {"rows": rows, "evaluated_on": part, "majority_accuracy": majority})
    table = study_table(rows, majority)
    write_whole(output / "adapter_study.md", lambda path: path.write_text(table + "\n"))
    draw_study(rows, majority, part, output / "adapter_study.png")
    return table


def study_table(rows: list[dict], majority: float) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| | tokens or rank | trained parameters | accuracy | MCC | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = row["trained_parameters"] / row["parameters"]
        seconds = f"{row['train_seconds']:.0f}"
        if row["resumed"]:
            seconds += "*"
        cells = [
            row["method"],
            str(row["tokens"] or row["rank"] or ""),
            f"{row['trained_parameters']:,} ({share:.2%})",
            f"{row['accuracy']:.3f} ± {row['accuracy_sd']:.3f}",
            f"{row['mcc']:.3f}",
            seconds,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Always the most frequent class: {majority:.3f}"]
    if any(row["resumed"] for row in rows):
        lines += ["", "\\* without the time before an interruption"]
    return "\n".join(lines)


def draw_study(rows: list[dict], majority: float, part: str, path: Path) -> None:
    """Draw accuracy against the number of trained parameters, with one line per way of adapting."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    # Methods in the order of the table; a set would shuffle the colours.
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = [row for row in rows if row["method"] == method]
        x, y, sd = (
            [row[name] for row in chosen] for name in ("trained_parameters", "accuracy", "accuracy_sd")
        )
        draw_accuracy(axes, x, y, sd, method)
    finish_accuracy(axes, majority, part, "trained parameters")
    save_figure(path, figure)


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna adapter-study` with these arguments (default: those of the command line)."""
    help = "Compare prompts, LoRA, a linear probe and full fine-tuning."
    args = parse_settings(StudyArguments, "adapter-study", help, argv)
    adapter_study(args)
    say_next(args)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
