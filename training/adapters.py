"""The documented import path of soft prompts and LoRA. The code is in `runs/adapters.py`."""

from hyenadna.training.runs.adapters import add_lora, add_prompt, load_adapted

__all__ = ["add_lora", "add_prompt", "load_adapted"]
