"""What a training prints on its way: one bar in a terminal, one line for each entry of the log."""

from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer

__all__ = ["LogLines", "OneBar", "line_of", "print_readably"]

# How fast it went is in metrics.json, and on the bar.
_NOT_PRINTED = ("total_flos", "epoch", "step")
_SPEEDS = ("_runtime", "_per_second")


def line_of(logs: Mapping[str, Any]) -> str:
    """Return an entry of Trainer's log as a line.

    >>> line_of({"eval_loss": 0.675, "eval_mcc": 0.4648, "eval_runtime": 0.6, "epoch": 1.0})
    'epoch 1  validation: loss 0.675  mcc 0.4648'
    """
    words = []
    if "epoch" in logs:
        words.append(f"epoch {float(logs['epoch']):.4g}")
    if any(name.startswith("eval_") for name in logs):
        words.append("validation:")
    for name, value in logs.items():
        if name in _NOT_PRINTED or name.endswith(_SPEEDS):
            continue
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        words.append(f"{name.removeprefix('eval_')} {text}")
    return "  ".join(words).replace("validation:  ", "validation: ")


class LogLines(PrinterCallback):
    """Print each entry of the log. For log files, where each redraw of a bar would be a line."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_local_process_zero and logs:
            print(line_of(logs), flush=True)


class OneBar(ProgressCallback):
    """A bar of the training, without one for each evaluation, and the log in lines above it."""

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.training_bar is None:
            super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and logs:
            self.training_bar.write(line_of(logs))


def print_readably(trainer: Trainer) -> None:
    """Replace what Trainer prints. In a notebook, where it draws a table, nothing changes."""
    for theirs, ours in ((ProgressCallback, OneBar), (PrinterCallback, LogLines)):
        if trainer.pop_callback(theirs) is not None:
            trainer.add_callback(ours)
