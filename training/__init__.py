"""The commands that train, and the command line `hyenadna`.

    from hyenadna.training import FinetuneArguments
    from hyenadna.training.finetune import finetune
    finetune(FinetuneArguments(data="promoters.csv", output_dir="promoters"))

A recipe is a module with a function of the same name. Import the function from its module:
`finetune.finetune`, `pretrain.pretrain`, `soft_prompt.soft_prompt`, `demo.demo`.
"""

from typing import TYPE_CHECKING

from hyenadna.lazy import on_first_use

if TYPE_CHECKING:
    from .adapters import add_lora, add_prompt, load_adapted
    from .finetune import FinetuneArguments
    from .pretrain import PretrainArguments
    from .soft_prompt import SoftPromptArguments
    from .trainer import HyenaDNATrainer, RecipeArguments, last_complete_checkpoint, load_checkpoint

# A name is imported on first use: Trainer and peft take seconds to load.
_FILE_OF_NAME = {
    "FinetuneArguments": "finetune",
    "HyenaDNATrainer": "trainer",
    "PretrainArguments": "pretrain",
    "RecipeArguments": "trainer",
    "SoftPromptArguments": "soft_prompt",
    "add_lora": "adapters",
    "add_prompt": "adapters",
    "last_complete_checkpoint": "trainer",
    "load_adapted": "adapters",
    "load_checkpoint": "trainer",
}

__all__ = [
    "FinetuneArguments",
    "HyenaDNATrainer",
    "PretrainArguments",
    "RecipeArguments",
    "SoftPromptArguments",
    "add_lora",
    "add_prompt",
    "last_complete_checkpoint",
    "load_adapted",
    "load_checkpoint",
]

on_first_use(globals(), _FILE_OF_NAME)
