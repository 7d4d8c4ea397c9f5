"""The optimisation that all recipes share: `Trainer` with the paper's settings (arXiv 2306.15794).

- AdamW with betas 0.9 and 0.999; no weight decay for filters, biases and layer norms;
- the learning rate rises from 1e-6 over the first 1 % of the steps, then falls along a cosine to a
  tenth of its peak;
- gradients are clipped at norm 1.
"""

import math
import pickle
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import logging

from hyenadna.errors import InputError, reading

from .averaging import WeightAverage
from .checkpoints import last_complete_checkpoint, remove_old_checkpoints, write_manifest
from .progress import print_readably
from .settings import setting

logger = logging.get_logger(__name__)

_SCHEDULE = "cosine_warmup_with_min_lr"
_LARGEST_SEED = 2**32 - 1  # of NumPy


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
    # Trainer writes this into config.json. Its default, False, saves memory with attention only,
    # and would make the published model generate without its cache.
    use_cache: bool = setting(True, "What config.json says; training never uses a cache.", decides=False)
    dataloader_pin_memory: bool = setting(torch.cuda.is_available(), "Pin batches for a GPU.", decides=False)
    ddp_find_unused_parameters: bool | None = setting(False, "Every parameter takes part.", decides=False)
    # Trainer would remove the column `sequence`: the model does not know it. The collator needs it.
    remove_unused_columns: bool = setting(
        False, "Leave this false: collators need the columns.", decides=False
    )

    def __post_init__(self):
        # The scheduler wants both ends of the curve as fractions of the peak: 1e-6 where the
        # warm-up starts, a tenth where the cosine ends (arXiv 2306.15794).
        if self.lr_scheduler_type == _SCHEDULE and not self.lr_scheduler_kwargs and self.learning_rate > 0:
            self.lr_scheduler_kwargs = {
                "min_lr_rate": 0.1,
                "warmup_lr_rate": min(1.0, 1e-6 / self.learning_rate),
            }
        # `TrainingArguments` refuses settings that contradict each other.
        try:
            super().__post_init__()
        except ValueError as error:
            raise InputError(str(error)) from error

    def check_training(self) -> None:
        """Raise `InputError` if nothing would be trained, or a run could not be resumed."""
        for f in fields(self):
            value = getattr(self, f.name)
            # An infinite norm clips nothing, and says so.
            if isinstance(value, float) and not math.isfinite(value) and f.name != "max_grad_norm":
                raise InputError(f"{f.name} is {value}; it must be a finite number")
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
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise InputError(f"seed is {self.seed}; it must be at least 0 and at most {_LARGEST_SEED:,}")
        if self.resume_from_checkpoint:
            raise InputError(
                "resume_from_checkpoint is not used here: --resume continues the run in output_dir"
            )
        if self.save_only_model:
            raise InputError(
                "save_only_model drops the state of the optimiser, without which a run cannot be resumed"
            )


def let_others_read(folder: Path) -> None:
    """Give weights the permissions of the configuration beside them.

    safetensors lets nobody but their owner read them, whatever the umask says.
    """
    for name in ("adapter_config.json", "config.json"):
        if (folder / name).exists():
            for weights in folder.glob("*.safetensors"):
                shutil.copymode(folder / name, weights)
            return


def advice_on_divergence(args: TrainingArguments) -> str:
    """Return a text with the settings that can make a training diverge, and what to change."""
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

    A single one may come from an odd batch. But once a weight is NaN, no later step recovers, and a
    checkpoint would be worthless.
    """

    LIMIT = 3

    def __init__(self):
        self.steps = 0
        self._what = None  # what was not finite in the current step

    def loss(self, loss: torch.Tensor) -> None:
        """Take note of the loss of a batch."""
        if not torch.isfinite(loss).all():
            self._what = f"loss is {float(loss.sum())}"

    def gradient(self, norm: torch.Tensor | float) -> None:
        """Take note of the gradient norm of a step."""
        if hasattr(norm, "full_tensor"):  # with FSDP2, a distributed tensor
            norm = norm.full_tensor()
        if self._what is None and not math.isfinite(norm):
            self._what = f"gradient norm is {float(norm)}"

    def on_step_end(self, args, state, control, **kwargs):
        what = self._what
        self._what = None
        # Only steps in a row count.
        if what is None:
            self.steps = 0
            return
        self.steps += 1
        if self.steps < self.LIMIT:
            return
        kept = last_complete_checkpoint(args.output_dir)
        raise InputError(
            f"step {state.global_step}: the {what}, for the third time in a row. "
            f"{advice_on_divergence(args)} (the last checkpoint before that: {kept or 'none'})"
        )


class HyenaDNATrainer(Trainer):
    """`Trainer` for HyenaDNA.

    It knows which parameters must not decay and which tokens have no prediction. Its checkpoints
    can be verified, a finished run can be resumed, and a training that diverges is stopped. With
    `weight_averaging` among its arguments, it evaluates and keeps the average of the weights.
    """

    def __init__(self, *args, **kwargs):
        self._not_finite = StopAtNaN()
        self._checkpoints_to_keep = None  # set by `train`
        self._average: WeightAverage | None = None  # during a training with `weight_averaging`
        super().__init__(*args, **kwargs)
        self.add_callback(self._not_finite)
        print_readably(self)

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        with reading("the optimiser takes other settings", errors=(TypeError, ValueError)):
            return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, *args, **kwargs):
        with reading("lr_scheduler_type takes other lr_scheduler_kwargs", errors=(TypeError, ValueError)):
            return super().create_scheduler(*args, **kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        """Keep the weights in float32 under FSDP2 with bf16.

        FSDP2 would round all of them to bf16. The sine layers of the filters amplify that a
        thousandfold. Autocast runs in bf16 what can be.
        """
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version == 2:
            plugin.mixed_precision_policy = None

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        """Count the targets of a language model as the model does: all but the first of each row.

        Transformers leaves out column 0. In a row padded on the left that is a pad, so it would
        count one target too many.
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
                # The first token is where the running sum of the mask becomes 1.
                first = (mask != 0) & (mask.cumsum(dim=1) == 1)
                batch["labels"] = labels.masked_fill(first | (mask == 0), -100)
        return super()._get_num_items_in_batch(batch_samples, device)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """Train. Raise `InputError` if the weights are not finite at the end."""
        # We delete old checkpoints, not Transformers: it does so before the new one is complete,
        # and takes `checkpoint-3 (copy)` for one of its own.
        self._checkpoints_to_keep = self.args.save_total_limit
        self.args.save_total_limit = None
        self._begin_average(resume_from_checkpoint)
        try:
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except pickle.UnpicklingError as error:  # PyTorch runs none
            raise InputError(
                f"{resume_from_checkpoint} holds a pickle that would run code: nothing was run. Remove the "
                "folder, and --resume goes on from the checkpoint before"
            ) from error
        finally:
            self.args.save_total_limit = self._checkpoints_to_keep
        self._end_average()
        self.check_weights()

        best = self.state.best_model_checkpoint
        last = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if self.args.should_save and resume_from_checkpoint and last.is_dir():
            # A run that was killed while it deleted a checkpoint left the rest of it.
            remove_old_checkpoints(last, self._checkpoints_to_keep, best)
        if self.args.should_save and best is not None and self._checkpoints_to_keep == 1:
            # Even the last one goes: the best is the result.
            remove_old_checkpoints(Path(best), keep=1, best=best)
        return output

    def _run_epoch(self, *args, **kwargs) -> None:
        """Train an epoch, unless the run was resumed at its end.

        Trainer checks for the end only after a step, so a finished run would take one step too
        many.
        """
        # Early stopping is an end as well. A checkpoint stores how many evaluations got no better.
        stopped_early = any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )
        if self.state.global_step >= self.state.max_steps or stopped_early:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    # ---------------------------------------------------------------------- averages of the weights

    def _begin_average(self, checkpoint: str | bool | None) -> None:
        """Start the average of the weights if the settings ask for one, or read that of a checkpoint."""
        epochs = getattr(self.args, "weight_averaging", 0)
        if not epochs:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            logger.warning("weight_averaging is left out: FSDP and DeepSpeed divide the weights")
            return
        batches = len(self.get_train_dataloader())
        steps = math.ceil(batches / self.args.gradient_accumulation_steps)
        self._average = WeightAverage(self.model, epochs * steps)
        if checkpoint:
            self._average.load(Path(str(checkpoint)))
        self.add_callback(self._average)

    def _end_average(self) -> None:
        """Leave the average in the model: that of the best checkpoint, if there is a best one."""
        if self._average is None:
            return
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None:
            self._average.load(Path(best))
        self._average.take_over()
        self.remove_callback(self._average)
        self._average = None

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Evaluate, during a training with `weight_averaging` the average of the weights."""
        with nullcontext() if self._average is None else self._average.in_place():
            return super().evaluate(*args, **kwargs)

    # ---------------------------------------------------------------------------------- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the model without `training_args.bin`, a pickle that contains `hub_token`."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        let_others_read(folder)

    def _save_checkpoint(self, model: nn.Module, trial: dict | None) -> None:
        """Write a checkpoint, then its manifest, then delete older ones. NaN is never written."""
        if not self._weights_are_finite():
            logger.warning(
                f"step {self.state.global_step}: no checkpoint, because the weights hold NaN or infinity"
            )
            return
        checkpoint = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        if self.args.should_save:
            # A run that was killed may have left a part of this one. Its files must not mix.
            shutil.rmtree(checkpoint, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        # Every process writes its own random state. The manifest has to list them all.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            if self._average is not None:
                self._average.save(checkpoint)
            write_manifest(checkpoint)
            remove_old_checkpoints(checkpoint, self._checkpoints_to_keep, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def save_run(self, output: Path) -> None:
        """Write the training curve and, for an adapter, the configuration of its model."""
        # peft does not store labels and pooling, which belong to the head.
        if not isinstance(self.model, PreTrainedModel):
            self.model.config.save_pretrained(output)
        self.state.save_to_json(str(output / "trainer_state.json"))

    # ----------------------------------------------------------------------------- NaN and infinity

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._not_finite.loss(loss)
        return loss

    def _get_grad_norm(self, *args, **kwargs) -> torch.Tensor | float:
        norm = super()._get_grad_norm(*args, **kwargs)
        # With fp16, gradients overflow now and then. The scaler skips such a step and adapts.
        if self.accelerator.scaler is None:
            self._not_finite.gradient(norm)
        return norm

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        """Evaluate, after a check that the weights are finite: metrics of NaN raise odd errors."""
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
        """Return whether all weights are finite, in all processes: FSDP divides them."""
        parameters = [parameter.detach() for parameter in self.model.parameters()]
        local = [
            parameter.to_local() if hasattr(parameter, "to_local") else parameter for parameter in parameters
        ]
        # All processes must come to the same answer, or some would stop and the others wait.
        broken = sum(int(not torch.isfinite(weights).all()) for weights in local)
        return not self.accelerator.reduce(torch.tensor(broken, device=self.args.device)).item()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of parameters with weight decay: all but filters, biases, layer norms.

        Transformers' default would decay the frequencies and matrices of the filters, which costs
        accuracy. Names, not attributes of the parameters: `from_pretrained` drops attributes.
        """
        # The weight of a layer norm is called `weight` like any other. Find norms by their class.
        norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
        return [
            name
            for name, _ in model.named_parameters()
            if ".filter_fn." not in name and not name.endswith("bias") and not name.startswith(tuple(norms))
        ]
