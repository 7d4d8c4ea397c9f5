"""Make a folder that loads anywhere, with or without this package, and prove it: `hyenadna export SOURCE DEST`.

    hyenadna export promoters promoters-hub --data_name "EPD promoters" --license apache-2.0
    hyenadna push promoters-hub me/promoters

DEST holds safetensors, a configuration that names the code of every head, that code (for `trust_remote_code=True`), a
tokenizer that needs none, the model card, metrics and pictures. It appears only after a new process, in which
`hyenadna` cannot be imported, has loaded each head from it and computed the same outputs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

import hyenadna
from hyenadna import HyenaDNAConfig, modeling_hyenadna
from hyenadna.errors import CheckpointError
from hyenadna.tokenization import HyenaDNATokenizer

from .convert import new_folder, unusable
from .model_card import adapter_card, adapter_usage, is_hub_id, model_card, usage

HEADS = {
    "AutoModel": hyenadna.HyenaDNAModel,
    "AutoModelForCausalLM": hyenadna.HyenaDNAForCausalLM,
    "AutoModelForSequenceClassification": hyenadna.HyenaDNAForSequenceClassification,
    "AutoModelForTokenClassification": hyenadna.HyenaDNAForTokenClassification,
}
_SHARD = "5GB"
_UNUSABLE = (OSError, ValueError, TypeError, RuntimeError, StrictDataclassError, SafetensorError)

# A user without this package: run by a new Python, with an empty module cache and no network.
_ALONE = """
import contextlib, io, json, sys
sys.modules["hyenadna"] = None  # so that importing it fails
import torch, transformers
from safetensors.torch import save_file
from transformers import AutoTokenizer

folder, texts, snippet, out, heads = json.load(sys.stdin)
tensors = {}
for trust in (False, True):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    tensors |= {f"{name}.{trust}": tensor for name, tensor in batch.items()}
for head in heads:
    torch.manual_seed(0)  # of a head that the folder has no weights for
    model = getattr(transformers, head).from_pretrained(folder, trust_remote_code=True).eval()
    if not type(model).__module__.startswith("transformers_modules."):
        raise SystemExit(f"{head} loaded {type(model)}, which is not the code of the folder")
    with torch.inference_mode():
        tensors[head] = model(**batch)[0].float().contiguous()
save_file(tensors, out)
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    exec(snippet, {})
print(json.dumps(printed.getvalue()))
"""

# The outputs of what the snippets of adapter cards load.
_ADAPTER = """
import sys
import torch

for snippet in sys.argv[1:]:
    names = {}
    torch.manual_seed(0)
    exec(snippet, names)
    with torch.inference_mode():
        print("output", names["model"](input_ids=torch.arange(7, 11).repeat(2)[None])[0].double().sum().item())
"""


def _probe_texts(max_length: int) -> list[str]:
    """Sequences of two lengths, with every kind of letter, that fit the model with their `[SEP]`."""
    bases = torch.randint(4, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    long = "".join("ACGT"[i] for i in bases)
    return [text[: max(1, max_length - 1)] for text in ("ACGTNacgtnRU", long)]


@torch.inference_mode()
def _outputs(model, batch) -> torch.Tensor:
    return model.eval()(**{name: tensor.to(model.device) for name, tensor in batch.items()})[0].float().cpu()


def verify(folder: str | Path, model=None) -> str:
    """Prove that a folder loads without this package, and computes what this package computes.

    Args:
        folder: An exported folder.
        model: What it was exported from; its outputs are compared too.

    Returns:
        What the snippet of the model card printed there.

    Raises:
        CheckpointError: A head or the tokenizer does not load, or its outputs differ.
    """
    folder = Path(folder)
    expected, texts, verbosity = {}, [], logging.get_verbosity()
    logging.set_verbosity_error()  # that a head has no weights is no news
    try:
        config = HyenaDNAConfig.from_pretrained(folder)
        texts = _probe_texts(config.max_seq_len)
        batch = HyenaDNATokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        for head, cls in HEADS.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                expected[head] = _outputs(cls.from_pretrained(folder), batch)
    except _UNUSABLE as error:
        raise CheckpointError(f"{folder} does not load here: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    own = next((head for head, cls in HEADS.items() if cls.__name__ == (config.architectures or [""])[0]), "AutoModel")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "outputs.safetensors"
        environment = {k: v for k, v in os.environ.items() if "TOKEN" not in k or k == "TOKENIZERS_PARALLELISM"}
        environment |= {"HF_HOME": scratch, "HF_MODULES_CACHE": f"{scratch}/modules", "HF_HUB_OFFLINE": "1"}
        snippet = usage(config, str(folder.absolute()))
        message = json.dumps([str(folder.absolute()), texts, snippet, str(out), list(HEADS)])
        child = subprocess.run(
            [sys.executable, "-c", _ALONE], input=message, env=environment, cwd=scratch, capture_output=True, text=True
        )
        if child.returncode:
            reason = child.stderr.strip()[-2000:]
            raise CheckpointError(f"{folder} does not load where hyenadna is not installed:\n{reason}")
        alone = load_file(out)
    for name, tensor in batch.items():
        for trust in (False, True):
            if not torch.equal(alone[f"{name}.{trust}"], tensor):
                raise CheckpointError(f"the tokenizer of {folder} gives other {name} where hyenadna is not installed")
    pairs = [(head, expected[head], alone[head]) for head in HEADS]
    if model is not None:
        pairs.append((own, _outputs(model, batch), alone[own]))
    for head, ours, theirs in pairs:
        close = ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * ours.abs().max())
        if not close:
            raise CheckpointError(
                f"{head} of {folder} computes other outputs where hyenadna is not installed: shape "
                f"{tuple(theirs.shape)} for {tuple(ours.shape)}"
                + (f", difference {(ours - theirs).abs().max():g}" if ours.shape == theirs.shape else "")
            )
    return json.loads(child.stdout.splitlines()[-1])


def _load(source: str):
    """The model of a folder or repository, of the class that its configuration names."""
    try:
        config = HyenaDNAConfig.from_pretrained(source)
        names = {cls.__name__: cls for cls in HEADS.values()}
        cls = names.get((config.architectures or ["HyenaDNAModel"])[0])
        if config.model_type != "hyenadna" or cls is None:
            raise CheckpointError(f"{source} is a {config.model_type!r} model of class {config.architectures}")
        model, report = cls.from_pretrained(source, output_loading_info=True)
    except CheckpointError:
        raise
    except _UNUSABLE as error:
        raise CheckpointError(
            f"{source!r} is neither a folder with a model nor loads from the Hub: {error}\n(Lightning checkpoints and "
            "other layouts: `hyenadna convert` first)"
        ) from error
    if wrong := unusable(model.state_dict()):
        raise CheckpointError(f"{source} holds what no model computes with: {'; '.join(wrong[:5])}")
    wrong = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if wrong:
        raise CheckpointError(f"{source} has no weights, or of another shape, for {wrong[:5]}")
    return model.eval()


def _metrics(source: Path) -> dict:
    """metrics.json of a training run, without the paths of the machine that it ran on."""
    path = source / "metrics.json"
    if not path.is_file():
        return {}
    try:
        metrics = json.loads(path.read_text())
        settings = metrics.get("settings") or {}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    metrics["settings"] = {k: _without_folders(v, source, k == "model") for k, v in settings.items()}
    return metrics


def _is_here(name: str, source: Path) -> bool:
    """Whether a name is of a file or folder here, or was where the run started: above its own folder, as a rule."""
    return any((folder / name).exists() for folder in (Path(), *source.absolute().parents))


def _without_folders(value, source: Path, is_model: bool):
    """A setting with file names in the place of paths. Names on the Hub, `me/promoters`, stay."""
    if isinstance(value, list):
        return [_without_folders(item, source, is_model) for item in value]
    if isinstance(value, str) and len(value) < 256 and ("/" in value or os.sep in value):
        path = Path(value)
        is_file = path.suffix and not is_model  # a model's name may have a dot
        if path.is_absolute() or value[0] in ".~" or is_file or _is_here(value, source):
            return path.name
    return value


def _write_model(model, source: str, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size=_SHARD)
    code = Path(modeling_hyenadna.__file__)
    for file in {str(code), *get_relative_import_files(code)}:  # what the Hub's own copier would take
        shutil.copyfile(file, folder / Path(file).name)
    # Not by `register_for_auto_class`: it would list this one head, and change what later `save_pretrained` calls do.
    auto_map = {"AutoConfig": f"configuration_hyenadna.{HyenaDNAConfig.__name__}"}
    auto_map |= {head: f"{code.stem}.{cls.__name__}" for head, cls in HEADS.items()}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}, indent=2, sort_keys=True) + "\n")
    try:
        tokenizer = HyenaDNATokenizer.from_pretrained(source)
    except OSError:  # a checkpoint without tokenizer files; the vocabulary is always the published one
        tokenizer = HyenaDNATokenizer()
    tokenizer.model_max_length = model.config.max_seq_len
    tokenizer.save_pretrained(folder)
    stored = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("is_local", "local_files_only"):  # how it was loaded here, which Transformers stores
        stored.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(stored, indent=2) + "\n")


def _write_adapter(source: Path, folder: Path, base_model: str | None) -> tuple[dict, dict]:
    """Copy a peft adapter and prove that the snippet of its card loads it in a new process.

    Returns:
        Its configuration, and what the snippet has to say of its head.
    """
    try:
        config = json.loads((source / "adapter_config.json").read_text())
        tensors = load_file(source / "adapter_model.safetensors")
        adapted = HyenaDNAConfig.from_pretrained(source) if (source / "config.json").is_file() else None
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{source} holds no adapter_model.safetensors; save the adapter again with a newer peft"
        ) from error
    except _UNUSABLE as error:
        raise CheckpointError(f"the adapter in {source} cannot be read: {error}") from error
    if wrong := unusable(tensors):
        raise CheckpointError(f"{source} holds what no model computes with: {'; '.join(wrong[:5])}")
    base = config.get("base_model_name_or_path") or ""
    public = base_model or base
    if not is_hub_id(public) or _is_here(public, source):
        raise CheckpointError(
            f"the adapter names the base model {public!r}, which is on this machine only. Publish that first "
            "(`hyenadna export`, `hyenadna push`), and name it here: --base_model USER/NAME"
        )
    score = next((tensor for name, tensor in tensors.items() if name.endswith("score.weight")), None)
    head = {} if score is None else {"num_labels": len(score)}
    if head and adapted is not None:  # as `hyenadna finetune --lora_rank` and `hyenadna soft-prompt` save it
        head = {"id2label": adapted.id2label, "label2id": adapted.label2id, "pooling": adapted.pooling}
        head |= {"problem_type": adapted.problem_type} if adapted.problem_type else {}
    for path in (source / "adapter_config.json", source / "adapter_model.safetensors", *source.glob("tokenizer*.json")):
        shutil.copyfile(path, folder / path.name)
    # With the base model as it is called here; only then its public name is written.
    snippets = [adapter_usage(config, str(place.absolute()), head) for place in (source, folder)]
    child = subprocess.run([sys.executable, "-c", _ADAPTER, *snippets], capture_output=True, text=True, check=False)
    if child.returncode:
        raise CheckpointError(f"the adapter does not load in a new process:\n{child.stderr.strip()[-2000:]}")
    there, here = (line.split()[1] for line in child.stdout.splitlines() if line.startswith("output "))
    if there != here:
        raise CheckpointError(f"the adapter computes something else in the new folder: {here}, not {there}")
    config["base_model_name_or_path"] = public
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return config, head


def export(
    source: str,
    dest: str | Path,
    *,
    license: str = "apache-2.0",
    data_name: str | None = None,
    description: str | None = None,
    base_model: str | None = None,
) -> str:
    """Export a trained model, or a peft adapter, into the folder `dest`, which is made whole or not at all.

    Args:
        source: The folder of a training run or a model, or a repository on the Hub.
        dest: A folder that does not exist yet. Its name is the model's name in the card.
        license: Of the weights, as the Hub spells it.
        data_name: What the model was trained on, in words; by default the name of its file.
        description: What the model is, in one or two sentences.
        base_model: What it was trained from, on the Hub; by default what metrics.json or the adapter says.

    Returns:
        A report.

    Raises:
        CheckpointError: `source` cannot be read, `dest` is not free, or the proof failed; then there is no `dest`.
    """
    if base_model is not None and not is_hub_id(base_model):
        raise CheckpointError(f"base_model {base_model!r}: the name of a repository on the Hub, USER/NAME, is expected")
    run = Path(source)
    about = {"license": license, "data_name": data_name, "description": description}
    with new_folder(dest) as (folder, unfinished):
        metrics = _metrics(run)
        pictures = sorted(run.glob("*.png")) if run.is_dir() else []
        for picture in pictures:
            shutil.copyfile(picture, unfinished / picture.name)
        if metrics:
            (unfinished / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        names = [picture.name for picture in pictures]
        if (run / "adapter_config.json").is_file():
            config, head = _write_adapter(run, unfinished, base_model)
            card = adapter_card(config, head, folder.name, metrics, names, **about)
            proved = "an adapter: loads in a new process with the same outputs"
        else:
            model = _load(str(source))
            _write_model(model, str(source), unfinished)
            printed = verify(unfinished, model)
            card = model_card(model, folder.name, metrics, names, printed, **about, base_model=base_model)
            proved = f"{len(HEADS)} heads and the tokenizer load without hyenadna, with the same outputs"
        card.save(unfinished / "README.md")
    lines = [f"  {path.stat().st_size / 1e6:10.3f} MB  {path.name}" for path in sorted(folder.iterdir())]
    return "\n".join([f"exported {folder}", *lines, f"proved: {proved}", f"next: hyenadna push {folder} USER/NAME"])


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna export` with these arguments (default: those of the command line)."""
    parser = argparse.ArgumentParser(
        prog="hyenadna export", description="Make a folder that loads anywhere, with or without this package."
    )
    parser.add_argument("source", metavar="SOURCE", help="folder of a training run, model or adapter, or a repository")
    parser.add_argument("dest", metavar="DEST", help="folder to make; its name is the model's name in the card")
    parser.add_argument("--license", default="apache-2.0", help="of the weights, as the Hub spells it (%(default)s)")
    parser.add_argument("--data_name", help="what it was trained on, in words (the name of the file)")
    parser.add_argument("--description", help="what the model is, in one or two sentences")
    parser.add_argument("--base_model", help="what it was trained from, on the Hub: USER/NAME")
    print(export(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
