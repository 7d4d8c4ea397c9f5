"""The Python snippet of a model card. It is run before the card is written."""

import json

from hyenadna.configuration_hyenadna import HyenaDNAConfig

# Alphabet -> a sequence to try.
EXAMPLES = {
    "dna": "ACGTTGCATTCAGGTAAGTACCTG",
    "rna": "ACGUUGCAUUCAGGUAAGUACCUG",
    "protein": "MKTAYIAKQRQISFVKSHFSRQLE",
    "smiles": "CC(=O)Oc1ccccc1C(=O)O",
}
# What a position is called.
UNITS = {"dna": "base", "rna": "base", "protein": "residue", "smiles": "token"}
# Class of ours -> the class of Transformers that loads it.
AUTO_CLASSES = {
    "HyenaDNAModel": "AutoModel",
    "HyenaDNAForCausalLM": "AutoModelForCausalLM",
    "HyenaDNAForSequenceClassification": "AutoModelForSequenceClassification",
    "HyenaDNAForTokenClassification": "AutoModelForTokenClassification",
}
# Head of an adapter, by its `task_type`: the end of the name of our class, and of peft's.
ADAPTED = {
    "CAUSAL_LM": "ForCausalLM",
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
}

# What turns logits into probabilities. Everything else is a softmax over the classes.
_PROBABILITIES = {"regression": "", "multi_label_classification": ".sigmoid()"}


def usage(config: HyenaDNAConfig, name: str) -> str:
    """Return Python that loads the model `name` without this package and tries it on a sequence.

    The snippet is run. So nothing of `config` gets into it but numbers, names from our tables, and
    letters of one's own in quotation marks.
    """
    architecture = (config.architectures or ["HyenaDNAModel"])[0]
    auto = AUTO_CLASSES.get(architecture, "AutoModel")
    probabilities = _PROBABILITIES.get(str(config.problem_type), ".softmax(-1)")
    unit = unit_of(config)
    sequence = example_of(config)[: max(1, int(config.max_seq_len) - 1)]
    lines = [
        "import torch",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f"name = {json.dumps(name)}",
        "tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        f"model = {auto}.from_pretrained(name, trust_remote_code=True).eval()",
        f'batch = tokenizer({json.dumps(sequence)}, return_tensors="pt")',
        "with torch.inference_mode():",
        *(line.replace("PROBABILITIES", probabilities).replace("UNIT", unit) for line in _OUTPUT[auto]),
    ]
    return "\n".join(lines) + "\n"


def example_of(config: HyenaDNAConfig) -> str:
    """Return a sequence of the alphabet. Of one's own letters, each once: they are plain ASCII."""
    if isinstance(config.alphabet, str) and config.alphabet in EXAMPLES:
        return EXAMPLES[config.alphabet]
    return "".join(config.alphabet)


def unit_of(config: HyenaDNAConfig) -> str:
    """Return what a position of the alphabet is called."""
    return UNITS.get(str(config.alphabet), "letter")


# The class that loads the model -> the last lines of its snippet.
_OUTPUT = {
    "AutoModel": [
        "    per_UNIT = model(**batch).last_hidden_state",
        "print(tuple(per_UNIT.shape))",
    ],
    "AutoModelForCausalLM": [
        '    loss = model(**batch, labels=batch["input_ids"]).loss',
        'print(f"{loss:.4f} nats per UNIT")',
    ],
    "AutoModelForSequenceClassification": [
        "    scores = model(**batch).logits[0]PROBABILITIES",
        "print({model.config.id2label[i]: round(score, 4) for i, score in enumerate(scores.tolist())})",
    ],
    "AutoModelForTokenClassification": [
        "    labels = model(**batch).logits[0].argmax(-1)",
        "print([model.config.id2label[i] for i in labels.tolist()])",
    ],
}


def adapter_usage(config: dict, name: str, head: dict) -> str:
    """Return Python that loads the adapter `name`.

    Args:
        config: The content of its adapter_config.json.
        name: Its folder, or its name on the Hub.
        head: Arguments for `from_pretrained` about the head, which the base model does not have.
    """
    task = config.get("task_type")
    auto = "AutoPeftModel"
    if task:
        auto += ADAPTED.get(task, "ForFeatureExtraction")
    else:
        # Peft imports the model class that the adapter names, but only from libraries it may use.
        head = {"import_allowlist": ["hyenadna"], **head}
    options = "".join(f", {key}={value!r}" for key, value in head.items())
    lines = [
        "import hyenadna",
        f"from peft import {auto}",
        "",
        f"name = {json.dumps(name)}",
        f"model = {auto}.from_pretrained(name{options}).eval()",
    ]
    return "\n".join(lines) + "\n"
