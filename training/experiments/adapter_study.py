"""How many trained parameters does a task need? `hyenadna adapter-study --data DATA --model CHECKPOINT`.

    hyenadna adapter-study --data promoters --model pretrained --output_dir study
    hyenadna adapter-study --data promoters --model pretrained --prompt_lengths 2 32 --lora_ranks 8 --seeds 0 1 2
    hyenadna adapter-study --model pretrained --output_dir study --resume                # go on with what is missing

One checkpoint is adapted in every way and tested on the same rows: a linear probe (the head alone, backbone frozen), a
prompt of each length with the head, a prompt of each length whose next token is the label, LoRA of each rank, and full
fine-tuning. All stop early by the same rule. Each is a run of `hyenadna finetune` or `hyenadna soft-prompt` in a folder
of its own. `adapter_study.md` is the table, with the seconds that each took; `adapter_study.png` shows the accuracy
against the number of trained parameters. Without `--data`, the built-in splice junctions are used.
"""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from transformers import TrainingArguments

from hyenadna.errors import InputError
from hyenadna.genomics.labelled import SINGLE_LABEL, load_splice_junctions
from hyenadna.training.finetune import FinetuneArguments, finetune, read_data, settings_of
from hyenadna.training.runs.results import write_json, write_whole
from hyenadna.training.runs.settings import METRICS_FILE, SETTINGS_FILE, check_output_folder, parse_settings, setting
from hyenadna.training.soft_prompt import (
    FORMS,
    NOT_FOR_LETTERS,
    SoftPromptArguments,
    check_room,
    letters_of_labels,
    load_language_model,
    soft_prompt,
)

# Of Trainer's settings, those that every run of a study shares.
_SHARED = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size", "bf16", "fp16")
_SHARED += ("gradient_accumulation_steps", "gradient_checkpointing", "dataloader_num_workers", "use_cpu")
_SHARED += ("disable_tqdm", "ddp_backend")


@dataclass
class StudyArguments(FinetuneArguments):
    """Settings of `hyenadna adapter-study`, on top of those of `hyenadna finetune`."""

    prompt_lengths: list[int] = field(
        default_factory=lambda: [2, 8, 32, 128], metadata={"help": "Lengths of the prompts, in tokens."}
    )
    forms: list[str] = field(
        default_factory=lambda: list(FORMS), metadata={"help": "Forms of the prompts: classifier, next_token."}
    )
    lora_ranks: list[int] = field(default_factory=lambda: [1, 4, 16], metadata={"help": "Ranks of LoRA."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; the table has their mean."})
    label_letters: str | None = setting(None, "For next_token: a letter of ACGTN for each class, in sorted order.")
    prompt_learning_rate: float = setting(1e-2, "Highest learning rate of the prompts.")
    probe_learning_rate: float = setting(1e-2, "Highest learning rate of the linear probe.")
    lora_learning_rate: float = setting(2e-3, "Highest learning rate of LoRA.")
    # other defaults than those of fine-tuning; learning_rate is that of full fine-tuning
    output_dir: str = setting("hyenadna-adapter-study", "Folder for everything that the study writes.")
    patience: int = setting(5, "Stop a run after so many evaluations without a better one; 0: never.")
    per_device_train_batch_size: int = setting(32, "Batch size on each device.")

    def __post_init__(self):
        super().__post_init__()
        if self.model is None:
            raise InputError("a study needs a checkpoint (model)")
        for name in ("prompt_lengths", "lora_ranks"):
            if any(value < 1 for value in getattr(self, name)):
                raise InputError(f"{name} is {getattr(self, name)}; each must be at least 1")
        if not set(self.forms) <= set(FORMS) or not self.seeds:
            raise InputError(f"forms is {self.forms} and seeds {self.seeds}; forms are {FORMS}, seeds at least one")
        if self.freeze_backbone or self.lora_rank is not None:
            raise InputError("a study chooses freeze_backbone and lora_rank by itself: leave them out")
        if self.class_weights and "next_token" in self.forms:
            raise InputError("class_weights are for a head: leave them out, or say --forms classifier")


def planned_runs(args: StudyArguments) -> list[dict]:
    """Return a `name`, the `method`, its size and the settings of each run, for one seed."""
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
                        **({"label_letters": args.label_letters} if form == "next_token" else {}),
                    },
                }
            )
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
    usual = StudyArguments(**{name: getattr(args, name) for name in ("model", "learning_rate", *_SHARED)})
    known = {"output_dir", "learning_rate", *_SHARED}
    names = [f.name for f in fields(TrainingArguments) if f.name not in known]
    given = [name for name in names if getattr(args, name) != getattr(usual, name)]
    if given:
        raise InputError(
            f"a study does not use {', '.join(given)}: leave it out (the runs have the settings of their recipes; for "
            "seed there are seeds)"
        )


def adapter_study(args: StudyArguments) -> list[dict]:
    """Do every run that is not done yet; return a row of the table for each way of adapting (in the first process).

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used.
    """
    _refuse_what_no_run_gets(args)
    data = load_splice_junctions() if args.data is None else None
    labelled = read_data(args, data)
    if labelled.problem_type != SINGLE_LABEL:
        raise InputError(f"the study compares accuracies of single labels, but the problem is {labelled.problem_type}")
    # what would stop a run only after others took their hours
    if "next_token" in args.forms and args.prompt_lengths:
        letters_of_labels(labelled.label_names, args.label_letters)
    model, _ = load_language_model(args)
    for run in planned_runs(args):
        if "tokens" in run:
            check_room(args, labelled, model.config.max_seq_len, run["settings"]["form"], run["tokens"])
    output, settings, is_main = Path(args.output_dir), settings_of(args, labelled), args.process_index == 0
    if is_main:
        if not (args.resume and (output / SETTINGS_FILE).exists()):
            check_output_folder(output, settings, False, ())  # with it, each run checks its own folder
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / SETTINGS_FILE, settings)

    own = {f.name for f in fields(FinetuneArguments)} - {f.name for f in fields(TrainingArguments)}
    shared = {name: getattr(args, name) for name in (*_SHARED, *sorted(own - {"resume"}))}
    shared = {name: value for name, value in shared.items() if value is not None}  # which recipes choose by themselves
    part = "test" if "test" in labelled.parts else "validation"
    counts = np.bincount(np.array(labelled.parts[part]["label"][:]))
    rows, majority = [], float(counts.max() / counts.sum())
    for run in planned_runs(args):
        done = []
        for seed in args.seeds:
            folder = output / f"{run['name']}-seed{seed}"
            print(f"\n== {run['name']}, seed {seed} ==")
            settings = {**shared, **run["settings"], "output_dir": str(folder), "seed": seed, "resume": True}
            if settings.get("form") == "next_token":
                settings = {name: value for name, value in settings.items() if name not in NOT_FOR_LETTERS}
            recipe, cls = (soft_prompt, SoftPromptArguments) if "form" in settings else (finetune, FinetuneArguments)
            done.append(recipe(cls(**settings), data).results)
        if not is_main:
            continue
        accuracy = [results["metrics"][part]["accuracy"] for results in done]
        rows.append(
            {
                "method": run["method"],
                "tokens": run.get("tokens"),
                "rank": run.get("rank"),
                "trained_parameters": done[0]["trained_parameters"],
                "parameters": done[0]["parameters"],
                "accuracy": float(np.mean(accuracy)),
                "accuracy_sd": float(np.std(accuracy)),
                "validation_accuracy": float(np.mean([r["metrics"]["validation"]["accuracy"] for r in done])),
                "mcc": float(np.mean([results["metrics"][part]["mcc"] for results in done])),
                "train_seconds": float(np.mean([results["train_seconds"] for results in done])),
                "resumed": any(results["resumed_from"] for results in done),
            }
        )
        write_json(output / METRICS_FILE, {"rows": rows, "evaluated_on": part, "majority_accuracy": majority})
        table = study_table(rows, majority)
        write_whole(output / "adapter_study.md", lambda path, table=table: path.write_text(table + "\n"))
        draw_study(rows, majority, part, output / "adapter_study.png")
    if is_main:
        print(f"\n{table}\n\nadapter_study.md and adapter_study.png are in {output}")
    return rows


def study_table(rows: list[dict], majority: float) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| | tokens or rank | trained parameters | accuracy | MCC | seconds |", "|---|---|---|---|---|---|"]
    for row in rows:
        size = row["tokens"] or row["rank"] or ""
        lines.append(
            f"| {row['method']} | {size} | {row['trained_parameters']:,} "
            f"({row['trained_parameters'] / row['parameters']:.2%}) | {row['accuracy']:.3f} ± {row['accuracy_sd']:.3f} "
            f"| {row['mcc']:.3f} | {row['train_seconds']:.0f}{'*' if row['resumed'] else ''} |"
        )
    notes = ["", "\\* without the time before an interruption"] if any(row["resumed"] for row in rows) else []
    return "\n".join([*lines, "", f"Always the most frequent class: {majority:.3f}", *notes])


def draw_study(rows: list[dict], majority: float, part: str, path: Path) -> None:
    """Draw accuracy against the number of trained parameters, a line for each way of adapting."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = [row for row in rows if row["method"] == method]
        x, y, sd = ([row[name] for row in chosen] for name in ("trained_parameters", "accuracy", "accuracy_sd"))
        axes.errorbar(x, y, sd, marker="o", capsize=3, label=method)
    axes.axhline(majority, color="grey", linestyle=":", label="most frequent class")
    axes.set(xscale="log", xlabel="trained parameters", ylabel=f"accuracy ({part} part)")
    axes.legend()
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150))


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna adapter-study` with these arguments (default: those of the command line)."""
    help = "Compare prompts, LoRA, a linear probe and full fine-tuning."
    adapter_study(parse_settings(StudyArguments, "adapter-study", help, argv))


if __name__ == "__main__":
    from hyenadna.training.cli import main as command_line

    sys.exit(command_line(["adapter-study", *sys.argv[1:]]))
