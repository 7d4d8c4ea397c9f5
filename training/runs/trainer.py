"""The optimisation that every recipe shares: the paper's settings on top of `Trainer` and `TrainingArguments`.

AdamW (0.9, 0.999); the learning rate rises from 1e-6 over the first 1 % of the steps and falls along a cosine to a
tenth; gradients are clipped at norm 1; filters, biases and norms have no weight decay (arXiv 2306.15794).
"""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import logging

from hyenadna import HyenaDNAConfig
from hyenadna.errors import InputError

logger = logging.get_logger(__name__)

_SCHEDULE = "cosine_warmup_with_min_lr"


@dataclass
class RecipeArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of the paper."""

    learning_rate: float = field(default=6e-4, metadata={"help": "Highest learning rate."})
    weight_decay: float = field(default=0.1, metadata={"help": "Of the weights outside filters, biases and norms."})
    warmup_steps: float = field(default=0.01, metadata={"help": "Steps of warm-up; below 1, a fraction of all steps."})
    lr_scheduler_type: str = field(default=_SCHEDULE, metadata={"help": "Shape of the learning rate."})
    report_to: str = field(default="none", metadata={"help": "Where to send logs, such as tensorboard."})
    resume: bool = field(
        default=False, metadata={"help": "Continue the interrupted run in output_dir, if there is one."}
    )
    # Trainer writes this to config.json. False, its own default, helps attention only, and what is published should say
    # that the model has a cache.
    use_cache: bool = field(default=True, metadata={"help": "What config.json says; training never uses a cache."})
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available(), metadata={"help": "Pin batches for a GPU."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter takes part."})
    # The data sets hand out strings, which the collator turns into what the model takes.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave this false: collators need them."})

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


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Return the newest checkpoint in `folder` that is whole, or None. A warning says why a newer one is passed over.

    `trainer_state.json` is the last file of a checkpoint: without a readable one, the run was killed while writing.
    Weights and optimizer are looked through too: a machine that lost its power may leave any of them cut short.
    """
    checkpoints = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(checkpoints):
        try:
            _check_whole(checkpoint)
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            logger.warning(f"{checkpoint} is broken and passed over: {error}")
            continue
        return str(checkpoint)
    return None


def _check_whole(checkpoint: Path) -> None:
    """Raise an error if a file is missing or damaged. Nothing is unpickled: `torch.save` writes zip archives."""
    json.loads((checkpoint / "trainer_state.json").read_text())
    names = {path.name for path in checkpoint.iterdir()}
    for kind, starts in (("weights", ("model", "adapter_model", "pytorch_model")), ("optimizer", ("optimizer",))):
        if not any(name.startswith(starts) for name in names):  # FSDP has files and folders of its own names
            raise ValueError(f"it has no {kind}")
    for path in checkpoint.rglob("*"):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:  # compares the size of the file with its header
                file.keys()
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"{damaged} in {path.name} is damaged")


def load_checkpoint(
    cls: type[PreTrainedModel], name: str, settings: dict, new: str | None = None
) -> tuple[PreTrainedModel, HyenaDNAConfig]:
    """Load a checkpoint in float32 and return the model and the checkpoint's own configuration.

    Args:
        cls: Class of the model.
        name: Folder or id on the Hub.
        settings: Fields of the configuration to change.
        new: Prefix of the parameters that the checkpoint may lack or have in another shape.

    Raises:
        InputError: The checkpoint cannot be loaded, is of another architecture, or lacks parameters.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model {name!r} is neither a folder with a checkpoint nor loads from the Hub: {error} (Lightning "
            "checkpoints and other layouts: `hyenadna convert` first)"
        ) from error
    if not isinstance(config, HyenaDNAConfig):
        raise InputError(f"model {name!r} is a {config.model_type!r} model, not 'hyenadna'")
    try:
        model, report = cls.from_pretrained(
            name, **settings, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, StrictDataclassError) as error:
        raise InputError(f"model {name!r} cannot be loaded: {error}") from error
    wrong = [*report["missing_keys"], *(mismatch[0] for mismatch in report["mismatched_keys"])]
    wrong = sorted(key for key in wrong if new is None or not key.startswith(new))
    if wrong:
        raise InputError(f"model {name!r} does not fit its config.json: missing or of another shape are {wrong[:5]}")
    return model, config
