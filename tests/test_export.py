"""Exported folders: what is in them, the proof that they load without this package, their cards,
what is refused.
"""

import json
import math
import re
import shutil
import subprocess
import traceback

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import hyenadna
from hyenadna import HyenaDNAConfig, HyenaDNATokenizer
from hyenadna.errors import CheckpointError
from hyenadna.hub_upload import export as export_module
from hyenadna.hub_upload.export import HEADS, export, verify
from hyenadna.hub_upload.model_card import model_card, plain
from hyenadna.hub_upload.usage import usage
from hyenadna.training import cli

from .conftest import random_ids, random_model
from .helpers.checkpoints import METRICS


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A language model in bfloat16 with odd settings, and the folder that `hyenadna export` makes
    of it.
    """
    folder = tmp_path_factory.mktemp("exported")
    model = random_model(
        tie_word_embeddings=True, complex_positional_embedding=True, hyena_order=3, modulation_shift=0.01
    )
    model.generation_config.do_sample = True
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    report = export(str(folder / "model"), folder / "lm")
    return model, folder / "lm", report


def test_everything_is_in_the_folder(exported):
    _, folder, report = exported
    names = {path.name for path in folder.iterdir()}
    assert names >= {"README.md", "config.json", "generation_config.json", "model.safetensors"}
    assert names >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "modeling_hyenadna.py",
        "configuration_hyenadna.py",
    }
    assert not [name for name in names if not name.endswith((".md", ".json", ".safetensors", ".py"))]
    package = {path.name for path in export_module.Path(hyenadna.__file__).parent.glob("*.py")}
    # the code is whole: every module that one of them imports is there, and nothing of ours else
    for name in names:
        if name.endswith(".py"):
            text = (folder / name).read_text()
            assert {f"{m}.py" for m in re.findall(r"^\s*from \.(\w+) import", text, re.MULTILINE)} <= names
            assert not re.search(r"^\s*(from|import) hyenadna", text, re.MULTILINE) and name in package
    assert not names & {"__init__.py", "__main__.py", "auto_classes.py", "errors.py", "flags.py"}
    config = json.loads((folder / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", *HEADS}
    for head, cls in HEADS.items():
        assert config["auto_map"][head] == f"modeling_hyenadna.{cls.__name__}"
    assert json.loads((folder / "generation_config.json").read_text())["do_sample"] is True
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert "auto_map" not in tokenizer and "is_local" not in tokenizer and tokenizer["model_max_length"] == 66
    stored = load_file(folder / "model.safetensors")
    assert stored["hyena.backbone.ln_f.weight"].dtype == torch.bfloat16
    for name in names:
        assert f"MB  {name}\n" in report
    assert "4 heads and the tokenizer load without hyenadna" in report
    assert {path.name for path in folder.parent.iterdir()} == {"model", "lm"}


def test_the_package_loads_it_without_remote_code(exported):
    model, folder, _ = exported
    for trust in (None, False, True):
        lm = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)
        assert type(lm) is hyenadna.HyenaDNAForCausalLM
        assert type(AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)) is HyenaDNATokenizer
        torch.testing.assert_close(lm(random_ids(2, 30)).logits, model(random_ids(2, 30)).logits)


def test_a_hub_copy_and_the_package_work_in_one_process(exported, tmp_path, monkeypatch):
    _, folder, _ = exported
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    copy_class = get_class_from_dynamic_module("modeling_hyenadna.HyenaDNAForCausalLM", folder)
    assert copy_class is not hyenadna.HyenaDNAForCausalLM and copy_class.__module__.startswith(
        "transformers_modules"
    )
    ids, losses = random_ids(2, 40), []
    for _ in range(2):  # one after the other, and again
        for cls in (hyenadna.HyenaDNAForCausalLM, copy_class):
            model = cls.from_pretrained(folder, dtype=torch.float32)
            loss = model(ids, labels=ids).loss
            loss.backward()
            gradients = [p.grad for p in model.parameters()]
            assert all(g is not None and g.isfinite().all() for g in gradients)
            losses.append(loss.item())
            model.eval().generate(ids[:, :5], max_new_tokens=3)
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("implicit_filter.py", "2 * math.pi", "2.001 * math.pi", r"AutoModel of .* computes other outputs"),
        (
            "long_convolution.py",
            "import torch",
            "import hyenadna\nimport torch",
            "does not load where hyenadna is not",
        ),
        ("tokenizer.json", '"T": 10', '"T": 9, "X": 10', "does not load here.*fixed vocabulary"),
    ],
)
def test_a_folder_that_only_works_here_is_refused(exported, tmp_path, file, old, new, message):
    folder = shutil.copytree(exported[1], tmp_path / "copy")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=message):
        verify(folder)


def test_a_failed_proof_leaves_no_folder(exported, tmp_path, monkeypatch):
    def fails(folder, model):
        assert (folder / "model.safetensors").exists()
        raise CheckpointError("AutoModel computes other outputs")

    monkeypatch.setattr(export_module, "verify", fails)
    exported[0].save_pretrained(tmp_path / "model")
    assert cli.main(["export", str(tmp_path / "model"), str(tmp_path / "out")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def no_proof(monkeypatch):
    monkeypatch.setattr(export_module, "verify", lambda folder, model=None: "")


def test_large_1m_is_26_megabytes(no_proof, tmp_path):
    config = HyenaDNAConfig(d_model=256, n_layer=8, max_seq_len=1_000_002, tie_word_embeddings=True)
    hyenadna.HyenaDNAForCausalLM(config).save_pretrained(tmp_path / "model")
    export(str(tmp_path / "model"), tmp_path / "out")
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) / 1e6
    assert 26 < size < 26.6
    assert "| Longest input | 1,000,002 tokens" in (tmp_path / "out/README.md").read_text()


def test_large_models_are_sharded(no_proof, tmp_path, monkeypatch):
    model = random_model()
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(export_module, "_SHARD", "20KB")
    export(str(tmp_path / "model"), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors.index.json").exists() and not (
        tmp_path / "out/model.safetensors"
    ).exists()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_exporting_does_not_change_what_saving_does(no_proof, tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path / "model")
    export(str(tmp_path / "model"), tmp_path / "out")
    # an exported folder is a model like any other
    export(str(tmp_path / "out"), tmp_path / "again")
    model.save_pretrained(tmp_path / "after")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert {p.name for p in (tmp_path / "after").iterdir()} == {
        p.name for p in (tmp_path / "model").iterdir()
    }
    for path in (tmp_path / "out").iterdir():
        if path.name != "README.md":
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_tokenizer_of_the_run_is_kept(no_proof, tmp_path):
    random_model().save_pretrained(tmp_path / "model")
    HyenaDNATokenizer(add_eos_token=False, do_upper_case=False).save_pretrained(tmp_path / "model")
    export(str(tmp_path / "model"), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("ACa").input_ids == [7, 8, 6]


# ----------------------------------------------------------------------------------------- the card


def run_folder(tmp_path, cls=hyenadna.HyenaDNAForSequenceClassification, metrics=METRICS, **config):
    model = random_model(cls, **config)
    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run/metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "run/confusion_matrix.png").write_bytes(b"\x89PNG\r\n")
    return model


def test_the_card_says_what_metrics_json_says(no_proof, tmp_path):
    settings = METRICS["settings"] | {
        "data": str(tmp_path / "secret/promoters.csv"),
        "model": "LongSafari/tiny-hf",
    }
    settings |= {"fp16": False, "weight_decay": 0.0, "lr_scheduler_type": "SchedulerType.COSINE"}
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/promoters.csv").write_text("")
    run_folder(tmp_path, metrics=METRICS | {"settings": settings}, id2label={0: "no", 1: "a|b"}, label2id={})
    export(str(tmp_path / "run"), tmp_path / "out", license="bsd-3-clause", description="Finds promoters.")
    text = (tmp_path / "out/README.md").read_text()
    card = ModelCard(text)
    values = {(r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert values == {(part, name): v for part, ms in METRICS["metrics"].items() for name, v in ms.items()}
    result = next(r for r in card.data.eval_results if r.metric_name == "mcc")
    assert (result.metric_type, result.task_type) == ("matthews_correlation", "text-classification")
    assert (result.dataset_name, result.dataset_type) == ("promoters.csv", "promoters-csv")
    assert card.data.license == "bsd-3-clause" and card.data.base_model == "LongSafari/tiny-hf"
    assert card.data.pipeline_tag == "text-classification" and card.data.library_name == "transformers"
    assert "| metric | validation | test |\n| --- | --- | --- |\n| accuracy | 0.7500 | 0.8125 |" in text
    assert "| auroc | - | 0.9000 |" in text and "100 train, 10 validation, 16 test" in text
    assert "`fp16`" not in text and "| `lr_scheduler_type` | cosine |" in text
    assert "| `weight_decay` | 0.0 |" in text
    assert "| `learning_rate` | 0.0006 |" in text and "torch 2.13.0" in text and "in 12 s" in text
    assert "Finds promoters." in text and "![confusion_matrix.png](confusion_matrix.png)" in text
    for path in (tmp_path / "out").glob("*.[mj]*"):  # no path of this machine
        assert str(tmp_path) not in path.read_text(), path
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["metrics"] == METRICS["metrics"] and metrics["settings"]["data"] == "promoters.csv"


def test_the_card_says_what_k_mers_reached(no_proof, tmp_path):
    result = {"metrics": {"test": {"mcc": 0.539, "loss": 0.5}}, "seconds": 3.0, "C": 0.01}
    run_folder(tmp_path, metrics=METRICS | {"baselines": {"1..6-mer logistic regression": result}})
    export(str(tmp_path / "run"), tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "\n- 1..6-mer logistic regression, test: mcc 0.5390, loss 0.5000\n" in text
    # they are no results of this model
    assert 0.539 not in [result.metric_value for result in ModelCard(text).data.eval_results]


CARDS = {
    hyenadna.HyenaDNAModel: (r"\(1, 25, 16\)", "feature-extraction"),
    hyenadna.HyenaDNAForCausalLM: (r"\d\.\d{4} nats per base", "text-generation"),
    hyenadna.HyenaDNAForTokenClassification: (r"\['LABEL_\d', .*\]", "token-classification"),
    hyenadna.HyenaDNAForSequenceClassification: (r"\{'LABEL_0': 0\.\d+, .*\}", "text-classification"),
}


@pytest.mark.parametrize(
    ("cls", "problem_type"),
    [
        *((cls, None) for cls in CARDS),
        (hyenadna.HyenaDNAForSequenceClassification, "regression"),
        (hyenadna.HyenaDNAForSequenceClassification, "multi_label_classification"),
    ],
)
def test_the_snippet_of_the_card_runs(cls, problem_type, tmp_path, capsys, monkeypatch):
    model = random_model(cls, num_labels=1 if problem_type == "regression" else 3, problem_type=problem_type)
    model.save_pretrained(tmp_path / "me")
    card = model_card(model, "me", {}, [], "printed")
    printed, task = CARDS[cls]
    assert card.data.pipeline_tag == task and not card.data.eval_results
    assert "No evaluation came with this model." in card.text
    snippet = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    assert snippet == usage(model.config, "me")
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    out = capsys.readouterr().out.strip()
    if problem_type == "regression":
        printed = r"\{'LABEL_0': -?\d+\.?\d*\}"
    assert re.fullmatch(printed, out), out
    if problem_type is None and cls is hyenadna.HyenaDNAForSequenceClassification:
        assert sum(eval(out).values()) == pytest.approx(1, abs=1e-3)


def test_what_the_card_printed_was_printed_by_the_folder(exported):
    model, folder, _ = exported
    card = ModelCard.load(folder / "README.md")
    printed = re.search(r"It prints .*?```\n(.*?)\n```", card.text, re.DOTALL)[1]
    ids = HyenaDNATokenizer()("ACGTTGCATTCAGGTAAGTACCTG", return_tensors="pt").input_ids
    assert float(printed.split()[0]) == pytest.approx(model(ids, labels=ids).loss.item(), abs=2e-3)


def test_odd_metrics(no_proof, tmp_path):
    flat = {"metrics": {"bits_per_base": 1.9, "note": "x"}, "settings": {"d_model": 16, "text": "a|b\nc"}}
    model = run_folder(tmp_path, hyenadna.HyenaDNAForCausalLM, metrics=flat)
    export(str(tmp_path / "run"), tmp_path / "out", data_name="hg38: chr1 & chr2")
    card = ModelCard.load(tmp_path / "out/README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == (
        "bits_per_base",
        1.9,
        "evaluation",
    )
    assert result.dataset_name == "hg38: chr1 & chr2" and result.dataset_type == "hg38-chr1-chr2"
    assert "| `text` | a\\|b c |" in card.text
    (tmp_path / "run/metrics.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"metrics\.json cannot be read"):
        export(str(tmp_path / "run"), tmp_path / "out2")
    assert model is not None and not (tmp_path / "out2").exists()


def test_a_pretraining_run(no_proof, tmp_path):
    """Its data are a list of files: none of the machine's folders may be published, and none may
    stop the export.
    """
    settings = {
        "data": ["/data/me/genomes/chr20.fa", "../mouse.fa.gz"],
        "test": ["20:0-5,000,000"],
        "model": "me/tiny",
    }
    settings |= {"bed": [str(tmp_path / "a.bed")], "validation": "x" * 5000}
    run_folder(
        tmp_path,
        hyenadna.HyenaDNAForCausalLM,
        metrics={"metrics": {"test": {"loss": 1.0}}, "settings": settings},
    )
    export(str(tmp_path / "run"), tmp_path / "out")
    card, metrics = (tmp_path / "out/README.md").read_text(), (tmp_path / "out/metrics.json").read_text()
    assert "chr20.fa, mouse.fa.gz" in card and "me/tiny" in card and "20:0-5,000,000" in metrics
    for text in (card, metrics):
        assert "/data/me" not in text and str(tmp_path) not in text and "../" not in text


# ----------------------------------------------------------------------------------------- adapters


def test_adapters(tmp_path, monkeypatch):
    from peft import LoraConfig, get_peft_model

    base = random_model(hyenadna.HyenaDNAForSequenceClassification, num_labels=3)
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["in_proj"], init_lora_weights=False)
    model = hyenadna.HyenaDNAForSequenceClassification.from_pretrained(tmp_path / "base")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/metrics.json").write_text(json.dumps(METRICS))
    with pytest.raises(CheckpointError, match="on this machine only"):
        export(str(tmp_path / "adapter"), tmp_path / "out")
    report = export(str(tmp_path / "adapter"), tmp_path / "out", base_model="me/base", data_name="Promoters")
    assert "an adapter: loads in a new process with the same outputs" in report
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors", "metrics.json"}
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.base_model == "me/base" and card.data.library_name == "peft"
    assert len(card.data.eval_results) == 5 and "| accuracy | 0.7500 | 0.8125 |" in card.text
    assert (
        "AutoPeftModelForSequenceClassification.from_pretrained" in card.text and "| `r` | 8 |" in card.text
    )
    for path in (tmp_path / "out").glob("*.[mj]*"):
        assert str(tmp_path) not in path.read_text(), path


@pytest.mark.parametrize(("task", "auto"), [("SEQ_CLS", "ForSequenceClassification"), (None, "")])
def test_the_snippet_of_an_adapter_says_what_its_base_does_not_know(task, auto, tmp_path, monkeypatch):
    """A classifier of three classes on a language model: its head comes with the adapter, and its
    base has none.
    """
    from peft import LoraConfig, get_peft_model

    random_model().save_pretrained(tmp_path / "base")
    cls = hyenadna.HyenaDNAForSequenceClassification if task else hyenadna.HyenaDNAModel
    labels = {"id2label": {0: "no", 1: "weak", 2: "strong"}, "label2id": {"no": 0, "weak": 1, "strong": 2}}
    model = cls.from_pretrained(tmp_path / "base", **labels, pooling="last")
    lora = get_peft_model(
        model, LoraConfig(task_type=task, target_modules=["in_proj"], init_lora_weights=False)
    ).eval()
    lora.save_pretrained(tmp_path / "adapter")
    ids, loaded = random_ids(1, 9), []
    if task:  # the snippet is run here; that the proof runs it is tested by the other two
        proved = subprocess.CompletedProcess([], 0, stdout="output 1\noutput 1\n")
        monkeypatch.setattr(export_module.subprocess, "run", lambda *args, **options: proved)
    # that of the adapted model, as our recipes save it
    for config in (False, True) if task else (False,):
        if config:
            model.config.save_pretrained(tmp_path / "adapter")
        export(str(tmp_path / "adapter"), tmp_path / f"out{config}", base_model="me/base")
        card = ModelCard.load(tmp_path / f"out{config}/README.md")
        snippet = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
        assert f"import AutoPeftModel{auto}\n" in snippet and f'name = "out{config}"\n' in snippet
        names = {}
        # its base is here
        exec(snippet.replace(f'"out{config}"', repr(str(tmp_path / "adapter"))), names)
        loaded.append(names["model"])
    expected = lora(input_ids=ids)[0]
    torch.testing.assert_close(loaded[-1](input_ids=ids)[0], expected)
    if task:
        assert loaded[0].config.num_labels == 3 and loaded[1].config.id2label == labels["id2label"]
        # without its config.json: another pooling
        assert not torch.allclose(loaded[0](input_ids=ids)[0], expected)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "adapter_model.safetensors").unlink(), "holds no adapter_model.safetensors"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
        (
            lambda f: save_file({"a": torch.tensor([1.0, torch.nan])}, f / "adapter_model.safetensors"),
            "`a` holds NaN",
        ),
    ],
)
def test_broken_adapters(damage, message, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "me/base"}')
    save_file({"a": torch.zeros(2)}, tmp_path / "adapter/adapter_model.safetensors")
    damage(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=message):
        export(str(tmp_path / "adapter"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", ["base", "a/b/c", "me/a b", "./runs/base", "-x/y", ""])
def test_a_base_model_is_a_name_on_the_hub(no_proof, name, tmp_path, capsys):
    random_model().save_pretrained(tmp_path / "model")
    assert cli.main(["export", str(tmp_path / "model"), str(tmp_path / "out"), f"--base_model={name}"]) == 1
    assert "USER/NAME, is expected" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_local_checkpoint_is_no_base_model(no_proof, tmp_path, monkeypatch):
    """`runs/tiny` looks like a name on the Hub. The run started beside it; the export may start
    elsewhere.
    """
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for place, model, base in (
        (tmp_path, "runs/tiny", None),
        (tmp_path / "elsewhere", "runs/tiny", None),
        (tmp_path, "me/tiny", "me/tiny"),
        (tmp_path, "me/tiny.v2", "me/tiny.v2"),
        (tmp_path, "../tiny", None),
        (tmp_path, "me/sub/tiny", None),
    ):
        monkeypatch.chdir(place)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        run_folder(tmp_path, metrics=METRICS | {"settings": {"model": model}})
        export(str(tmp_path / "run"), tmp_path / "out")
        card = ModelCard.load(tmp_path / "out/README.md")
        assert card.data.base_model == base, model
        assert f"Trained from `{base or model.removeprefix('runs/').removeprefix('../')}`" in card.text


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nan, "holds NaN or infinity"),
        (-torch.inf, "holds NaN or infinity"),
        (torch.float8_e4m3fn, "Float8_e4m3fn"),
    ],
)
def test_weights_that_no_model_computes_with(value, message, tmp_path, capsys):
    random_model().save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    if isinstance(value, float):
        tensors["hyena.backbone.layers.1.mlp.fc1.weight"][3, 4] = value
    else:
        tensors = {name: tensor.to(value) for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "model/config.json").read_text())
    # the type that a configuration names wins over that of the file
    for dtype in ("float32", None):
        (tmp_path / "model/config.json").write_text(json.dumps(config | {"dtype": dtype}))
        if dtype is None or isinstance(value, float):
            assert cli.main(["export", str(tmp_path / "model"), str(tmp_path / "out")]) == 1
            error = capsys.readouterr().err
            assert message in error and "Traceback" not in error
            assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_proof_knows_no_token(tmp_path, monkeypatch):
    """The code of a folder may come from anywhere, and it runs in the proof."""
    random_model().save_pretrained(tmp_path / "model")
    secrets = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_TOKEN_PATH", "GITHUB_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    ran = []

    def child(command, *, env, **others):
        ran.append(env)
        raise CheckpointError("enough")

    monkeypatch.setattr(export_module.subprocess, "run", child)
    with pytest.raises(CheckpointError, match="enough"):
        export(str(tmp_path / "model"), tmp_path / "out")
    assert not set(secrets) & ran[0].keys() and "secret" not in ran[0].values()
    assert ran[0].keys() >= {"PATH", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE"}


def test_sources_and_places(no_proof, golden, tmp_path, capsys):
    model = random_model(hyenadna.HyenaDNAForTokenClassification, num_labels=4)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").write_text("")
    for source, dest, message in (
        ("model", "taken", "exists and is not empty"),
        ("none", "out", "neither a folder with a model nor loads from the Hub"),
        ("taken", "out", "neither a folder with a model"),
    ):
        assert cli.main(["export", str(tmp_path / source), str(tmp_path / dest)]) == 1
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
    config = json.loads((tmp_path / "model/config.json").read_text())
    shutil.copytree(tmp_path / "model", tmp_path / "lm")
    (tmp_path / "lm/config.json").write_text(json.dumps(config | {"architectures": ["HyenaDNAForCausalLM"]}))
    with pytest.raises(CheckpointError, match=r"no weights, or of another shape, for \['lm_head.weight'\]"):
        export(str(tmp_path / "lm"), tmp_path / "out")
    (tmp_path / "lm/config.json").write_text(json.dumps(config | {"architectures": ["GPT2Model"]}))
    with pytest.raises(CheckpointError, match="GPT2Model"):
        export(str(tmp_path / "lm"), tmp_path / "out")
    (tmp_path / "lm/model.safetensors").write_bytes(b"")
    (tmp_path / "lm/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="neither a folder with a model"):
        export(str(tmp_path / "lm"), tmp_path / "out")

    shutil.copytree(golden, tmp_path / "published")  # an -hf folder is a source too
    export(str(tmp_path / "published"), tmp_path / "out")
    assert "pos_emb" not in "".join(load_file(tmp_path / "out/model.safetensors"))
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "model")
    assert torch.equal(again(random_ids(1, 9)).logits, model(random_ids(1, 9)).logits)


def test_help_and_unknown_commands(capsys):
    for name in ("convert", "export", "push"):
        assert cli.main([name, "--help"]) == 0
        assert f"usage: hyenadna {name}" in capsys.readouterr().out
        with pytest.raises(SystemExit) as stop:
            cli.main([name])
        assert stop.value.code == 2
        assert name in cli.usage()


# -------------------------------------------------------------------------- what comes from anybody

NAMES = [
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "a|b",
    "# big",
    "---",
    "```",
    "`code`",
    "[a](http://x)",
    "> q",
]
NAMES += [
    "1. one",
    "- item",
    "line\n\n# break",
    "===",
    "| a |\n|---|",
    "{{ 7*7 }}",
    "{% raw %}",
    "\\\\",
    "&lt;",
    "\u2028# x",
]
BLOCK = re.compile(r"^(#{1,6} |---|===|```|> |[-+*] |\d+[.)] |<)")


@pytest.mark.parametrize("name", NAMES)
def test_names_and_descriptions_are_text_in_a_card(no_proof, name, tmp_path):
    """Nothing that comes from a file or a flag makes a heading, a table, a link or HTML of the
    card.
    """
    cards = []
    for text in (name, "words"):
        metrics = {"metrics": {text: {text: 0.5}}, "rows": {text: 3}, "versions": {text: text}}
        metrics["settings"] = {"data": text, "model": text, text: text, "data_sha256": text}
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        run_folder(tmp_path, metrics=metrics, id2label={0: text, 1: "b"}, label2id={})
        export(str(tmp_path / "run"), tmp_path / text[:1] / "out", data_name=text, description=text)
        cards.append(ModelCard.load(tmp_path / text[:1] / "out/README.md"))
        (result,) = cards[-1].data.eval_results
        assert result.dataset_name == text  # the front matter is data, and keeps every letter
    lines, expected = (card.text.splitlines() for card in cards)
    assert len(lines) == len(expected)
    for line, plain_line in zip(lines, expected, strict=True):
        starts = [BLOCK.match(text) for text in (line, plain_line)]
        assert (starts[0] and starts[0][0]) == (starts[1] and starts[1][0]), line
        assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", plain_line)), line
    body = "\n".join(lines)
    code = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<[a-zA-Z!/]", code) and "](http" not in code and "49" not in code


@pytest.mark.parametrize("name", ["a`b", "<b>", "# x", "[x](y)", "it's"])
def test_the_title_of_a_card_is_text(no_proof, name, tmp_path):
    random_model().save_pretrained(tmp_path / "model")
    export(str(tmp_path / "model"), tmp_path / "made" / name)
    text = (tmp_path / "made" / name / "README.md").read_text()
    assert f"\n# {plain(name)}\n" in text and f"name = {json.dumps(name)}" in text


def test_what_names_foreign_code_is_not_carried_over(no_proof, tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path / "model")
    HyenaDNATokenizer(add_eos_token=False).save_pretrained(tmp_path / "model")
    foreign = {"tokenizer_class": "evil.Tokenizer", "custom_pipelines": {"evil": {"impl": "evil.Pipeline"}}}
    foreign |= {"auto_map": {"AutoModel": "me/evil--evil.Model"}, "evil": 1, "processor_class": "evil"}
    for name in ("config.json", "tokenizer_config.json"):
        path = tmp_path / "model" / name
        stored = json.loads(path.read_text())
        path.write_text(
            json.dumps(stored | foreign | {k: stored[k] for k in ("tokenizer_class",) if k in stored})
        )
    export(str(tmp_path / "model"), tmp_path / "out")
    for path in (tmp_path / "out").glob("*.json"):
        assert "evil" not in path.read_text(), path
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", *HEADS} and "tokenizer_class" not in config
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("AC").input_ids == [7, 8]


def test_only_pictures_of_the_run_are_copied(no_proof, tmp_path):
    run_folder(tmp_path)
    (tmp_path / "key").write_bytes(b"\x89PNG\r\n a private thing")
    (tmp_path / "run/link.png").symlink_to(tmp_path / "key")
    (tmp_path / "run/text.png").write_text("no picture")
    (tmp_path / "run/inside.png").symlink_to("confusion_matrix.png")
    (tmp_path / "run/folder.png").mkdir()
    report = export(str(tmp_path / "run"), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"confusion_matrix.png", "inside.png"}
    for name in ("link.png", "text.png", "folder.png"):
        assert f"left out       {name}: a link out of" in report


def test_an_adapter_is_not_copied_through_a_link(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "key").write_text("a private thing")
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    (tmp_path / "adapter/adapter_model.safetensors").symlink_to(tmp_path / "key")
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors is a link to something outside"):
        export(str(tmp_path / "adapter"), tmp_path / "out")


DAMAGE = [
    b"",
    b"{",
    b"null",
    b"5",
    b"[]",
    b'"x"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a": {"b": [1, null]}}',
]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "metrics.json"])
@pytest.mark.parametrize("content", DAMAGE)
def test_damaged_json_is_one_message(no_proof, name, content, tmp_path, capsys):
    random_model().save_pretrained(tmp_path / "model")
    HyenaDNATokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    code = cli.main(["export", str(tmp_path / "model"), str(tmp_path / "out")])
    error = capsys.readouterr().err
    # an object without a field of ours: what it says is nothing
    if content == DAMAGE[-1] and name != "tokenizer.json":
        assert code in (0, 1)
    else:
        assert code == 1 or (name, content) in (("tokenizer_config.json", b"{}"),)
        assert "hyenadna export: error: " in error and str(tmp_path / "model") in error
    assert "Traceback" not in error and (tmp_path / "out").exists() == (code == 0)


@pytest.mark.parametrize("key", ["metrics", "rows", "settings", "versions", "train_seconds"])
@pytest.mark.parametrize(
    "value", [None, 5, "x", [], [1], {"a": None}, {"a": [[1]]}, {"a": {"b": {"c": 1}}}, math.nan]
)
def test_metrics_of_another_shape(no_proof, key, value, tmp_path):
    """They are read as far as they mean something, or refused."""
    run_folder(tmp_path, metrics=METRICS | {key: value})
    try:
        export(str(tmp_path / "run"), tmp_path / "out")
    except CheckpointError as error:
        assert "metrics" in str(error)
    else:
        assert "# out\n" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    "key", ["architectures", "problem_type", "id2label", "num_labels", "max_seq_len", "d_model", "dtype"]
)
@pytest.mark.parametrize("value", [5, -1, "x", [], [5], {}, {"a": 1}, "nn.Module\nevil()", 10**30])
def test_odd_settings_of_a_model_are_one_message(no_proof, key, value, tmp_path):
    run_folder(tmp_path)
    path = tmp_path / "run/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    try:
        export(str(tmp_path / "run"), tmp_path / "out")
    except CheckpointError as error:
        assert str(tmp_path / "run") in str(error)
    else:
        assert "evil" not in (tmp_path / "out/README.md").read_text()


def test_a_token_in_what_fails_is_not_shown(tmp_path, monkeypatch):
    secret = "hf_" + "AbCdEfGh" * 5

    def fails(*arguments, **options):
        raise OSError(f"401 for {secret}")

    monkeypatch.setattr(HyenaDNAConfig, "get_config_dict", fails)
    with pytest.raises(CheckpointError, match=r"nor loads from the Hub .*: 401 for \.\.\.") as error:
        export("me/a", tmp_path / "out")
    assert secret not in "".join(traceback.format_exception(error.value))
