"""Default target modules for `peft`, so that its configurations work without `target_modules`.

`peft` is optional and takes seconds to import. We register with it if it is already imported, and
never import it.
"""

import sys

# The dense layers of the operator and of the MLP. Not those of the filters: small changes there
# have large effects.
_TARGETS = ["in_proj", "out_proj", "fc1", "fc2"]
_SPECIAL_TARGETS = {
    "IA3_TARGET_MODULES_MAPPING": ["in_proj", "fc2"],
    "IA3_FEEDFORWARD_MODULES_MAPPING": ["fc2"],  # of the targets, those whose input is scaled
    "LNTUNING_TARGET_MODULES_MAPPING": ["norm1", "norm2", "ln_f"],
}


def register_with_peft() -> None:
    """Register default target modules, and a refusal of prefix tuning, if `peft` was imported."""
    constants = sys.modules.get("peft.utils.constants")
    if constants is None:
        return
    for name, mapping in vars(constants).items():
        name = name.removeprefix("TRANSFORMERS_MODELS_TO_")
        if name in _SPECIAL_TARGETS or name.endswith("_TARGET_MODULES_MAPPING"):
            mapping.setdefault("hyenadna", _SPECIAL_TARGETS.get(name, _TARGETS))
        elif name == "PREFIX_TUNING_POSTPROCESS_MAPPING":
            mapping.setdefault("hyenadna", _refuse_prefix)


def _refuse_prefix(past_key_values):
    raise ValueError(
        "Prefix tuning puts learned keys and values in front of those of the attention, and HyenaDNA "
        "has no attention. Use `PromptTuningConfig` or `PromptEncoderConfig` (soft prompts), or `LoraConfig`."
    )
