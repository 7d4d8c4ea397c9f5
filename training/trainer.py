"""The documented import path of the trainer. The code is in `runs/`."""

from hyenadna.training.runs.checkpoints import last_complete_checkpoint
from hyenadna.training.runs.models import load_checkpoint
from hyenadna.training.runs.trainer import HyenaDNATrainer, RecipeArguments

__all__ = ["HyenaDNATrainer", "RecipeArguments", "last_complete_checkpoint", "load_checkpoint"]
