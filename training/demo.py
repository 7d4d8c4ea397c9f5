"""Train, test, save and reload on real DNA in a few minutes on two cores: `hyenadna demo`.

    hyenadna demo [--output_dir hyenadna-demo] [--seed 0]

The data are 3,004 stretches of primate DNA: does an exon end (EI), does one begin (IE), or neither
(N)? `splice_junctions.md` has their source, licence and split. The demo

1. trains a tiny model from scratch on four fifths of them, and tests it on the rest;
2. saves it, loads it in a new process through `AutoModelForSequenceClassification`, and compares
   the logits;
3. fine-tunes the checkpoint that comes with the package, pretrained on human chromosome 20, on the
   same rows;
4. exports a folder for the Hub, with a model card that shows the results.

A second run with the same seed replaces the folder, but only after it has succeeded. An interrupted
run is continued.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict

from hyenadna import example_checkpoint
from hyenadna.errors import InputError
from hyenadna.genomics.labelled import load_splice_junctions
from hyenadna.training.runs.files import write_whole
from hyenadna.training.runs.models import RunResult

from .finetune import FinetuneArguments, finetune

SUMMARY_FILE = "demo_summary.txt"
EXPORT_FOLDER = "hyenadna-splice-junctions"
TUNED_FOLDER = "from-human-chr20"

# Chosen on fifths of the training rows, never on the test part. In the order of what they gained:
# - initial weights wider than the paper's 0.02, which suits wider models and longer training;
# - a time axis as long as the sequences;
# - pooling by the last position, which has seen both sides of the junction;
# - a learning rate that falls to 0, so that training ends smoothly;
# - four narrow layers instead of two wide ones.
# The best epoch is the one with the lowest validation loss: on 240 rows, accuracy is too coarse.
_SHARED = {
    "pooling": "last",
    "resid_dropout": 0.1,
    "warmup_steps": 0.1,
    "lr_scheduler_kwargs": {"min_lr_rate": 0.0, "warmup_lr_rate": 1e-3},
    "per_device_train_batch_size": 32,
    "metric_for_best_model": "loss",
}
SETTINGS = {
    **_SHARED,
    "d_model": 64,
    "n_layer": 4,
    "max_seq_len": 64,
    "initializer_range": 0.08,
    "embed_dropout": 0.2,
    "learning_rate": 8e-4,
}
EPOCHS = 16
# For the checkpoint, whose shape is fixed. Of the learning rates 1e-3 and 2e-3, this one had the
# lower validation loss.
TUNED_SETTINGS = {**_SHARED, "embed_dropout": 0.1, "learning_rate": 2e-3}
TUNED_EPOCHS = 12

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
    # One thread, as in the training: another number may round sums otherwise.
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


def export_run(run: Path) -> Path:
    """Export the model into a folder inside `run`, and prove that it loads without this package."""
    from hyenadna.hub_upload.export import export

    folder = run / EXPORT_FOLDER
    # A demo that was killed after this step has left one, and `export` refuses to overwrite it.
    shutil.rmtree(folder, ignore_errors=True)
    export(
        str(run),
        folder,
        data_name="UCI splice junctions (primates, 60 bp; CC BY 4.0)",
        description=(
            "A tiny HyenaDNA that finds splice junctions: does an exon end (EI) in the middle of "
            "these 60 bases, does one begin (IE), or neither (N)? "
            "Made by `hyenadna demo` from random weights, as an example."
        ),
    )
    return folder


def demo(output_dir: str = "hyenadna-demo", seed: int = 0, epochs: float = EPOCHS) -> dict:
    """Run the demo. Return the content of `metrics.json`, and the text of the `summary`.

    Args:
        output_dir: Folder for the model. An earlier demo there is replaced after success.
        seed: The seed of the initial weights, the order of the rows and the validation rows.
        epochs: Passes over the training rows.

    Raises:
        InputError: `output_dir` holds something other than an earlier demo.
        RuntimeError: The reloaded model gives other logits.
        CheckpointError: The exported folder does not load without this package, or gives other
            outputs.

    >>> demo("hyenadna-demo")["metrics"]["test"]["accuracy"]                # doctest: +SKIP
    """
    if epochs <= 0:
        raise InputError(f"epochs is {epochs}: nothing would be trained")
    start = time.monotonic()
    output = Path(output_dir)
    _check_output(output)
    # The name has the settings, so that only a demo with the same ones continues it.
    unfinished = output.with_name(f".{output.name}-seed{seed}-epochs{epochs:g}.unfinished")
    data = load_splice_junctions()
    print(
        f"Training on {len(data['train']):,} of {sum(map(len, data.values())):,} splice junctions (60 "
        f"bp), seed {seed}"
    )

    trained, logits, tuned = _train_both(unfinished, data, seed, epochs)
    # Everything happens in the unfinished folder, so an earlier demo is replaced only at the end.
    difference = _difference_after_reloading(unfinished, data, logits)
    exported = export_run(unfinished).name

    summary = _summary(output, exported, data, trained.results, tuned, difference, time.monotonic() - start)
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
    folder: Path, data: DatasetDict, seed: int, epochs: float
) -> tuple[RunResult, np.ndarray, dict]:
    """Train from scratch and from the checkpoint in the package.

    Returns:
        The run from scratch, its logits on the test part `(rows, labels)`, and the results of the
        run from the checkpoint.
    """
    args = FinetuneArguments(
        output_dir=str(folder), seed=seed, num_train_epochs=epochs, resume=True, **SETTINGS
    )
    tuned_args = FinetuneArguments(
        output_dir=str(folder / TUNED_FOLDER),
        model=str(example_checkpoint()),
        seed=seed,
        num_train_epochs=epochs * TUNED_EPOCHS / EPOCHS,
        resume=True,
        **TUNED_SETTINGS,
    )
    threads = torch.get_num_threads()
    # Steps of 0.1 s are too short to share: on a busy machine the threads wait for each other.
    torch.set_num_threads(1)
    try:
        trained = finetune(args, data)
        batch = trained.tokenizer(data["test"]["sequence"][:], padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = trained.model.eval()(**batch.to(trained.model.device)).logits.float().cpu().numpy()
        print(f"The same rows from the checkpoint in the package, {Path(tuned_args.model).name}")
        tuned = finetune(tuned_args, data).results
    finally:
        torch.set_num_threads(threads)
    return trained, logits, tuned


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
    data: DatasetDict,
    trained: dict,
    tuned: dict,
    difference: float,
    seconds: float,
) -> str:
    test = trained["metrics"]["test"]
    rows = len(data["test"])
    majority = max(np.bincount(data["test"]["label"][:])) / rows
    return "\n".join(
        [
            f"A tiny HyenaDNA ({trained['parameters']:,} parameters) learned splice junctions from scratch.",
            f"  held-out fifth   {rows} sequences, never used in training or to choose anything",
            f"  accuracy         {test['accuracy']:.4f}   (always the most frequent class: {majority:.4f})",
            f"  macro F1, MCC    {test['f1_macro']:.4f}, {test['mcc']:.4f}   AUROC {test['auroc']:.4f}",
            f"  from checkpoint  accuracy {tuned['metrics']['test']['accuracy']:.4f}   "
            f"({tuned['parameters']:,} parameters, pretrained on human chromosome 20; in {TUNED_FOLDER})",
            f"  reloaded         in a new process, largest difference of a logit: {difference:g}",
            f"  seconds          {seconds:.0f} in all",
            f"In {output}: model.safetensors, config.json, tokenizer*.json; metrics.json, predictions.csv,",
            "  confusion_matrix.png, checkpoint-* and this text. Use it:",
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
    parser = argparse.ArgumentParser(
        prog="hyenadna demo", description="Train, test, save and reload on real DNA."
    )
    parser.add_argument("--output_dir", default="hyenadna-demo", help="folder for the model (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")
    parser.add_argument(
        "--epochs", type=float, default=EPOCHS, help="passes over the training rows (%(default)s)"
    )
    demo(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
