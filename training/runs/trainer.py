"""The optimisation that every recipe shares: the paper's settings on top of `Trainer` and `TrainingArguments`.

AdamW (0.9, 0.999); the learning rate rises from 1e-6 over the first 1 % of the steps and falls along a cosine to a
tenth; gradients are clipped at norm 1; filters, biases and norms have no weight decay (arXiv 2306.15794).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from hyenadna.errors import InputError

from .settings import setting

_SCHEDULE = "cosine_warmup_with_min_lr"


@dataclass
class RecipeArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of the paper."""

    learning_rate: float = setting(6e-4, "Highest learning rate.")
    weight_decay: float = setting(0.1, "Weight decay of the parameters outside filters, biases and norms.")
    warmup_steps: float = setting(0.01, "Steps of warm-up; below 1, a fraction of all steps.")
    lr_scheduler_type: str = setting(_SCHEDULE, "Shape of the learning rate.")
    report_to: str = setting("none", "Where to send logs, such as tensorboard.", decides=False)
    resume: bool = setting(False, "Continue the interrupted run in output_dir, if there is one.", decides=False)
    # Trainer writes this to config.json. False, its own default, helps attention only, and what is published should say
    # that the model has a cache.
    use_cache: bool = setting(True, "What config.json says; training never uses a cache.", decides=False)
    dataloader_pin_memory: bool = setting(torch.cuda.is_available(), "Pin batches for a GPU.", decides=False)
    ddp_find_unused_parameters: bool | None = setting(False, "Every parameter takes part.", decides=False)
    # The data sets hand out strings, which the collator turns into what the model takes.
    remove_unused_columns: bool = setting(False, "Leave this false: collators need the columns.", decides=False)

    def __post_init__(self):
        if self.lr_scheduler_type == _SCHEDULE and not self.lr_scheduler_kwargs and self.learning_rate > 0:
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.1, "warmup_lr_rate": min(1.0, 1e-6 / self.learning_rate)}
        try:
            super().__post_init__()
        except ValueError as error:  # settings that contradict each other
            raise InputError(str(error)) from error

    def check_training(self) -> None:
        """Raise `InputError` for settings with which a recipe would train nothing, or could not be resumed."""
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise InputError(f"num_train_epochs is {self.num_train_epochs}: nothing would be trained")
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be at least 0")
        if self.resume_from_checkpoint:
            raise InputError("resume_from_checkpoint is not used here: --resume continues the run in output_dir")
        if self.save_only_model:
            raise InputError("save_only_model drops the state of the optimiser, without which a run cannot be resumed")


class HyenaDNATrainer(Trainer):
    """`Trainer` that knows which parameters of HyenaDNA must not decay, and which tokens nothing predicts."""

    def create_accelerator_and_postprocess(self) -> None:
        """Let FSDP2 hand out the weights in float32 under bf16 too; autocast knows what may be computed in bf16.

        Otherwise it would round all of them, also those of the filters, whose sine layers amplify that a thousandfold.
        """
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version == 2:
            plugin.mixed_precision_policy = None

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        """Count the targets of a language model as the model does: the first token of a row has no context.

        Transformers passes over column 0, which in a left-padded row is a pad, and would count one target too many.
        """
        for batch in batch_samples:
            mask, labels = batch.get("attention_mask"), batch.get("labels")
            if self._loss_shifts_labels and mask is not None and labels is not None and labels.shape == mask.shape:
                first = (mask != 0) & (mask.cumsum(dim=1) == 1)
                batch["labels"] = labels.masked_fill(first | (mask == 0), -100)
        return super()._get_num_items_in_batch(batch_samples, device)

    def save_run(self, output: Path) -> None:
        """Write what belongs beside the saved model: the curve, and for an adapter the configuration under it."""
        if not isinstance(self.model, PreTrainedModel):  # labels and pooling go with an adapter
            self.model.config.save_pretrained(output)
        (output / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nothing here needs
        self.state.save_to_json(str(output / "trainer_state.json"))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters with weight decay: all but filters, biases and layer norms.

        By name, not by an attribute of the parameter: attributes do not survive `from_pretrained`. The default of
        Transformers would decay the filters' frequencies and matrices, which costs accuracy.
        """
        norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
        return [
            name
            for name, _ in model.named_parameters()
            if ".filter_fn." not in name and not name.endswith("bias") and not name.startswith(tuple(norms))
        ]
