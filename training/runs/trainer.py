"""The optimisation that every recipe shares: `Trainer` with the paper's settings.

AdamW (0.9, 0.999); the learning rate rises from 1e-6 over the first 1 % of the steps and falls
along a cosine to a tenth; gradients are clipped at norm 1; filters, biases and norms have no weight
decay (arXiv 2306.15794).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import logging

from hyenadna.errors import InputError

from .checkpoints import last_complete_checkpoint, remove_old_checkpoints, write_manifest
from .settings import setting

logger = logging.get_logger(__name__)

_SCHEDULE = "cosine_warmup_with_min_lr"


@dataclass
class RecipeArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of the paper."""

    learning_rate: float = setting(6e-4, "Highest learning rate.")
    weight_decay: float = setting(0.1, "Weight decay of the parameters outside filters, biases and norms.")
    warmup_steps: float = setting(0.01, "Steps of warm-up; below 1, a fraction of all steps.")
    lr_scheduler_type: str = setting(_SCHEDULE, "Shape of the learning rate.")
    report_to: str = setting("none", "Where to send logs, such as tensorboard.", decides=False)
    resume: bool = setting(
        False, "Continue the interrupted run in output_dir, if there is one.", decides=False
    )
    # Trainer writes this to config.json. False, its own default, helps attention only, and what is
    # published should say that the model has a cache.
    use_cache: bool = setting(True, "What config.json says; training never uses a cache.", decides=False)
    dataloader_pin_memory: bool = setting(torch.cuda.is_available(), "Pin batches for a GPU.", decides=False)
    ddp_find_unused_parameters: bool | None = setting(False, "Every parameter takes part.", decides=False)
    # The data sets hand out strings, which the collator turns into what the model takes.
    remove_unused_columns: bool = setting(
        False, "Leave this false: collators need the columns.", decides=False
    )

    def __post_init__(self):
        # The scheduler takes the ends of the curve as shares of its peak: the warm-up starts at
        # 1e-6 and the cosine ends at a tenth (arXiv 2306.15794).
        if self.lr_scheduler_type == _SCHEDULE and not self.lr_scheduler_kwargs and self.learning_rate > 0:
            self.lr_scheduler_kwargs = {
                "min_lr_rate": 0.1,
                "warmup_lr_rate": min(1.0, 1e-6 / self.learning_rate),
            }
        try:
            super().__post_init__()
        except ValueError as error:  # settings that contradict each other
            raise InputError(str(error)) from error

    def check_training(self) -> None:
        """Raise `InputError` if nothing would be trained, or a run could not be resumed."""
        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise InputError(f"num_train_epochs is {self.num_train_epochs}: nothing would be trained")
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be at least 0")
        if self.resume_from_checkpoint:
            raise InputError(
                "resume_from_checkpoint is not used here: --resume continues the run in output_dir"
            )
        if self.save_only_model:
            raise InputError(
                "save_only_model drops the state of the optimiser, without which a run cannot be resumed"
            )


def advice_on_divergence(args: TrainingArguments) -> str:
    """Return the settings that make a training diverge, and what to change."""
    names = ("learning_rate", "max_grad_norm", "weight_decay", "adam_epsilon")
    settings = ", ".join(f"{name} is {getattr(args, name):g}" for name in names)
    cures = ["a lower --learning_rate"]
    if not args.max_grad_norm:
        cures.append("--max_grad_norm 1, which clips the gradients")
    if not args.adam_epsilon:
        cures.append("--adam_epsilon 1e-8, without which unused weights are divided by zero")
    return f"{settings}. Use {' and '.join(cures)}"


class StopAtNaN(TrainerCallback):
    """Stop at the third step in a row whose loss or gradient norm is not finite.

    One such step may come from one odd batch. Gradients that are not finite make every weight NaN,
    so three in a row do not recover, and what would be saved is worthless.
    """

    LIMIT = 3

    def __init__(self):
        self.steps = 0
        self._what = None  # of the current step

    def loss(self, loss: torch.Tensor) -> None:
        """Look at the loss of a batch."""
        if not torch.isfinite(loss).all():
            self._what = f"loss is {float(loss.sum())}"

    def gradient(self, norm: torch.Tensor | float) -> None:
        """Look at the norm of the gradients of a step."""
        if hasattr(norm, "full_tensor"):  # of FSDP2
            norm = norm.full_tensor()
        if self._what is None and not math.isfinite(norm):
            self._what = f"gradient norm is {float(norm)}"

    def on_step_end(self, args, state, control, **kwargs):
        what = self._what
        self._what = None
        if what is None:
            self.steps = 0
            return
        self.steps += 1
        if self.steps < self.LIMIT:
            return
        kept = last_complete_checkpoint(args.output_dir)
        raise InputError(
            f"step {state.global_step}: the {what}, for the third time in a row. "
            f"{advice_on_divergence(args)} ({kept or 'no checkpoint'} is left of before)"
        )


class HyenaDNATrainer(Trainer):
    """`Trainer` for HyenaDNA.

    It knows which parameters must not decay and which tokens nothing predicts, writes checkpoints
    that can be checked, resumes at the end of a run, and stops where the training diverges.
    """

    def __init__(self, *args, **kwargs):
        self._not_finite = StopAtNaN()
        self._checkpoints_to_keep = None  # set by `train`
        super().__init__(*args, **kwargs)
        self.add_callback(self._not_finite)

    def create_accelerator_and_postprocess(self) -> None:
        """Keep FSDP2's weights in float32 under bf16; autocast chooses what runs in bf16.

        Otherwise it would round all of them, also those of the filters, whose sine layers amplify
        that a thousandfold.
        """
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version == 2:
            plugin.mixed_precision_policy = None

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        """Count a language model's targets as the model does, without the first of a row.

        Transformers passes over column 0, which in a left-padded row is a pad, and would count one
        target too many.
        """
        for batch in batch_samples:
            mask = batch.get("attention_mask")
            labels = batch.get("labels")
            if (
                self._loss_shifts_labels
                and mask is not None
                and labels is not None
                and labels.shape == mask.shape
            ):
                # The first token of a row is where the running sum of the mask becomes 1.
                first = (mask != 0) & (mask.cumsum(dim=1) == 1)
                batch["labels"] = labels.masked_fill(first | (mask == 0), -100)
        return super()._get_num_items_in_batch(batch_samples, device)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """Train. The weights at the end are finite, or this raises `InputError`.

        Checkpoints are deleted here and not by Transformers, which deletes the older ones before
        the new one is whole, and takes `checkpoint-3 (copy)` for one of its own.
        """
        self._checkpoints_to_keep = self.args.save_total_limit
        self.args.save_total_limit = None
        try:
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self.args.save_total_limit = self._checkpoints_to_keep
        self.check_weights()

        best = self.state.best_model_checkpoint
        if self.args.should_save and best is not None and self._checkpoints_to_keep == 1:
            # the last one too: the best is the result
            remove_old_checkpoints(Path(best), keep=1, best=best)
        return output

    def _run_epoch(self, *args, **kwargs) -> None:
        """Train an epoch; of a run that was resumed from its last checkpoint, none.

        Trainer looks whether it is at the end only after a step, and would take one step too many.
        A run that stopped early is at its end too: its checkpoint holds how often the evaluations
        got no better.
        """
        stopped_early = any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )
        if self.state.global_step >= self.state.max_steps or stopped_early:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    # ---------------------------------------------------------------------------------- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the model without `training_args.bin`, a pickle that holds `hub_token`."""
        super()._save(output_dir, state_dict)
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _save_checkpoint(self, model: nn.Module, trial: dict | None) -> None:
        """Write a checkpoint and its manifest, then delete older ones. Never write NaN."""
        if not self._weights_are_finite():
            logger.warning(
                f"step {self.state.global_step}: no checkpoint, because the weights hold NaN or infinity"
            )
            return
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process writes the state of its random numbers
        if self.args.should_save:
            checkpoint = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
            write_manifest(checkpoint)
            remove_old_checkpoints(checkpoint, self._checkpoints_to_keep, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def save_run(self, output: Path) -> None:
        """Write the curve, and for an adapter the configuration of the model under it."""
        if not isinstance(self.model, PreTrainedModel):  # labels and pooling go with an adapter
            self.model.config.save_pretrained(output)
        self.state.save_to_json(str(output / "trainer_state.json"))

    # ----------------------------------------------------------------------------- NaN and infinity

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._not_finite.loss(loss)
        return loss

    def _get_grad_norm(self, *args, **kwargs) -> torch.Tensor | float:
        norm = super()._get_grad_norm(*args, **kwargs)
        # With fp16, a step is skipped where its gradients overflow, until they are scaled to fit:
        # nothing is wrong.
        if self.accelerator.scaler is None:
            self._not_finite.gradient(norm)
        return norm

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        """Evaluate, if the weights are finite: no metric could be computed from NaN."""
        self.check_weights()
        return super().evaluation_loop(*args, **kwargs)

    def check_weights(self) -> None:
        """Raise `InputError` if a weight is NaN or infinite."""
        if not self._weights_are_finite():
            raise InputError(
                f"the weights hold NaN or infinity after step {self.state.global_step}: "
                f"{advice_on_divergence(self.args)}"
            )

    def _weights_are_finite(self) -> bool:
        """Return whether the weights of all processes, which FSDP divides, are finite."""
        parameters = [parameter.detach() for parameter in self.model.parameters()]
        parts = [
            parameter.to_local() if hasattr(parameter, "to_local") else parameter for parameter in parameters
        ]
        broken = sum(int(not torch.isfinite(part).all()) for part in parts)
        return not self.accelerator.reduce(torch.tensor(broken, device=self.args.device)).item()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the parameters with weight decay: all but filters, biases and layer norms.

        By name, not by an attribute of the parameter: attributes do not survive `from_pretrained`.
        The default of Transformers would decay the filters' frequencies and matrices, which costs
        accuracy.
        """
        # A layer norm's weight is called `weight` like any other, so norms are found by their
        # class.
        norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
        return [
            name
            for name, _ in model.named_parameters()
            if ".filter_fn." not in name and not name.endswith("bias") and not name.startswith(tuple(norms))
        ]
