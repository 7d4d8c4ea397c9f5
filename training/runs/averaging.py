"""A running average of the weights during a training: `WeightAverage`.

Single steps scatter around the best weights, most of all on few rows. Their exponential average
lies nearer to it (Polyak and Juditsky, 1992; Izmailov et al., arXiv 1803.05407). The model is
evaluated and saved with the average, while the training goes on with the weights themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

AVERAGE_FILE = "averaged_weights.safetensors"  # in a checkpoint, beside the weights themselves
_FEWEST_STEPS = 20  # a shorter average would hardly be one


class WeightAverage(TrainerCallback):
    """The exponential average of the trained weights, updated after each optimizer step.

    With the decay d, a step that lies n steps back counts d^n. The decay is 1 - 1 / steps, so the
    average reaches back about that many steps. In the beginning it is lower: the initial weights
    must not count for long.

    Args:
        model: Its parameters with `requires_grad` are averaged, in their own dtype.
        steps: Optimizer steps that the average reaches back.
    """

    def __init__(self, model: nn.Module, steps: float):
        self.decay = 1 - 1 / max(_FEWEST_STEPS, steps)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        # A resumed run has read its average already.
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in self.trained.items()}

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [p.detach() for p in self.trained.values()]
        update = get_ema_multi_avg_fn(decay)
        update(list(self.average.values()), weights, step)

    @torch.no_grad()
    def take_over(self) -> None:
        """Overwrite the weights of the model with the average."""
        for name, parameter in self.trained.items():
            parameter.copy_(self.average[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model for a while."""
        weights = {name: p.detach().clone() for name, p in self.trained.items()}
        self.take_over()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(weights[name])

    def save(self, checkpoint: Path) -> None:
        """Write the average into a checkpoint."""
        save_file({name: weight.cpu() for name, weight in self.average.items()}, checkpoint / AVERAGE_FILE)

    def load(self, checkpoint: Path) -> None:
        """Read the average from a checkpoint."""
        stored = load_file(checkpoint / AVERAGE_FILE)
        self.average = {name: stored[name].to(p.device) for name, p in self.trained.items()}
