"""HyenaDNA, the long-range DNA language model, for Hugging Face Transformers."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

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
]

AutoConfig.register("hyenadna", HyenaDNAConfig)
AutoModel.register(HyenaDNAConfig, HyenaDNAModel)
AutoModelForCausalLM.register(HyenaDNAConfig, HyenaDNAForCausalLM)
AutoModelForSequenceClassification.register(HyenaDNAConfig, HyenaDNAForSequenceClassification)
AutoModelForTokenClassification.register(HyenaDNAConfig, HyenaDNAForTokenClassification)
