"""Files in and out: published folders, our own, what is stored and what is refused; Auto classes
and pipelines.
"""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

import hyenadna
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNATokenizer

from . import reference
from .conftest import random_ids, random_model

AUTO = {
    AutoModel: hyenadna.HyenaDNAModel,
    AutoModelForCausalLM: hyenadna.HyenaDNAForCausalLM,
    AutoModelForSequenceClassification: hyenadna.HyenaDNAForSequenceClassification,
    AutoModelForTokenClassification: hyenadna.HyenaDNAForTokenClassification,
}


@pytest.fixture
def published(golden, tmp_path):
    """A folder as the Hub has it: weights, config with an auto_map, the old tokenizer, and code
    that must not run.
    """
    folder = tmp_path / "hyenadna-tiny-hf"
    shutil.copytree(golden, folder)
    for name in ("configuration_hyena", "modeling_hyena", "tokenization_hyena"):
        (folder / f"{name}.py").write_text("raise RuntimeError('the code of the repository ran')\n")
    tokenizer = {
        "add_special_tokens": False,
        "auto_map": {"AutoTokenizer": ["tokenization_hyena.HyenaDNATokenizer", None]},
        "characters": ["A", "C", "G", "T", "N"],
        "model_max_length": 258,
        "padding_side": "left",
        "tokenizer_class": "HyenaDNATokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.parametrize("trust_remote_code", [None, False, True])
def test_auto_classes_load_a_published_folder_with_our_code(published, trust_remote_code):
    expected = load_file(published / "expected.safetensors")
    kwargs = {} if trust_remote_code is None else {"trust_remote_code": trust_remote_code}
    assert type(AutoConfig.from_pretrained(published, **kwargs)) is HyenaDNAConfig
    assert type(AutoTokenizer.from_pretrained(published, **kwargs)) is HyenaDNATokenizer
    for auto, cls in AUTO.items():
        model = auto.from_pretrained(published, **kwargs)
        assert type(model) is cls and not model.training
        if auto is AutoModelForCausalLM:
            close = {"atol": 1e-4, "rtol": 1e-4}
            torch.testing.assert_close(model(expected["input_ids"]).logits, expected["logits"], **close)


def test_saving_a_published_model_again_names_no_code_that_is_missing(published, tmp_path):
    AutoModelForCausalLM.from_pretrained(published).save_pretrained(tmp_path / "ours")
    assert "auto_map" not in json.loads((tmp_path / "ours/config.json").read_text())
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours")


@pytest.mark.parametrize("auto", AUTO)
def test_save_and_load_is_exact_and_stores_nothing_computable(auto, published, tmp_path):
    first = auto.from_pretrained(published)
    first.save_pretrained(tmp_path / "ours")
    second, info = auto.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    second.save_pretrained(tmp_path / "again")
    third = auto.from_pretrained(tmp_path / "again")
    ids = random_ids(2, 50)
    for a, b, c in zip(*(m(ids, return_dict=False) for m in (first, second, third)), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    stored = load_file(tmp_path / "ours/model.safetensors")
    assert set(stored) == {name for name, _ in first.named_parameters()}
    assert not [name for name in stored if name.endswith((".z", ".t", "deltas"))]


def test_no_module_holds_a_buffer():
    assert not list(random_model().buffers())  # `from_pretrained` would fill it with garbage


def write_trained_z(golden, folder, file: str = "model.safetensors") -> None:
    folder.mkdir()
    shutil.copy(golden / "config.json", folder)
    weights = load_file(golden / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in weights:
        if name.endswith("pos_emb.z"):
            weights[name] = weights[name] + 0.01 * torch.randn(weights[name].shape, generator=generator)
    if file.endswith(".bin"):
        torch.save(weights, folder / file)
    else:
        save_file(weights, folder / file, metadata={"format": "pt"})


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_trained_positional_embedding_is_kept(golden, tmp_path, file, caplog):
    write_trained_z(golden, tmp_path / "trained", file)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "trained", dtype=torch.float64)
    assert model.config.train_positional_embedding
    assert [name for name, _ in model.named_parameters() if name.endswith("pos_emb.z")]
    ids = random_ids(2, 120)
    norm = reference.hidden_states(model, ids)[-1]
    torch.testing.assert_close(model(ids).logits, norm @ model.lm_head.weight.T, rtol=0, atol=1e-8)
    plain = AutoModelForCausalLM.from_pretrained(golden, dtype=torch.float64)
    assert (plain(ids).logits - model(ids).logits).abs().max() > 0.1

    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"trained for max_seq_len=258.*says 130"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "trained", max_seq_len=130)


def test_a_positional_embedding_rounded_to_half_is_still_the_formula(golden, tmp_path):
    shutil.copy(golden / "config.json", tmp_path)
    weights = {k: v.to(torch.bfloat16) for k, v in load_file(golden / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not model.config.train_positional_embedding


def test_a_new_model_with_a_trainable_positional_embedding_starts_from_the_formula():
    a = random_model(train_positional_embedding=True)
    filter_fn = a.hyena.backbone.layers[0].mixer.filter_fn
    assert torch.equal(filter_fn.pos_emb.z[0], filter_fn.pos_emb.analytic(66, torch.device("cpu"))[0])
    a(random_ids(1, 20), labels=random_ids(1, 20)).loss.backward()
    assert (
        filter_fn.pos_emb.z.grad[0, :20].abs().max() > 0 and filter_fn.pos_emb.z.grad[0, 20:].abs().max() == 0
    )


@pytest.fixture
def warnings_of_transformers(monkeypatch):
    from hyenadna import modeling_hyenadna

    heard = []
    monkeypatch.setattr(modeling_hyenadna.logger, "warning", lambda message, *args: heard.append(message))
    return heard


def test_another_max_seq_len_is_never_silent(golden, tmp_path, warnings_of_transformers):
    ours = tmp_path / "ours"
    AutoModelForCausalLM.from_pretrained(golden).save_pretrained(ours)
    assert not warnings_of_transformers
    for folder in (golden, ours):
        for name in ("max_seq_len", "max_position_embeddings"):
            AutoModelForCausalLM.from_pretrained(folder, **{name: 516})
            message = warnings_of_transformers.pop()
            assert "258" in message and "516" in message and not warnings_of_transformers
    config = HyenaDNAConfig.from_pretrained(ours)
    config.max_seq_len = 100
    HyenaDNAForCausalLM.from_pretrained(ours, config=config)
    assert "258" in warnings_of_transformers.pop()


def test_a_vocabulary_of_another_size_is_named(golden, tmp_path):
    config = json.loads((golden / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    shutil.copy(golden / "model.safetensors", tmp_path)
    # The error of Transformers for other sizes that do not match.
    with pytest.raises(
        RuntimeError, match=r"\(16, 32\).*vocab_size=24 rows and d_model=32.*ignore_mismatched_sizes"
    ):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert model.get_input_embeddings().weight.shape == (24, 32)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_broken_file_is_an_error(golden, tmp_path, content):
    shutil.copy(golden / "config.json", tmp_path)
    if content is None:
        content = (golden / "model.safetensors").read_bytes()[:50_000]
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(Exception, match=r"(?i)safetensors|header|buffer|incomplete"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_pickle_that_runs_code_is_refused(golden, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "it-ran"), "w"))

    shutil.copy(golden / "config.json", tmp_path)
    torch.save({"lm_head.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights_only|unsupported|pickle"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not (tmp_path / "it-ran").exists()


def test_our_folder_loads_in_a_new_process(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path)
    HyenaDNATokenizer().save_pretrained(tmp_path)
    code = (
        "import sys, hyenadna; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T;"
        "ids = T.from_pretrained(sys.argv[1])('ACGTNacgt', return_tensors='pt').input_ids;"
        "print(M.from_pretrained(sys.argv[1])(ids).logits.sum().item())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    ids = torch.tensor([[7, 8, 9, 10, 11, 7, 8, 9, 10, 1]])
    assert float(run.stdout) == pytest.approx(model(ids).logits.sum().item(), rel=1e-6)


def test_peft_and_datasets_are_not_imported():
    code = (
        # brings sklearn, before Transformers 5.21
        "import sys; from transformers.generation import GenerationMixin;"
        "before = set(sys.modules); import hyenadna; new = set(sys.modules) - before;"
        "print(sorted(new & {'peft', 'datasets', 'sklearn', 'matplotlib'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------- pipelines


@pytest.mark.parametrize(
    ("task", "cls"),
    [
        ("text-classification", hyenadna.HyenaDNAForSequenceClassification),
        ("token-classification", hyenadna.HyenaDNAForTokenClassification),
        ("feature-extraction", hyenadna.HyenaDNAModel),
        ("text-generation", hyenadna.HyenaDNAForCausalLM),
    ],
)
def test_pipelines(task, cls, tmp_path):
    model = random_model(cls, num_labels=3)
    model.save_pretrained(tmp_path)
    HyenaDNATokenizer().save_pretrained(tmp_path)
    pipe = pipeline(task, str(tmp_path))
    assert type(pipe.model) is cls and type(pipe.tokenizer) is HyenaDNATokenizer
    texts = ["ACGTACGT", "ttgac"]
    ids = [[7, 8, 9, 10, 7, 8, 9, 10, 1], [10, 10, 9, 7, 8, 1]]
    if task == "text-generation":
        out = pipe(texts, max_new_tokens=5, do_sample=False, batch_size=2)
        for text, row, (result,) in zip(texts, ids, out, strict=True):
            prompt = torch.tensor([row[:-1]])  # without [SEP]
            new = model.generate(prompt, max_new_tokens=5, do_sample=False)[0, prompt.shape[1] :]
            assert result["generated_text"] == text + pipe.tokenizer.decode(new, skip_special_tokens=True)
        return
    for batch_size in (1, 2):
        out = pipe(texts, batch_size=batch_size)
        for row, result in zip(ids, out, strict=True):
            expected = model(torch.tensor([row]), return_dict=False)[0][0]
            if task == "text-classification":
                p = expected.softmax(-1)
                assert result["label"] == f"LABEL_{p.argmax()}"
                assert result["score"] == pytest.approx(p.max().item(), rel=1e-4)
            elif task == "token-classification":
                p = expected.softmax(-1)[:-1]  # the pipeline leaves special tokens out
                assert [r["entity"] for r in result] == [f"LABEL_{i}" for i in p.argmax(-1)]
                assert [r["score"] for r in result] == pytest.approx(p.max(-1).values.tolist(), rel=1e-4)
            else:
                padded = torch.tensor(result)[0]  # the pipeline pads on the left, and leaves it in
                torch.testing.assert_close(padded[-len(row) :], expected, rtol=1e-4, atol=1e-5)
