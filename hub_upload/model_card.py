"""The model card of an exported folder: what the model is, what it learned from and how well, and how to use it."""

import json
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hyenadna import HyenaDNAConfig, HyenaDNAPreTrainedModel
from hyenadna.errors import CheckpointError

TEMPLATE = Path(__file__).with_name("model_card_template.md")
_TASKS = {
    "HyenaDNAModel": "feature-extraction",
    "HyenaDNAForCausalLM": "text-generation",
    "HyenaDNAForSequenceClassification": "text-classification",
    "HyenaDNAForTokenClassification": "token-classification",
}
# Head of an adapter, by its `task_type`: of a class of ours and of peft.
_ADAPTED = {"CAUSAL_LM": "ForCausalLM", "SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}
# Our name of a metric -> the Hub's, where they differ.
_HUB_METRICS = {"mcc": "matthews_correlation", "auroc": "roc_auc", "f1_macro": "f1", "pearson": "pearsonr"}
_HUB_METRICS |= {"spearman": "spearmanr", "auprc": "pr_auc"}
_EXAMPLE = "ACGTTGCATTCAGGTAAGTACCTG"
# Settings that say where and not how.
_NOT_SHOWN = {"data", "validation_data", "test_data", "output_dir", "data_sha256", "id_column"}


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `USER/NAME` of a repository on the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def usage(config: HyenaDNAConfig, name: str) -> str:
    """Python that loads the model called `name` without this package, and prints what it says about a sequence."""
    architecture = (config.architectures or ["HyenaDNAModel"])[0]
    auto = architecture.replace("HyenaDNAModel", "HyenaDNA").replace("HyenaDNA", "AutoModel", 1)
    lines = [
        "import torch",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f"name = {json.dumps(name)}",
        "tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        f"model = {auto}.from_pretrained(name, trust_remote_code=True).eval()",
        f'batch = tokenizer("{_EXAMPLE[: config.max_seq_len - 1] or "A"}", return_tensors="pt")',
        "with torch.inference_mode():",
    ]
    if architecture == "HyenaDNAForCausalLM":
        lines += [
            '    loss = model(**batch, labels=batch["input_ids"]).loss',
            'print(f"{loss:.4f} nats per base")',
        ]
    elif architecture == "HyenaDNAForSequenceClassification":
        function = {"regression": "", "multi_label_classification": ".sigmoid()"}.get(
            config.problem_type, ".softmax(-1)"
        )
        lines += [
            f"    scores = model(**batch).logits[0]{function}",
            "print({model.config.id2label[i]: round(score, 4) for i, score in enumerate(scores.tolist())})",
        ]
    elif architecture == "HyenaDNAForTokenClassification":
        lines += [
            "    labels = model(**batch).logits[0].argmax(-1)",
            "print([model.config.id2label[i] for i in labels.tolist()])",
        ]
    else:
        lines += ["    per_base = model(**batch).last_hidden_state", "print(tuple(per_base.shape))"]
    return "\n".join(lines) + "\n"


def adapter_usage(config: dict, name: str, head: dict) -> str:
    """Python that loads the adapter called `name`; `head` holds what its base model does not know of the head."""
    task = config.get("task_type")
    auto = f"AutoPeftModel{_ADAPTED.get(task, 'ForFeatureExtraction' if task else '')}"
    if not task:  # peft imports the class that the adapter names, of libraries that it was told of
        head = {"import_allowlist": ["hyenadna"], **head}
    options = "".join(f", {key}={value!r}" for key, value in head.items())
    lines = ["import hyenadna", f"from peft import {auto}", "", f"name = {json.dumps(name)}"]
    return "\n".join([*lines, f"model = {auto}.from_pretrained(name{options}).eval()"]) + "\n"


def _parts(metrics: dict) -> dict[str, dict[str, float]]:
    """The numbers of metrics.json: part of the data -> metric -> value."""
    found = metrics.get("metrics") or {}
    if any(isinstance(value, int | float) for value in found.values()):
        found = {"evaluation": found}
    return {
        part: {name: value for name, value in values.items() if isinstance(value, int | float)}
        for part, values in found.items()
        if isinstance(values, dict)
    }


def _eval_results(metrics: dict, task: str, data_name: str) -> list[EvalResult]:
    slug = "-".join("".join(c if c.isalnum() else " " for c in data_name.lower()).split()) or "data"
    return [
        EvalResult(
            task_type=task,
            dataset_type=slug,
            dataset_name=data_name,
            dataset_split=part,
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=name,
            metric_value=value,
        )
        for part, values in _parts(metrics).items()
        for name, value in values.items()
    ]


def _table(metrics: dict) -> str:
    parts = _parts(metrics)
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    if not names:
        return ""
    rows = [[name, *(f"{values[name]:.4f}" if name in values else "-" for values in parts.values())] for name in names]
    head = ["metric", *parts]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _settings(metrics: dict) -> dict:
    """The settings that say how a model was trained, without those that are off."""
    settings = metrics.get("settings") or {}
    off = (None, [], {}, "", -1)
    return {name: v for name, v in settings.items() if name not in _NOT_SHOWN and v is not False and v not in off}


def _shown(value) -> str:
    value = re.sub(r"^SchedulerType\.(\w+)$", lambda match: match[1].lower(), str(value))  # as Python prints an enum
    return value.replace("|", "\\|").replace("\n", " ")


def _data(metrics: dict, data_name: str | None) -> tuple[str, str]:
    """The name of the data, and what the card says about it."""
    settings = metrics.get("settings") or {}
    data = settings.get("data") or "unnamed data"
    name = data_name or (", ".join(map(str, data)) if isinstance(data, list) else data)
    rows = metrics.get("rows") or {}
    counts = ", ".join(f"{count:,} {part}" for part, count in rows.items() if isinstance(count, int))
    text = (
        "Not stated."
        if name == "unnamed data" and not counts
        else f"{name}{f': {counts} sequences' if counts else ''}."
    )
    if settings.get("data_sha256"):
        text += f" SHA-256 of the sequences and labels: `{settings['data_sha256']}`."
    return name, text


def _validated(card: ModelCard, results: list[EvalResult]) -> ModelCard:
    """The card, after `huggingface_hub` has read back what it says."""
    try:
        read = ModelCard(str(card)).data.eval_results or []
    except ValueError as error:
        raise CheckpointError(f"the model card is not valid: {error}") from error
    if sorted(map(str, read)) != sorted(map(str, results)):
        raise CheckpointError("the model card does not give back the metrics that were written into it")
    return card


def model_card(
    model: HyenaDNAPreTrainedModel,
    model_id: str,
    metrics: dict,
    pictures: list[str],
    printed: str,
    *,
    license: str = "apache-2.0",
    data_name: str | None = None,
    description: str | None = None,
    base_model: str | None = None,
) -> ModelCard:
    """Write the card of a model.

    Args:
        model: The model.
        model_id: Its name on the Hub, or the name of its folder.
        metrics: The content of its metrics.json; may be empty.
        pictures: File names beside the card.
        printed: What the snippet printed.
        license, data_name, description, base_model: See `export`.

    Raises:
        CheckpointError: The card is not valid.
    """
    config, architecture = model.config, type(model).__name__
    settings, task = metrics.get("settings") or {}, _TASKS[architecture]
    origin = base_model or settings.get("model")
    name, data = _data(metrics, data_name)
    results = _eval_results(metrics, task, name)
    classifier = architecture.endswith("Classification")
    labels = ", ".join(str(label) for label in config.id2label.values()) if classifier else ""
    what = {
        "feature-extraction": "one vector per base",
        "text-generation": "a language model of DNA, base by base",
        "text-classification": f"a classifier of DNA sequences ({labels})",
        "token-classification": f"a classifier of the bases of DNA sequences ({labels})",
    }[task]
    start = f"Trained from `{origin}`" if origin else "Trained from random weights" if settings else "Not stated"
    seconds = metrics.get("train_seconds")
    start += f", in {seconds:,.0f} s." if isinstance(seconds, int | float) else "."
    card_data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=["hyenadna", "genomics", "dna", "biology", "custom_code"],
        base_model=origin if origin and is_hub_id(origin) else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=model_id if results else None,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        model_id=model_id,
        description=description or f"HyenaDNA, {what}.",
        architecture=architecture,
        config=config,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        labels=_shown(labels),
        snippet=usage(config, model_id),
        printed=printed.rstrip("\n"),
        data=data,
        procedure=start,
        settings=[(name, _shown(value)) for name, value in _settings(metrics).items()],
        versions=", ".join(f"{k} {v}" for k, v in (metrics.get("versions") or {}).items()),
        table=_table(metrics),
        pictures=pictures,
        license=license,
    )
    return _validated(card, results)


def adapter_card(
    config: dict,
    head: dict,
    model_id: str,
    metrics: dict,
    pictures: list[str],
    *,
    license: str = "apache-2.0",
    data_name: str | None = None,
    description: str | None = None,
) -> ModelCard:
    """Write the card of a peft adapter.

    Args:
        config: Its adapter_config.json, which names the base model as others know it.
        head: See `adapter_usage`.
        model_id, metrics, pictures, license, data_name, description: See `model_card`.

    Raises:
        CheckpointError: The card is not valid.
    """
    kind, base = config.get("peft_type", "adapter"), config["base_model_name_or_path"]
    task = _TASKS[f"HyenaDNA{_ADAPTED.get(config.get('task_type'), 'Model')}"]
    name, data = _data(metrics, data_name)
    results = _eval_results(metrics, task, name)
    hidden = {"auto_mapping", "base_model_name_or_path", "peft_version", "revision"}
    settings = _settings(metrics) | {
        k: v for k, v in config.items() if v not in (None, False, [], {}) and k not in hidden
    }
    card_data = ModelCardData(
        license=license,
        library_name="peft",
        pipeline_tag=task,
        tags=["hyenadna", "genomics", "dna", "biology", "base_model:adapter:" + base],
        base_model=base,
        model_name=model_id if results else None,
        eval_results=results or None,
    )
    sections = [
        f"# {model_id}",
        description or f"A {kind} adapter for the DNA language model `{base}` (HyenaDNA).",
        "## Use",
        f"```python\n{adapter_usage(config, model_id, head)}```",
        "## Training data\n\n" + data,
        "## Settings\n\n| Setting | Value |\n|---|---|\n"
        + "\n".join(f"| `{key}` | {_shown(value)} |" for key, value in settings.items()),
        "## Evaluation\n\n" + (_table(metrics) or "No evaluation came with this adapter."),
        *(f"![{picture}]({picture})" for picture in pictures),
        "## Intended use and limits\n\nAs those of its base model; for research, and not for diagnosis or treatment.",
        f"## Licence\n\n{license} (the adapter). The base model has its own.",
        "## Citation\n\nNguyen et al., HyenaDNA: Long-Range Genomic Sequence Modeling at Single Nucleotide Resolution, "
        "NeurIPS 2023, https://arxiv.org/abs/2306.15794",
    ]
    card = ModelCard(f"---\n{card_data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")
    return _validated(card, results)
