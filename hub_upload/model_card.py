"""Write the model card of an exported folder: what the model is, its data, its results, its use."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hyenadna import HyenaDNAConfig, HyenaDNAPreTrainedModel
from hyenadna.errors import CheckpointError

from .usage import ADAPTED, adapter_usage, unit_of, usage

TEMPLATE = Path(__file__).with_name("model_card_template.md")
ADAPTER_TEMPLATE = Path(__file__).with_name("adapter_card_template.md")
_TASKS = {
    "HyenaDNAModel": "feature-extraction",
    "HyenaDNAForCausalLM": "text-generation",
    "HyenaDNAForSequenceClassification": "text-classification",
    "HyenaDNAForTokenClassification": "token-classification",
}
# The description, if the user gives none.
_WHAT = {
    "feature-extraction": "one vector per {unit}",
    "text-generation": "a language model of {subject}, {unit} by {unit}",
    "text-classification": "a classifier of {subject} ({labels})",
    "token-classification": "a classifier of the {unit}s of {subject} ({labels})",
}


@dataclass(frozen=True)
class _Subject:
    """What the card says about an alphabet.

    Attributes:
        name: What the sequences are, in a description; `sequences` likewise, in the plural.
        tags: On the Hub.
        letters: Which ids the letters have, and how others are read.
        one_way: Why it matters that the model reads from left to right.
    """

    name: str
    sequences: str
    tags: tuple[str, ...]
    letters: str
    one_way: str = "each position sees only what is to its left"


_SUBJECTS = {
    "dna": _Subject(
        "DNA",
        "DNA sequences",
        ("genomics", "dna", "biology"),
        "`A` 7, `C` 8, `G` 9, `T` 10, `N` 11; lower case counts as upper case, `U` as `T`, other IUPAC "
        "letters as `N`",
        "the reverse complement may get another answer (average both if that matters), and each position "
        "sees only what is to its left",
    ),
    "rna": _Subject(
        "RNA",
        "RNA sequences",
        ("genomics", "rna", "biology"),
        "`A` 7, `C` 8, `G` 9, `U` 10, `N` 11; lower case counts as upper case, `T` as `U`, other IUPAC "
        "letters as `N`",
    ),
    "protein": _Subject(
        "proteins",
        "proteins",
        ("protein", "biology"),
        "the 20 amino acids and `X`, `U`, `B`, `O`, `Z` from 7; lower case counts as upper case, `J` and `*` "
        "as `X`",
    ),
    "smiles": _Subject(
        "molecules in SMILES",
        "molecules in SMILES",
        ("chemistry", "smiles"),
        "one per character from 7, but one for `Cl`, `Br` and for frequent atoms in brackets; case matters",
    ),
}


def _subject(config: HyenaDNAConfig) -> _Subject:
    """Return what the card says about the alphabet of a model."""
    if isinstance(config.alphabet, str) and config.alphabet in _SUBJECTS:
        return _SUBJECTS[config.alphabet]
    letters = _code(" ".join(config.alphabet))
    return _Subject("sequences", "sequences", (), f"`{letters}`, from 7")


# Our name of a metric -> the Hub's, where they differ.
_HUB_METRICS = {
    "auprc": "pr_auc",
    "auroc": "roc_auc",
    "f1_macro": "f1",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
# Settings that say where a model was trained, not how.
_NOT_SHOWN = {"data", "validation_data", "test_data", "output_dir", "data_sha256", "id_column"}
_NOT_SHOWN_OF_ADAPTERS = {"auto_mapping", "base_model_name_or_path", "peft_version", "revision"}


def is_hub_id(name: object) -> bool:
    """Return whether a name has the form `USER/NAME` of a repository on the Hub."""
    if not isinstance(name, str):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


# --------------------------------------------------------------------------------- text in Markdown


def plain(text: object) -> str:
    """Escape foreign text so that Markdown shows it, on one line, and does nothing else with it.

    Example:
        >>> plain("# <b>a|b</b>")
        '\\\\# \\\\<b>a\\\\|b\\\\</b>'
    """
    line = " ".join(str(text).split())
    # Anywhere: code, HTML, the border of a table cell; then links.
    line = re.sub(r"[\\`<|]", r"\\\g<0>", line)
    line = line.replace("](", "]\\(").replace("]:", "]\\:")
    # At the start: a heading, quotation, list or rule, or an underline, which would turn the line
    # before it into a heading.
    line = re.sub(r"^(?:#|>|[-+*](?= |$)|[-=~*_]{2,})", r"\\\g<0>", line)
    return re.sub(r"^(\d+)([.)])(?= |$)", r"\1\\\2", line)  # a numbered list


def _code(text: object) -> str:
    """Return foreign text that can be put between backticks."""
    return " ".join(str(text).replace("`", "'").replace("|", "/").split())


def _pictures(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the alternative text and the address of each picture."""
    return [(plain(name), quote(name)) for name in names]


# --------------------------------------------------------------------------- what metrics.json says


def _section(metrics: dict, name: str) -> dict:
    """Return a section of metrics.json, or {} if it is missing or is not an object."""
    section = metrics.get(name)
    return section if isinstance(section, dict) else {}


def _parts(metrics: dict) -> dict[str, dict[str, float]]:
    """Return the numbers of metrics.json: part of the data -> metric -> value."""
    # Most recipes have metrics by part. Those of a plain Trainer have no parts.
    parts = _section(metrics, "metrics")
    if any(isinstance(value, int | float) for value in parts.values()):
        parts = {"evaluation": parts}
    return {
        part: {name: value for name, value in values.items() if isinstance(value, int | float)}
        for part, values in parts.items()
        if isinstance(values, dict)
    }


def _eval_results(metrics: dict, task: str, data_name: str) -> list[EvalResult]:
    # The Hub wants an identifier for the data beside its name: "EPD promoters" -> "epd-promoters".
    words = "".join(c if c.isalnum() else " " for c in data_name.lower()).split()
    return [
        EvalResult(
            task_type=task,
            dataset_type="-".join(words) or "data",
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
    """Return a Markdown table with a row for each metric and a column for each part of the data."""
    parts = _parts(metrics)
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    if not names:
        return ""
    rows = [["metric", *map(plain, parts)], ["---"] * (1 + len(parts))]
    for name in names:
        cells = [f"{values[name]:.4f}" if name in values else "-" for values in parts.values()]
        rows.append([plain(name), *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _baselines(metrics: dict) -> list[str]:
    """What simpler models reach on the same rows: a line for each."""
    lines = []
    for name, result in _section(metrics, "baselines").items():
        parts = _parts(result) if isinstance(result, dict) else {}
        for part, values in parts.items():
            shown = ", ".join(f"{plain(metric)} {value:.4f}" for metric, value in values.items())
            lines.append(f"{plain(name)}, {plain(part)}: {shown}")
    return lines


def _settings(metrics: dict) -> dict:
    """Return the settings that say how a model was trained, without those that are off."""
    return {
        name: value
        for name, value in _section(metrics, "settings").items()
        if name not in _NOT_SHOWN and value is not False and value not in (None, [], {}, "", -1)
    }


def _rows_of_settings(settings: dict) -> list[tuple[str, str]]:
    rows = []
    for name, value in settings.items():
        # Python prints an enumeration as `SchedulerType.COSINE`.
        text = re.sub(r"^SchedulerType\.(\w+)$", lambda match: match[1].lower(), str(value))
        rows.append((_code(name), plain(text)))
    return rows


def _data(metrics: dict, data_name: str | None) -> tuple[str, str]:
    """Return the name of the data, and what the card says about them."""
    settings = _section(metrics, "settings")
    data = settings.get("data") or "unnamed data"
    name = data_name or (", ".join(map(str, data)) if isinstance(data, list) else str(data))
    rows = _section(metrics, "rows")
    counts = ", ".join(f"{count:,} {plain(part)}" for part, count in rows.items() if isinstance(count, int))
    if name == "unnamed data" and not counts:
        text = "Not stated."
    elif counts:
        text = f"{plain(name)}: {counts} sequences."
    else:
        text = f"{plain(name)}."
    if settings.get("data_sha256"):
        text += f" SHA-256 of the sequences and labels: `{_code(settings['data_sha256'])}`."
    return name, text


def _procedure(metrics: dict, origin: object) -> str:
    """Return a sentence on what the training started from and how long it took."""
    if origin:
        start = f"Trained from `{_code(origin)}`"
    elif _section(metrics, "settings"):
        start = "Trained from random weights"
    else:
        start = "Not stated"
    seconds = metrics.get("train_seconds")
    if isinstance(seconds, int | float):
        start += f", in {seconds:,.0f} s"
    return f"{start}."


# ---------------------------------------------------------------------------------------- the cards


def _from_template(
    card_data: ModelCardData, template: Path, results: list[EvalResult], **values
) -> ModelCard:
    """Return the card, after `huggingface_hub` has read back the metrics from it.

    They are stored as YAML, between texts that people wrote: that it was written proves little.

    Raises:
        CheckpointError: The card is not valid.
    """
    try:
        card = ModelCard.from_template(card_data, template_path=str(template), **values)
        read = ModelCard(str(card)).data.eval_results or []
    except ValueError as error:
        raise CheckpointError(f"the model card is not valid: {error}") from error
    if sorted(map(str, read)) != sorted(map(str, results)):
        raise CheckpointError("the model card does not give back the metrics that were written into it")
    return card


def _labels(model: HyenaDNAPreTrainedModel) -> str:
    """Return the classes of a classifier as text; empty for other models."""
    if not type(model).__name__.endswith("Classification"):
        return ""
    return ", ".join(str(label) for label in model.config.id2label.values())


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
        metrics: The content of its metrics.json, or {}.
        pictures: The names of picture files beside the card.
        printed: What the snippet of the card printed when it was run.
        license, data_name, description, base_model: See `export`.

    Raises:
        CheckpointError: The card is not valid.
    """
    architecture = type(model).__name__
    task = _TASKS[architecture]
    origin = base_model or _section(metrics, "settings").get("model")
    name, data = _data(metrics, data_name)
    results = _eval_results(metrics, task, name)
    labels = _labels(model)
    subject = _subject(model.config)
    unit = unit_of(model.config)
    what = _WHAT[task].format(labels=labels, unit=unit, subject=subject.name)
    if task.endswith("classification"):
        what = _WHAT[task].format(labels=labels, unit=unit, subject=subject.sequences)
    card_data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=["hyenadna", *subject.tags, "custom_code"],
        base_model=origin if is_hub_id(origin) else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=model_id if results else None,
        eval_results=results or None,
    )
    versions = _section(metrics, "versions")
    return _from_template(
        card_data,
        TEMPLATE,
        results,
        title=plain(model_id),
        description=plain(description or f"HyenaDNA, {what}."),
        architecture=architecture,
        config=model.config,
        unit=unit,
        subject=subject,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        labels=plain(labels),
        snippet=usage(model.config, model_id),
        printed=printed.rstrip("\n"),
        data=data,
        procedure=_procedure(metrics, origin),
        settings=_rows_of_settings(_settings(metrics)),
        versions=", ".join(f"{plain(package)} {plain(version)}" for package, version in versions.items()),
        table=_table(metrics),
        baselines=_baselines(metrics),
        pictures=_pictures(pictures),
        license=plain(license),
    )


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
    adapted: HyenaDNAConfig | None = None,
) -> ModelCard:
    """Write the card of a peft adapter.

    Args:
        config: Its adapter_config.json, with the public name of the base model.
        head: See `adapter_usage`.
        model_id, metrics, pictures, license, data_name, description: See `model_card`.
        adapted: The configuration of the adapted model, if it is known: it names the alphabet.

    Raises:
        CheckpointError: The card is not valid.
    """
    subject = _subject(adapted or HyenaDNAConfig())
    kind = config.get("peft_type", "adapter")
    base = config["base_model_name_or_path"]
    task = _TASKS[f"HyenaDNA{ADAPTED.get(config.get('task_type'), 'Model')}"]
    name, data = _data(metrics, data_name)
    results = _eval_results(metrics, task, name)
    # First how it was trained, then how the adapter itself is built.
    settings = _settings(metrics) | {
        key: value
        for key, value in config.items()
        if value not in (None, False, [], {}) and key not in _NOT_SHOWN_OF_ADAPTERS
    }
    card_data = ModelCardData(
        license=license,
        library_name="peft",
        pipeline_tag=task,
        tags=["hyenadna", *subject.tags, "base_model:adapter:" + base],
        base_model=base,
        model_name=model_id if results else None,
        eval_results=results or None,
    )
    if description is None:
        description = f"A {kind} adapter for the DNA language model {base} (HyenaDNA)."
        if subject != _SUBJECTS["dna"]:
            description = f"A {kind} adapter for {base} (HyenaDNA), a language model of {subject.name}."
    return _from_template(
        card_data,
        ADAPTER_TEMPLATE,
        results,
        title=plain(model_id),
        description=plain(description),
        snippet=adapter_usage(config, model_id, head),
        data=data,
        settings=_rows_of_settings(settings),
        table=_table(metrics),
        baselines=_baselines(metrics),
        pictures=_pictures(pictures),
        license=plain(license),
    )
