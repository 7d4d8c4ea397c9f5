"""Train, test, save and reload on real DNA in a few minutes on two cores: `hyenadna demo`.

    hyenadna demo [--data tata|splice] [--output_dir hyenadna-demo] [--seed 0]

- `--data tata` (default): does a gene with a TATA box start in these 300 bases of human DNA? The
  demo fine-tunes the model that comes with the package, for one pass over the rows. For comparison
  it trains a model from scratch for two passes, and a k-mer model, on the same rows.
  `learning_curves.png` shows how each of them learns.
- `--data splice`: does an exon end (EI) in these 60 bases of primate DNA, does one begin (IE), or
  neither (N)? Here the model from scratch has its own shape, for sequences this short.

Either way the demo tests on rows that it never saw, saves the model, loads it in a new process
through `AutoModelForSequenceClassification`, and compares the logits. Last it exports a folder for
the Hub, with a model card that shows the results. Sources, licences and splits of the data are in
`tata_promoters.md` and `splice_junctions.md`.

A second run with the same seed replaces the folder, but only after it has succeeded. An interrupted
run is continued.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict

from hyenadna.errors import InputError
from hyenadna.flags import CommandParser
from hyenadna.genomics.labelled import load_splice_junctions, load_tata_promoters
from hyenadna.training.runs.baselines import LOGISTIC
from hyenadna.training.runs.files import write_whole
from hyenadna.training.runs.models import SCRATCH, SHIPPED, RunResult
from hyenadna.training.runs.pictures import write_learning_curves

from .finetune import BASELINES_FILE, FinetuneArguments, finetune

SUMMARY_FILE = "demo_summary.txt"
PICTURE_FILE = "learning_curves.png"

# Chosen on fifths of the training rows, never on the test part. In the order of what they gained:
# - initial weights wider than the paper's 0.02, which suits wider models and longer training;
# - a time axis as long as the sequences;
# - pooling by the last position, which has seen both sides of the junction;
# - a learning rate that falls to 0, so that training ends smoothly;
# - four narrow layers instead of two wide ones.
# The best epoch is the one with the lowest validation loss: on 240 rows, accuracy is too coarse.
_SHARED = {
    "strands": "one",
    "patience": 0,
    "weight_averaging": 0.0,
    "resid_dropout": 0.1,
    "warmup_steps": 0.1,
    "lr_scheduler_kwargs": {"min_lr_rate": 0.0, "warmup_lr_rate": 1e-3},
    "per_device_train_batch_size": 32,
    "metric_for_best_model": "loss",
}
_SPLICE = {**_SHARED, "pooling": "last"}
# Evaluated every 48 steps, because one epoch would give a curve of one point.
_TATA = {
    **{name: value for name, value in _SHARED.items() if name != "resid_dropout"},
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "logging_strategy": "steps",
    "eval_steps": 48,
    "save_steps": 48,
    "logging_steps": 48,
}


@dataclass(frozen=True)
class Training:
    """One of the two trainings of a demo.

    Attributes:
        folder: A folder inside that of the demo; "." is that of the demo itself.
        start: "from checkpoint" or "from scratch".
        epochs: Passes over the training rows.
        settings: Settings of `hyenadna finetune`.
    """

    folder: str
    start: str
    epochs: float
    settings: dict


@dataclass(frozen=True)
class Demo:
    """What a demo trains on, and how.

    Attributes:
        load: Returns the data.
        rows: What the rows are, in the plural.
        question: The question that the model answers, for the model card.
        data_name: The name of the data in the model card.
        export_folder: The name of the folder for the Hub.
        main: The training whose model is saved, reloaded and exported.
        other: The training to compare it with.
        threads: The most threads to use. Steps of 0.1 s are too short to share: on a busy machine
            threads wait for each other.
    """

    load: Callable[[], DatasetDict]
    rows: str
    question: str
    data_name: str
    export_folder: str
    main: Training
    other: Training
    threads: int


DEMOS = {
    "tata": Demo(
        load=load_tata_promoters,
        rows="TATA promoters and other human DNA (300 bp)",
        question="does a gene with a TATA box start in these 300 bases (promoter), or not (other)?",
        data_name="TATA promoters (GUE, human, 300 bp; Apache-2.0)",
        export_folder="hyenadna-tata-promoters",
        main=Training(".", "from checkpoint", 1, {**_TATA, "model": SHIPPED, "learning_rate": 1e-3}),
        # The shape of `--model none`, 2 x 128. It has half the width, so two passes cost as much.
        other=Training(
            "from-scratch",
            "from scratch",
            2,
            {**_TATA, "model": SCRATCH, "learning_rate": 1e-3, "initializer_range": 0.06},
        ),
        threads=2,
    ),
    "splice": Demo(
        load=load_splice_junctions,
        rows="splice junctions (60 bp)",
        question=(
            "does an exon end (EI) in the middle of these 60 bases, does one begin (IE), or neither (N)?"
        ),
        data_name="UCI splice junctions (primates, 60 bp; CC BY 4.0)",
        export_folder="hyenadna-splice-junctions",
        main=Training(
            ".",
            "from scratch",
            16,
            {
                **_SPLICE,
                "model": SCRATCH,
                "d_model": 64,
                "n_layer": 4,
                "max_seq_len": 64,
                "initializer_range": 0.08,
                "embed_dropout": 0.2,
                "learning_rate": 8e-4,
            },
        ),
        # Chosen for the checkpoint before this one: of 1e-3 and 2e-3, the lower validation loss.
        other=Training(
            "from-checkpoint",
            "from checkpoint",
            12,
            {**_SPLICE, "model": SHIPPED, "embed_dropout": 0.1, "learning_rate": 2e-3},
        ),
        threads=1,
    ),
}

# What a user would write, run by a new process: the folder is all it knows of the training.
RELOAD = """
import json, sys
import torch
import hyenadna
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
with torch.inference_mode():
    logits = model(**tokenizer(json.load(sys.stdin), padding=True, return_tensors="pt")).logits
print(json.dumps(logits.tolist()))
"""


def logits_in_new_process(folder: Path, sequences: list[str]) -> np.ndarray:
    """Return the logits of a model, float32 `(sequences, labels)`, computed by a new process.

    Raises:
        RuntimeError: That process failed. The message has its error output.
    """
    # One thread will do for a few hundred short sequences, also on a busy machine.
    child = subprocess.run(
        [sys.executable, "-c", RELOAD, str(folder)],
        input=json.dumps(sequences),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the saved model does not load in a new process:\n{child.stderr}")
    return np.array(json.loads(child.stdout.splitlines()[-1]), dtype=np.float32)


def export_run(run: Path, plan: Demo) -> Path:
    """Export the model into a folder inside `run`, and prove that it loads without this package."""
    from hyenadna.hub_upload.export import export

    folder = run / plan.export_folder
    # A demo that was killed after this step has left one, and `export` refuses to overwrite it.
    shutil.rmtree(folder, ignore_errors=True)
    export(
        str(run),
        folder,
        data_name=plan.data_name,
        description=(
            f"A tiny HyenaDNA, an example: {plan.question} Made by `hyenadna demo`, {plan.main.start}."
        ),
    )
    return folder


def demo(
    output_dir: str = "hyenadna-demo", seed: int = 0, data: str = "tata", epochs: float | None = None
) -> dict:
    """Run the demo. Return the content of `metrics.json`, and the text of the `summary`.

    Args:
        output_dir: Folder for the model. An earlier demo there is replaced after success.
        seed: The seed of the initial weights and the order of the rows.
        data: "tata" or "splice".
        epochs: Passes over the training rows in the main training. The other training changes in
            proportion.

    Raises:
        InputError: `output_dir` holds something other than an earlier demo, or `data` is neither.
        RuntimeError: The reloaded model gives other logits.
        CheckpointError: The exported folder does not load without this package, or gives other
            outputs.

    >>> demo("hyenadna-demo")["metrics"]["test"]["mcc"]                     # doctest: +SKIP
    """
    if data not in DEMOS:
        raise InputError(f"data is {data!r}; use {' or '.join(DEMOS)}")
    plan = DEMOS[data]
    share = 1.0
    if epochs is not None:
        if epochs <= 0:
            raise InputError(f"epochs is {epochs}: nothing would be trained")
        share = epochs / plan.main.epochs
    start = time.monotonic()
    output = Path(output_dir)
    _check_output(output)
    # The name has the settings, so that only a demo with the same ones continues it.
    name = f"{data}-seed{seed}-epochs{share * plan.main.epochs:g}"
    unfinished = output.with_name(f".{output.name}-{name}.unfinished")
    rows = plan.load()
    total = sum(map(len, rows.values()))
    print(f"Training on {len(rows['train']):,} of {total:,} {plan.rows}, seed {seed}")

    trained, logits, other = _train_both(unfinished, plan, rows, seed, share)
    # Everything happens in the unfinished folder, so an earlier demo is replaced only at the end.
    difference = _difference_after_reloading(unfinished, rows, logits)
    _draw_curves(unfinished, plan, trained.results)
    exported = export_run(unfinished, plan).name

    seconds = time.monotonic() - start
    summary = _summary(output, exported, plan, rows, trained.results, other, difference, seconds)
    write_whole(unfinished / SUMMARY_FILE, lambda path: path.write_text(summary + "\n"))
    _replace(output, unfinished)
    print(f"\n{summary}")
    return {**trained.results, "summary": summary}


def _check_output(output: Path) -> None:
    """Raise `InputError` if the folder holds something other than an earlier demo."""
    if not output.exists() or (output / SUMMARY_FILE).exists():
        return
    if output.is_file() or any(output.iterdir()):
        raise InputError(
            f"output_dir {str(output)!r} exists and holds something else than an earlier demo; choose another"
        )


def _train_both(
    folder: Path, plan: Demo, data: DatasetDict, seed: int, share: float
) -> tuple[RunResult, np.ndarray, dict]:
    """Do both trainings of a demo.

    Returns:
        The main run, its logits on the test part `(rows, labels)`, and the results of the other.
    """

    def arguments(training: Training, **settings) -> FinetuneArguments:
        return FinetuneArguments(
            output_dir=str(folder / training.folder),
            seed=seed,
            num_train_epochs=training.epochs * share,
            resume=True,
            **training.settings,
            **settings,
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, plan.threads))
    try:
        print(f"{plan.main.start}:")
        trained = finetune(arguments(plan.main), data)
        logits = _logits(trained, data["test"]["sequence"][:])
        print(f"The same rows {plan.other.start}:")
        other = finetune(arguments(plan.other, baselines=False), data).results
    finally:
        torch.set_num_threads(threads)
    return trained, logits, other


def _logits(trained: RunResult, sequences: list[str]) -> np.ndarray:
    """Return the logits `(sequences, labels)` of a trained model, 64 sequences at a time."""
    model = trained.model.eval()
    logits = []
    for i in range(0, len(sequences), 64):
        batch = trained.tokenizer(sequences[i : i + 64], padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits.append(model(**batch.to(model.device)).logits.float().cpu().numpy())
    return np.concatenate(logits)


def _draw_curves(folder: Path, plan: Demo, results: dict) -> None:
    """Draw the validation MCC of both trainings over the rows that they saw, and that of k-mers."""
    curves = {}
    for training in (plan.main, plan.other):
        state = json.loads((folder / training.folder / "trainer_state.json").read_text())
        measured = [entry for entry in state["log_history"] if "eval_mcc" in entry]
        rows = [entry["epoch"] * results["rows"]["train"] for entry in measured]
        curves[training.start] = (rows, [entry["eval_mcc"] for entry in measured])
    kmers = json.loads((folder / BASELINES_FILE).read_text())
    curves["k-mers"] = (
        [point["rows"] for point in kmers["curve"]],
        [point["mcc"] for point in kmers["curve"]],
    )
    level = kmers["metrics"]["validation"]["mcc"]
    write_learning_curves(folder / PICTURE_FILE, curves, level, f"{LOGISTIC}, all rows")


def _difference_after_reloading(folder: Path, data: DatasetDict, logits: np.ndarray) -> float:
    """Return the largest difference between these logits and those of a new process.

    Raises:
        RuntimeError: The difference is larger than between a GPU and a CPU. On the same device it
            is 0.
    """
    difference = float(np.abs(logits - logits_in_new_process(folder, data["test"]["sequence"][:])).max())
    if difference > 1e-5:
        raise RuntimeError(
            f"the reloaded model's logits differ by {difference:g} from those of the trained model"
        )
    return difference


def _summary(
    output: Path,
    exported: str,
    plan: Demo,
    data: DatasetDict,
    trained: dict,
    other: dict,
    difference: float,
    seconds: float,
) -> str:
    test = trained["metrics"]["test"]
    compared = other["metrics"]["test"]
    kmers = trained["baselines"][LOGISTIC]["metrics"]["test"]
    rows = len(data["test"])
    majority = max(np.bincount(data["test"]["label"][:])) / rows
    return "\n".join(
        [
            f"A tiny HyenaDNA ({trained['parameters']:,} parameters) learned {plan.rows}, {plan.main.start}.",
            f"  held-out part    {rows} sequences, never used in training or to choose anything",
            f"  accuracy         {test['accuracy']:.4f}   (always the most frequent class: {majority:.4f})",
            f"  macro F1, MCC    {test['f1_macro']:.4f}, {test['mcc']:.4f}   AUROC {test['auroc']:.4f}",
            f"  {plan.other.start:<15}  accuracy {compared['accuracy']:.4f}, MCC {compared['mcc']:.4f}   "
            f"({other['parameters']:,} parameters; in {plan.other.folder})",
            f"  k-mers           accuracy {kmers['accuracy']:.4f}, MCC {kmers['mcc']:.4f}   ({LOGISTIC})",
            f"  reloaded         in a new process, largest difference of a logit: {difference:g}",
            f"  seconds          {seconds:.0f} in all",
            f"In {output}: model.safetensors, config.json, tokenizer*.json; metrics.json, predictions.csv,",
            f"  confusion_matrix.png, {PICTURE_FILE}, checkpoint-* and this text. Use it:",
            "    import hyenadna",
            "    from transformers import pipeline",
            f'    pipeline("text-classification", "{output}")("{data["test"]["sequence"][0]}")',
            f"{output / exported} loads where this package is not installed, which was tried. Publish it:",
            f"    hyenadna push {output / exported} USER/NAME",
        ]
    )


def _replace(output: Path, unfinished: Path) -> None:
    """Replace the old folder by the new one. Two renames: at no time is there half a folder."""
    replaced = output.with_name(f".{output.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)  # left by a demo that was killed in these lines
    if output.exists():
        output.rename(replaced)
    unfinished.rename(output)
    shutil.rmtree(replaced, ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna demo` with these arguments (default: those of the command line)."""
    parser = CommandParser(
        "demo", "Train, test, save and reload on real DNA, in minutes on two cores.", example="hyenadna demo"
    )
    parser.add_argument("--output_dir", default="hyenadna-demo", help="folder for the model")
    parser.add_argument("--data", choices=list(DEMOS), default="tata", help="what to learn")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    passes = ", ".join(f"{name}: {plan.main.epochs:g}" for name, plan in DEMOS.items())
    parser.add_argument("--epochs", type=float, help=f"passes over the training rows ({passes})")
    demo(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
