"""The documented import path of the trainer, which lies in `runs/trainer.py`."""

from hyenadna.training.runs.trainer import HyenaDNATrainer, RecipeArguments, last_complete_checkpoint, load_checkpoint

__all__ = ["HyenaDNATrainer", "RecipeArguments", "last_complete_checkpoint", "load_checkpoint"]
