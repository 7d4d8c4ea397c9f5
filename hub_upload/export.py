"""Export a model as a folder that loads with or without this package: `hyenadna export`.

    hyenadna export promoters promoters-hub --data_name "EPD promoters" --license apache-2.0
    hyenadna push promoters-hub me/promoters

The folder holds safetensors, a configuration that names the code of every head, that code (for
`trust_remote_code=True`), a tokenizer that needs no code, the model card, metrics and pictures.

It appears only once it is proved: a new process, in which `hyenadna` cannot be imported, has loaded
every head from it and computed the same outputs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import get_token
from safetensors.torch import load_file
from transformers.utils import logging

import hyenadna
from hyenadna import HyenaDNAConfig, HyenaDNAPreTrainedModel
from hyenadna.errors import CheckpointError, check_index, only_a_path
from hyenadna.flags import CommandParser
from hyenadna.tokenization import HyenaDNATokenizer, find_alphabet
from hyenadna.tokenization.alphabets_hyenadna import DNA

from .access_tokens import hide_secrets
from .contents import CODE, own_code
from .folders import check_counts, leads_out, new_folder, read_json, readable, unusable, write_json
from .layouts import own_fields
from .model_card import adapter_card, is_hub_id, model_card
from .usage import adapter_usage, usage

HEADS = {
    "AutoModel": hyenadna.HyenaDNAModel,
    "AutoModelForCausalLM": hyenadna.HyenaDNAForCausalLM,
    "AutoModelForSequenceClassification": hyenadna.HyenaDNAForSequenceClassification,
    "AutoModelForTokenClassification": hyenadna.HyenaDNAForTokenClassification,
}
_SHARD = "5GB"
_PNG = b"\x89PNG\r\n"

# What a user without this package does. Run by a new Python with an empty module cache, offline.
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

# Prints the outputs of the adapters that the snippets of their cards load.
_ADAPTER = """
import sys
import torch

for snippet in sys.argv[1:]:
    names = {}
    torch.manual_seed(0)
    exec(snippet, names)
    with torch.inference_mode():
        output = names["model"](input_ids=torch.arange(7, 11).repeat(2)[None])[0]
        print("output", output.double().sum().item())
"""


def _probe_texts(config: HyenaDNAConfig) -> list[str]:
    """Return a short sequence with every kind of letter and a longer one, both within the model."""
    alphabet = find_alphabet(config.alphabet, config.complement)
    letters = "ACGT" if alphabet == DNA else [letter for letter in alphabet.letters if len(letter) == 1]
    drawn = torch.randint(len(letters), (256,), generator=torch.Generator().manual_seed(0)).tolist()
    long = "".join(letters[i] for i in drawn)
    every = "ACGTNacgtnRU"
    if alphabet != DNA:
        read_as = "".join(others for _, others in alphabet.read_as)
        every = "".join(alphabet.letters) + read_as + "".join(letters).lower()
    return [text[: max(1, config.max_seq_len - 1)] for text in (every, long)]


@torch.inference_mode()
def _outputs(model: HyenaDNAPreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**{name: tensor.to(model.device) for name, tensor in batch.items()})[0].float().cpu()


def verify(folder: str | Path, model: HyenaDNAPreTrainedModel | None = None) -> str:
    """Prove that a folder loads without this package and gives the same outputs as with it.

    This runs the Python code in the folder, in a process that has no access token.

    Args:
        folder: An exported folder.
        model: The model it was exported from, to compare its outputs as well.

    Returns:
        What the snippet of the model card printed there.

    Raises:
        CheckpointError: A head or the tokenizer does not load, or outputs differ.
    """
    folder = Path(folder).absolute()
    verbosity = logging.get_verbosity()
    # Every head is loaded, and most have no weights in the folder. Transformers would warn of each.
    logging.set_verbosity_error()
    try:
        with readable(f"{folder} does not load here", folder):
            config = _load_config(folder)
            texts = _probe_texts(config)
            batch = HyenaDNATokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
            expected = _outputs_of_heads(folder, batch)
    finally:
        logging.set_verbosity(verbosity)
    # The same inputs in a process without this package, with the code of the folder.
    alone, printed = _run_alone(folder, config, texts)

    # The tokenizer is loaded with and without trust: neither may run code of the folder for it.
    for name, tensor in batch.items():
        for trust in (False, True):
            if not torch.equal(alone[f"{name}.{trust}"], tensor):
                raise CheckpointError(
                    f"the tokenizer of {folder} gives other {name} where hyenadna is not installed"
                )
    for head in HEADS:
        _check_close(folder, head, expected[head], alone[head])
    if model is not None:
        architecture = (config.architectures or [""])[0]
        head = next((head for head, cls in HEADS.items() if cls.__name__ == architecture), "AutoModel")
        _check_close(folder, head, _outputs(model, batch), alone[head])
    return printed


def _load_config(source: str | Path) -> HyenaDNAConfig:
    stored, _ = HyenaDNAConfig.get_config_dict(source)
    check_counts(stored, source)
    return HyenaDNAConfig.from_pretrained(source)


def _outputs_of_heads(folder: Path, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the output of each head of a folder, computed with this package."""
    outputs = {}
    for head, cls in HEADS.items():
        with torch.random.fork_rng(devices=[]):
            # A head without weights in the folder is random. The other process uses this seed too.
            torch.manual_seed(0)
            outputs[head] = _outputs(cls.from_pretrained(folder), batch)
    return outputs


def _run_alone(folder: Path, config: HyenaDNAConfig, texts: list[str]) -> tuple[dict[str, torch.Tensor], str]:
    """Return the outputs of a folder and of its snippet, from a process without hyenadna."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "outputs.safetensors"
        message = json.dumps([str(folder), texts, usage(config, str(folder)), str(out), list(HEADS)])
        child = subprocess.run(
            [sys.executable, "-c", _ALONE],
            input=message,
            env=_environment_without_secrets(scratch),
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        if child.returncode:
            raise CheckpointError(
                f"{folder} does not load where hyenadna is not installed: {_last_line(child.stderr)}"
            )
        with readable(f"{folder} loads where hyenadna is not installed, but its outputs cannot be read"):
            return load_file(out), json.loads(child.stdout.splitlines()[-1])


def _last_line(errors: str) -> str:
    """What the last line of a traceback says, without secrets."""
    lines = hide_secrets(errors).strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _environment_without_secrets(home: str) -> dict[str, str]:
    """Return an environment without access tokens, offline and with empty caches."""
    # The child runs code of the folder. It needs neither the user's token nor a network.
    token = get_token()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "TOKENIZERS_PARALLELISM" or ("TOKEN" not in name and value != token)
    }
    environment["HF_HOME"] = home
    environment["HF_MODULES_CACHE"] = f"{home}/modules"
    environment["HF_HUB_OFFLINE"] = "1"
    return environment


def _check_close(folder: Path, head: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    # Not bit by bit: the number of threads of a process may change the order of a sum.
    if ours.shape != theirs.shape:
        difference = f"shape {tuple(theirs.shape)} for {tuple(ours.shape)}"
    elif torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * ours.abs().max()):
        return
    else:
        difference = f"difference {(ours - theirs).abs().max():g}"
    raise CheckpointError(
        f"{head} of {folder} computes other outputs where hyenadna is not installed: {difference}"
    )


# --------------------------------------------------------------------------------- what is exported


def _load(source: str) -> HyenaDNAPreTrainedModel:
    """Load the model of a folder or repository, of the class that its configuration names."""
    nowhere = (
        f"{source!r} is neither a folder with a model nor loads from the Hub (Lightning "
        "checkpoints and other layouts: `hyenadna convert` first)"
    )
    reason = only_a_path(source)
    if reason is not None:
        raise CheckpointError(f"{nowhere}: {reason}")
    with readable(nowhere, source):
        check_index(source, raises=CheckpointError)
        config = _load_config(source)
        names = {cls.__name__: cls for cls in HEADS.values()}
        cls = names.get((config.architectures or ["HyenaDNAModel"])[0])
        if config.model_type != "hyenadna" or cls is None:
            raise CheckpointError(
                f"{source} is a {config.model_type!r} model of class {config.architectures}"
            )
        model, report = cls.from_pretrained(source, output_loading_info=True)
    # Transformers loads NaN, and fills missing weights with random ones. Publish neither.
    wrong = unusable(model.state_dict())
    if wrong:
        raise CheckpointError(f"{source} holds what no model computes with: {'; '.join(wrong[:5])}")
    missing = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if missing:
        raise CheckpointError(f"{source} has no weights, or of another shape, for {missing[:5]}")
    return model.eval()


def _metrics(source: Path) -> dict:
    """Return the metrics.json of a training run, without the paths of the machine it ran on."""
    path = source / "metrics.json"
    if not path.is_file():
        return {}
    metrics = read_json(path)
    settings = metrics.get("settings") or {}
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"{path} cannot be read: `settings` is a {type(settings).__name__}, not an object"
        )
    metrics["settings"] = {
        name: _without_folders(value, source, is_model=name == "model") for name, value in settings.items()
    }
    return metrics


def _is_here(name: str, source: Path) -> bool:
    """Return whether a path exists, seen from here or from a folder above the run.

    A run stores paths relative to where it was started, which is usually above its folder.
    """
    return any((folder / name).exists() for folder in (Path(), *source.absolute().parents))


def _without_folders(value: object, source: Path, is_model: bool) -> object:
    """Return a setting with paths cut to their file names. Names on the Hub (`me/x`) stay."""
    if isinstance(value, list):
        return [_without_folders(item, source, is_model) for item in value]
    if isinstance(value, str) and len(value) < 256 and ("/" in value or os.sep in value):
        path = Path(value)
        # `me/model-v1.5` is no file: the name of a model may have a dot.
        is_file = path.suffix and not is_model
        if path.is_absolute() or value[0] in ".~" or is_file or _is_here(value, source):
            return path.name
    return value


def _write_model(model: HyenaDNAPreTrainedModel, source: str, folder: Path) -> None:
    """Write weights, configuration, code and tokenizer, for use with and without this package."""
    model.save_pretrained(folder, max_shard_size=_SHARD)
    for name, file in own_code().items():
        shutil.copyfile(file, folder / name)

    # Keep our fields only: another may name code that is not in the folder.
    config = read_json(folder / "config.json")
    config = {name: value for name, value in config.items() if name in own_fields()}
    # Not by `register_for_auto_class`: it would list only this head, and change every later
    # `save_pretrained` of this process.
    config["auto_map"] = {"AutoConfig": f"configuration_hyenadna.{HyenaDNAConfig.__name__}"}
    config["auto_map"] |= {head: f"{CODE.stem}.{cls.__name__}" for head, cls in HEADS.items()}
    write_json(folder / "config.json", config, sort_keys=True)

    tokenizer = _load_tokenizer(source, model.config)
    tokenizer.model_max_length = model.config.max_seq_len
    tokenizer.save_pretrained(folder)
    # Likewise. Transformers also stores how the tokenizer was loaded (`is_local`), which goes.
    fields = own_tokenizer_fields()
    stored = read_json(folder / "tokenizer_config.json")
    stored = {name: value for name, value in stored.items() if name in fields}
    write_json(folder / "tokenizer_config.json", stored)


def _load_tokenizer(source: str, config: HyenaDNAConfig) -> HyenaDNATokenizer:
    has_files = any(Path(source, file).exists() for file in ("tokenizer.json", "tokenizer_config.json"))
    with readable(f"the tokenizer of {source!r} cannot be read", source):
        try:
            tokenizer = HyenaDNATokenizer.from_pretrained(source)
        except OSError:
            if has_files:
                raise
            # The checkpoint has no tokenizer files. Its configuration names the alphabet.
            return HyenaDNATokenizer(alphabet=config.alphabet, complement=config.complement)
    if tokenizer.alphabet != config.alphabet:
        raise CheckpointError(
            f"the tokenizer of {source!r} has the alphabet {tokenizer.alphabet!r}, but its config.json "
            f"{config.alphabet!r}; write the right one into config.json"
        )
    return tokenizer


def own_tokenizer_fields() -> set[str]:
    """Return the fields of tokenizer_config.json to export: ours, and some that users may set."""
    others = {
        "added_tokens_decoder",
        "alphabet",
        "complement",
        "model_input_names",
        "split_special_tokens",
        "truncation_side",
    }
    with tempfile.TemporaryDirectory() as scratch:
        HyenaDNATokenizer(model_max_length=1).save_pretrained(scratch)
        return others | set(read_json(Path(scratch) / "tokenizer_config.json"))


def _copy_pictures(source: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Copy the pictures of a run. Return their names, and those of files that are not pictures."""
    if not source.is_dir():
        return [], []
    copied = []
    left_out = []
    for picture in sorted(source.glob("*.png")):
        # Not through a link: it could publish any file of this machine.
        is_own_file = picture.is_file() and not leads_out(picture, source)
        if is_own_file and picture.read_bytes().startswith(_PNG):
            shutil.copyfile(picture, folder / picture.name)
            copied.append(picture.name)
        else:
            left_out.append(picture.name)
    return copied, left_out


def _read_adapter(source: Path) -> tuple[dict, dict[str, torch.Tensor], HyenaDNAConfig | None]:
    """Return settings and tensors of a peft adapter, and its model's configuration or None."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        path = source / name
        if not path.is_file():
            raise CheckpointError(f"{source} holds no {name}; save the adapter again with a newer peft")
        if leads_out(path, source):
            raise CheckpointError(f"{path} is a link to something outside of {source}; replace it by a copy")
    with readable(f"the adapter in {source} cannot be read", source):
        config = read_json(source / "adapter_config.json")
        tensors = load_file(source / "adapter_model.safetensors")
        adapted = None
        if (source / "config.json").is_file():
            if read_json(source / "config.json").get("model_type") != "hyenadna":
                raise CheckpointError(
                    f"{source / 'config.json'} is not the configuration of a HyenaDNA model"
                )
            adapted = _load_config(source)
    wrong = unusable(tensors)
    if wrong:
        raise CheckpointError(f"{source} holds what no model computes with: {'; '.join(wrong[:5])}")
    return config, tensors, adapted


def _head_of_adapter(tensors: dict[str, torch.Tensor], adapted: HyenaDNAConfig | None) -> dict:
    """Return the arguments that the snippet of an adapter's card needs to build its head."""
    score = next((tensor for name, tensor in tensors.items() if name.endswith("score.weight")), None)
    if score is None:
        return {}
    if adapted is None:
        return {"num_labels": len(score)}
    # `hyenadna finetune --lora_rank` and `hyenadna soft-prompt` save the configuration beside it.
    head = {"id2label": adapted.id2label, "label2id": adapted.label2id, "pooling": adapted.pooling}
    if adapted.problem_type:
        head["problem_type"] = adapted.problem_type
    return head


def _write_adapter(source: Path, folder: Path, base_model: str | None) -> tuple[dict, dict]:
    """Copy a peft adapter and prove that the snippet of its card loads it in a new process.

    Returns:
        Its configuration, and the arguments for its head; see `_head_of_adapter`.
    """
    config, tensors, adapted = _read_adapter(source)
    # Nobody else can load an adapter whose base is a path of this machine.
    public = base_model or config.get("base_model_name_or_path") or ""
    if not is_hub_id(public) or _is_here(public, source):
        raise CheckpointError(
            f"the adapter names the base model {public!r}, which is on this machine only. Publish "
            "that first (`hyenadna export`, `hyenadna push`), and name it here: --base_model USER/NAME"
        )
    head = _head_of_adapter(tensors, adapted)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(source / name, folder / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = source / name
        if path.is_file() and not leads_out(path, source):
            read_json(path)
            shutil.copyfile(path, folder / name)
    _prove_adapter(config, source, folder, head)
    # Only now: the proof needs the base model under its local name.
    config["base_model_name_or_path"] = public
    write_json(folder / "adapter_config.json", config, sort_keys=True)
    return config, head


def _prove_adapter(config: dict, source: Path, folder: Path, head: dict) -> None:
    # The adapter before and after copying, in one process: their outputs must be equal.
    snippets = [adapter_usage(config, str(place.absolute()), head) for place in (source, folder)]
    child = subprocess.run(
        [sys.executable, "-c", _ADAPTER, *snippets], capture_output=True, text=True, check=False
    )
    if child.returncode:
        raise CheckpointError(
            f"the adapter in {source} does not load in a new process: {_last_line(child.stderr)}"
        )
    there, here = (line.split()[1] for line in child.stdout.splitlines() if line.startswith("output "))
    if there != here:
        raise CheckpointError(f"the adapter computes something else in the new folder: {here}, not {there}")


def export(
    source: str,
    dest: str | Path,
    *,
    license: str = "apache-2.0",
    data_name: str | None = None,
    description: str | None = None,
    base_model: str | None = None,
) -> str:
    """Export a trained model or a peft adapter into the folder `dest`, completely or not at all.

    Args:
        source: The folder of a training run or a model, or a repository on the Hub.
        dest: A folder that does not exist yet. Its name is the model's name in the card.
        license: The licence of the weights, as the Hub spells it.
        data_name: What the model was trained on, in words. By default the name of the file.
        description: What the model is, in one or two sentences.
        base_model: The model on the Hub that it was trained from. By default what metrics.json or
            the adapter says.

    Returns:
        A report, as text.

    Raises:
        CheckpointError: `source` cannot be read, `dest` exists, or the proof failed. Nothing is
            left at `dest` then.

    >>> print(export("promoters", "promoters-hub"))                         # doctest: +SKIP
    """
    if base_model is not None and not is_hub_id(base_model):
        raise CheckpointError(
            f"base_model {base_model!r}: the name of a repository on the Hub, USER/NAME, is expected"
        )
    # Everything is written and proved in a hidden folder, which gets its name last.
    run = Path(source)
    about = {"license": license, "data_name": data_name, "description": description}
    with new_folder(dest) as (folder, unfinished):
        metrics = _metrics(run)
        pictures, left_out = _copy_pictures(run, unfinished)
        if metrics:
            write_json(unfinished / "metrics.json", metrics)
        if (run / "adapter_config.json").is_file():
            config, head = _write_adapter(run, unfinished, base_model)
            adapted = _load_config(run) if (run / "config.json").is_file() else None
            card = adapter_card(config, head, folder.name, metrics, pictures, **about, adapted=adapted)
            proved = "an adapter: loads in a new process with the same outputs"
        else:
            model = _load(str(source))
            _write_model(model, str(source), unfinished)
            printed = verify(unfinished, model)
            card = model_card(model, folder.name, metrics, pictures, printed, **about, base_model=base_model)
            proved = f"{len(HEADS)} heads and the tokenizer load without hyenadna, with the same outputs"
        card.save(unfinished / "README.md")
    lines = [f"  {path.stat().st_size / 1e6:10.3f} MB  {path.name}" for path in sorted(folder.iterdir())]
    lines += [f"  left out       {name}: a link out of {source}, or no PNG picture" for name in left_out]
    return "\n".join(
        [
            f"exported {folder}",
            *lines,
            f"proved: {proved}",
            f"next: hyenadna push {folder} USER/NAME",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna export` with these arguments (default: those of the command line)."""
    parser = CommandParser(
        "export",
        "Make a folder that loads anywhere, with or without this package.",
        example='hyenadna export promoters promoters-hub --data_name "My promoters"',
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of a training run, model or adapter, or a repository",
    )
    parser.add_argument(
        "dest", metavar="DEST", help="folder to make; its name is the model's name in the card"
    )
    parser.add_argument("--license", default="apache-2.0", help="of the weights, as the Hub spells it")
    parser.add_argument("--data_name", help="what it was trained on, in words (the name of the file)")
    parser.add_argument("--description", help="what the model is, in one or two sentences")
    parser.add_argument("--base_model", help="what it was trained from, on the Hub: USER/NAME")
    print(export(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
