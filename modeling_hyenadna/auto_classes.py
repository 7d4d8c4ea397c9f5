"""The classes that a user names, registered with Transformers' Auto classes by importing this file."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hyenadna.tokenization import HyenaDNATokenizer

from .configuration_hyenadna import HyenaDNAConfig
from .modeling_hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    HyenaDNAPreTrainedModel,
)

__all__ = [
    "HyenaDNAConfig",
    "HyenaDNAForCausalLM",
    "HyenaDNAForSequenceClassification",
    "HyenaDNAForTokenClassification",
    "HyenaDNAModel",
    "HyenaDNAPreTrainedModel",
    "HyenaDNATokenizer",
]

AutoConfig.register("hyenadna", HyenaDNAConfig)
AutoModel.register(HyenaDNAConfig, HyenaDNAModel)
AutoModelForCausalLM.register(HyenaDNAConfig, HyenaDNAForCausalLM)
# Trainer's label smoothing shifts the labels of the classes that it finds here, and of no other.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["hyenadna"] = "HyenaDNAForCausalLM"
AutoModelForSequenceClassification.register(HyenaDNAConfig, HyenaDNAForSequenceClassification)
AutoModelForTokenClassification.register(HyenaDNAConfig, HyenaDNAForTokenClassification)


class _ByNameOnly(PreTrainedConfig):
    """Key under which `AutoTokenizer` knows our tokenizer by its class name alone.

    Registered under `HyenaDNAConfig`, `trust_remote_code=True` would run a published repository's
    own tokenizer, which breaks on Transformers 5. A class known only by name counts as explicit
    local code and wins.
    """


AutoTokenizer.register(_ByNameOnly, tokenizer_class=HyenaDNATokenizer)
