"""Soft prompts and adapters through `peft`: exact with padding, nothing else trained, small files,
all its tools.
"""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from peft import (
    AdaLoraConfig,
    AutoPeftModelForSequenceClassification,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    PeftModelForCausalLM,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DataCollatorForTokenClassification, TrainingArguments

from hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNATokenizer,
)
from hyenadna.training.runs.trainer import HyenaDNATrainer
from hyenadna.transformers_api import CACHE

from .conftest import checkpoint_activations, random_ids, random_model

HEADS = {
    "CAUSAL_LM": HyenaDNAForCausalLM,
    "SEQ_CLS": HyenaDNAForSequenceClassification,
    "TOKEN_CLS": HyenaDNAForTokenClassification,
}
T = 5


def adapted(task: str, config=PromptTuningConfig, settings=None, **model):
    settings = {"num_virtual_tokens": T} if settings is None else settings
    base = random_model(HEADS[task], **({} if task == "CAUSAL_LM" else {"num_labels": 3}), **model)
    torch.manual_seed(1)
    return get_peft_model(base, config(task_type=task, **settings)).eval()


def padded_batch(side: str, lengths=(9, 20, 14)):
    rows = [random_ids(1, n, seed=n)[0] for n in lengths]
    width = max(lengths)
    pads = [(width - n, 0) if side == "left" else (0, width - n) for n in lengths]
    ids = torch.stack([F.pad(row, pad, value=4) for row, pad in zip(rows, pads, strict=True)])
    return rows, {"input_ids": ids, "attention_mask": (ids != 4).long()}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config", [PromptTuningConfig, PromptEncoderConfig])
@pytest.mark.parametrize("task", HEADS)
@torch.no_grad()
def test_a_prompt_gives_the_same_alone_and_in_a_padded_batch(task, config, side):
    for pooling in ("mean", "last") if task == "SEQ_CLS" else (None,):
        model = adapted(task, config, pooling=pooling)
        base, prompt = model.get_base_model(), model.get_prompt(1)
        assert prompt.shape == (1, T, 16)
        rows, batch = padded_batch(side)
        logits = model(**batch).logits
        for row, mask, out in zip(rows, batch["attention_mask"].bool(), logits, strict=True):
            embeds = torch.cat([prompt, base.get_input_embeddings()(row[None])], dim=1)
            expected = base(inputs_embeds=embeds).logits[0]  # without a mask, and without peft
            torch.testing.assert_close(model(row[None]).logits[0], expected, rtol=1e-5, atol=1e-5)
            if task != "SEQ_CLS":
                out = torch.cat([out[:T], out[T:][mask]])
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        last = (0, slice(None)) if task == "SEQ_CLS" else (0, -1)
        # the prompt matters
        assert (base(row[None]).logits[last] - model(row[None]).logits[last]).abs().max() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_of_a_prompt_do_not_depend_on_padding(side):
    model = adapted("CAUSAL_LM")
    weight = model.prompt_encoder.default.embedding.weight
    rows, batch = padded_batch(side)
    model(**batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)).loss.backward()
    together, weight.grad = weight.grad, None
    # with a prompt the first base has a context: the mean is over all bases
    n = sum(map(len, rows))
    sum(model(row[None], labels=row[None]).loss * len(row) / n for row in rows).backward()
    torch.testing.assert_close(together, weight.grad, rtol=1e-4, atol=1e-6)
    assert weight.grad.abs().min(dim=1).values.max() > 0


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config", [PromptTuningConfig, PromptEncoderConfig])
@torch.no_grad()
def test_generate_with_a_prompt(config, side):
    model = adapted("CAUSAL_LM", config)
    model.get_base_model().lm_head.weight[1] = 0  # so that sequences do not end at once
    rows, batch = padded_batch(side)
    out = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, 20:]
    base, prompt = model.get_base_model(), model.get_prompt(1)
    for row, new in zip(rows, out, strict=True):
        alone = model.generate(input_ids=row[None], max_new_tokens=4, do_sample=False)[0, len(row) :]
        assert alone.tolist() == new[: len(alone)].tolist()
        for token in alone:  # the plainest loop
            embeds = torch.cat([prompt, base.get_input_embeddings()(row[None])], dim=1)
            scores = base(inputs_embeds=embeds).logits[0, -1]
            allowed = [1, 7, 8, 9, 10, 11]
            assert allowed[scores[allowed].argmax()] == token
            row = torch.cat([row, token[None]])
    assert len(set(out.flatten().tolist())) > 2  # or this test would say little


@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}, {"num_beams": 3, "use_cache": False}],
)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_beam_search_with_a_prompt(side, settings):
    model = adapted("CAUSAL_LM")
    base, prompt, n = model.get_base_model(), model.get_prompt(1), settings.get("num_return_sequences", 1)
    base.lm_head.weight[1] = 0
    settings = {"max_new_tokens": 5, "do_sample": False, **settings}
    rows, batch = padded_batch(side)
    out = model.generate(**batch, **settings)[:, 20:].split(n)
    for row, found in zip(rows, out, strict=True):
        embeds = torch.cat([prompt, base.get_input_embeddings()(row[None])], dim=1)
        expected = base.generate(inputs_embeds=embeds, **settings)  # no peft, no padding
        for alone, new in zip(expected, found, strict=True):
            assert alone.tolist() == new[: len(alone)].tolist()


@pytest.fixture(params=["past_key_values", "cache"])
def peft_reads(request, monkeypatch):
    """peft as it is, and one that looks for the cache by its new name, as a later release may."""
    if request.param == "past_key_values":
        return
    if CACHE == "past_key_values":
        pytest.skip("before Transformers 5.24 there is no new name to look for")
    original = PeftModelForCausalLM.prepare_inputs_for_generation

    def by_the_new_name(self, *args, **kwargs):
        prepare = self.base_model_prepare_inputs_for_generation

        def prepared(*args, **kwargs):
            inputs = prepare(*args, **kwargs)
            return inputs | {"past_key_values": inputs.get("cache")}

        self.base_model_prepare_inputs_for_generation = prepared
        try:
            inputs = original(self, *args, **kwargs)
        finally:
            self.base_model_prepare_inputs_for_generation = prepare
        inputs["cache"] = inputs.pop("past_key_values")
        return inputs

    monkeypatch.setattr(PeftModelForCausalLM, "prepare_inputs_for_generation", by_the_new_name)


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_a_prompt_is_read_once(peft_reads, use_cache):
    """With a release of Transformers whose name of the cache peft does not know, it would be put in
    at each base.
    """
    model = adapted("CAUSAL_LM", seed=11).double()
    base, prompt = model.get_base_model(), model.get_prompt(1)
    base.lm_head.weight.normal_(generator=torch.Generator().manual_seed(3))
    lengths = []
    base.hyena.register_forward_hook(lambda module, args, output: lengths.append(output[0].shape[1]))
    ids, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0
    settings = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False, "use_cache": use_cache}
    new = model.generate(input_ids=ids, attention_mask=mask, **settings)[:, 12:]
    assert lengths == ([T + 12] + [1] * 8 if use_cache else list(range(T + 12, T + 21)))
    for row, keep, tokens in zip(ids, mask.bool(), new, strict=True):
        embeds = base.get_input_embeddings()(torch.cat([row[keep], tokens])[None])
        # the bases
        logits = base(inputs_embeds=torch.cat([prompt, embeds], dim=1)).logits[0, -10:-1, 7:12]
        assert torch.equal(logits.argmax(-1) + 7, tokens)
    assert len(set(new.flatten().tolist())) > 2


# ------------------------------------------------------------------------ what is trained and saved


def trained_steps(model, n=3, **batch):
    """A few steps of AdamW as a recipe would do them; return the names of what had a gradient."""
    model.train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    for _ in range(n):
        model(**batch).loss.backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return with_gradient


def without_adapter(model) -> dict:
    """The weights of the base model, under their own names."""
    state = model.get_base_model().state_dict()
    return {
        name.replace(".base_layer", "").replace(".original_module", ""): value
        for name, value in state.items()
        if "lora_" not in name and "modules_to_save" not in name
    }


@pytest.mark.parametrize("kind", ["prompt", "lora"])
@pytest.mark.parametrize("task", HEADS)
def test_the_frozen_base_stays_equal_to_the_bit(task, kind):
    settings = {"num_virtual_tokens": T} if kind == "prompt" else {}
    model = adapted(task, PromptTuningConfig if kind == "prompt" else LoraConfig, settings)
    before = {name: value.clone() for name, value in without_adapter(model).items()}
    _, batch = padded_batch("left")
    labels = {
        "CAUSAL_LM": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100),
        "SEQ_CLS": torch.tensor([0, 1, 2]),
        "TOKEN_CLS": F.pad(batch["input_ids"] % 3, (T if kind == "prompt" else 0, 0), value=-100),
    }[task]
    logits = model(**batch).logits
    trained = trained_steps(model, **batch, labels=labels)
    head = set() if task == "CAUSAL_LM" else {"score.modules_to_save.default.weight"}
    if kind == "prompt":
        assert {name.removeprefix("base_model.") for name in trained} == {
            "prompt_encoder.default.embedding.weight"
        } | head
    else:
        assert {n.removeprefix("base_model.model.") for n in trained if "lora_" not in n} == head
        assert {n.split(".lora_")[0].rpartition(".")[2] for n in trained if "lora_" in n} == {
            *("in_proj", "out_proj", "fc1", "fc2")
        }
    after = without_adapter(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (model(**batch).logits - logits).abs().max() > 1e-3  # and it did train


@pytest.mark.parametrize("config", [PromptTuningConfig, LoraConfig])
def test_gradient_checkpointing_with_a_frozen_base(config):
    settings = {"num_virtual_tokens": T} if config is PromptTuningConfig else {"init_lora_weights": False}
    _, batch = padded_batch("left")
    gradients = []
    for checkpointing in (False, True):
        model = adapted("SEQ_CLS", config, settings).train()
        if checkpointing:
            checkpoint_activations(model)
        torch.manual_seed(0)
        model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 1
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6)


def test_a_prompt_of_32_tokens_is_a_small_file(tmp_path):
    base = HyenaDNAForSequenceClassification(random_model().config.__class__())  # 128 wide
    for task, head in (("CAUSAL_LM", {}), ("SEQ_CLS", {"base_model.score.weight": (2, 128)})):
        base = HEADS[task](base.config)
        get_peft_model(base, PromptTuningConfig(task_type=task, num_virtual_tokens=32)).save_pretrained(
            tmp_path / task
        )
        file = tmp_path / task / "adapter_model.safetensors"
        shapes = {name: tuple(value.shape) for name, value in load_file(file).items()}
        assert shapes == {"prompt_embeddings": (32, 128), **head}
        assert file.stat().st_size <= 20_000 + 4 * 256 * len(head)
    lora = get_peft_model(HyenaDNAForCausalLM(base.config), LoraConfig(r=4, task_type="CAUSAL_LM"))
    lora.save_pretrained(tmp_path / "lora")
    stored = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    widths = [(128, 384), (128, 128), (128, 512), (512, 128)]
    assert sum(value.numel() for value in stored.values()) == 2 * sum(4 * (a + b) for a, b in widths)


RELOAD = """
import json, sys
import torch
import hyenadna
from hyenadna import HyenaDNAForSequenceClassification

folder, task = sys.argv[1:]
model = HyenaDNAForSequenceClassification.from_pretrained(folder + "/base", num_labels=3)
assert "peft" not in sys.modules, "peft was imported by hyenadna"
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model

ids = torch.tensor(json.load(sys.stdin))
logits = []
for name in ("prompt", "lora"):
    with torch.no_grad():
        path = f"{folder}/{name}"
        loaded = AutoPeftModelForSequenceClassification.from_pretrained(path, num_labels=3).eval()
        logits.append(loaded(ids, attention_mask=(ids != 4).long()).logits.tolist())
targets = sorted(get_peft_model(model, LoraConfig()).peft_config["default"].target_modules)
print(json.dumps([logits, targets]))
"""


def test_saved_adapters_load_in_a_new_process_that_knows_peft_late(tmp_path):
    random_model().save_pretrained(tmp_path / "base")
    _, batch = padded_batch("left")
    expected = []
    for name, config in (
        ("prompt", PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=T)),
        ("lora", LoraConfig(task_type="SEQ_CLS")),
    ):
        base = HyenaDNAForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
        model = get_peft_model(base, config)
        trained_steps(model, **batch, labels=torch.tensor([0, 1, 2]))
        model.save_pretrained(tmp_path / name)
        with torch.no_grad():
            expected.append(model(**batch).logits)
    child = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path), "SEQ_CLS"],
        input=json.dumps(batch["input_ids"].tolist()),
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    logits, targets = json.loads(child.stdout.splitlines()[-1])
    for there, here in zip(logits, expected, strict=True):
        torch.testing.assert_close(torch.tensor(there), here, rtol=0, atol=1e-6)
    assert targets == ["fc1", "fc2", "in_proj", "out_proj"]


# ------------------------------------------------------------------------------------- peft's tools


@torch.no_grad()
def test_merged_equals_unmerged_and_back():
    model = adapted("CAUSAL_LM", LoraConfig, {"init_lora_weights": False, "r": 4})
    _, batch = padded_batch("left")
    keep = batch["attention_mask"].bool()
    own = random_model()(**batch).logits[keep]
    logits = model(**batch).logits[keep]
    assert (logits - own).abs().max() > 1e-2
    model.merge_adapter()
    torch.testing.assert_close(model(**batch).logits[keep], logits, rtol=1e-5, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(model(**batch).logits[keep], logits, rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        torch.testing.assert_close(model(**batch).logits[keep], own, rtol=1e-5, atol=1e-5)
    merged = model.merge_and_unload()
    assert type(merged) is HyenaDNAForCausalLM and not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(merged(**batch).logits[keep], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["prompt", "lora"])
@torch.no_grad()
def test_two_adapters_switch(kind, tmp_path):
    def config():
        if kind == "prompt":
            return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=T)
        return LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)

    ids = random_ids(2, 20)
    expected = {}
    for seed, name in enumerate(("one", "two")):
        base = random_model()
        torch.manual_seed(seed)
        model = get_peft_model(base, config()).eval()
        expected[name] = model(ids).logits
        model.save_pretrained(tmp_path / name)
    assert (expected["one"] - expected["two"]).abs().max() > 1e-2
    model = PeftModel.from_pretrained(random_model(), tmp_path / "one", adapter_name="one").eval()
    model.load_adapter(tmp_path / "two", adapter_name="two")
    for name in ("one", "two", "one"):
        model.set_adapter(name)
        torch.testing.assert_close(model(ids).logits, expected[name], rtol=0, atol=1e-6)


@torch.no_grad()
def test_transformers_loads_a_lora_folder_by_itself(tmp_path):
    random_model().save_pretrained(tmp_path / "base")
    base = HyenaDNAForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    model.save_pretrained(tmp_path / "lora")
    ids = random_ids(2, 20)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "lora")
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [IA3Config(), LNTuningConfig(), LoHaConfig(r=2), AdaLoraConfig(total_step=10), LoraConfig(use_dora=True)],
)
def test_other_methods_have_default_targets_too(config):
    config.task_type = "SEQ_CLS"
    model = get_peft_model(random_model(HyenaDNAForSequenceClassification, num_labels=3), config)
    _, batch = padded_batch("left")
    logits = model.eval()(**batch).logits
    trained_steps(model, **batch, labels=torch.tensor([0, 1, 2]))
    assert (model(**batch).logits - logits).abs().max() > 1e-4
    names = [n for n, p in model.named_parameters() if p.requires_grad and "score" not in n]
    assert names and not any("filter_fn" in name for name in names)


class PromptedTokenCollator(DataCollatorForTokenClassification):
    """As in docs/adapting.md: `peft` pads no labels for TOKEN_CLS."""

    def torch_call(self, features):
        batch = super().torch_call(features)
        batch["labels"] = F.pad(batch["labels"], (T, 0), value=-100)
        return batch


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS"])
def test_trainer_resumes_to_the_bit(task, tmp_path):
    tokenizer = HyenaDNATokenizer(add_eos_token=False)
    rows = [{"input_ids": random_ids(n, seed=n).tolist()} for n in range(8, 24)]
    for row in rows:
        row["labels"] = (
            [token % 3 for token in row["input_ids"]] if task == "TOKEN_CLS" else row["input_ids"][-1] % 3
        )

    def train(folder, resume=None):
        model = adapted(task, embed_dropout=0.1)
        model.prompt_encoder.default.embedding.weight.data.mul_(0.02)
        args = TrainingArguments(
            str(folder),
            num_train_epochs=3,
            per_device_train_batch_size=4,
            save_strategy="epoch",
            use_cpu=True,
            eval_strategy="epoch",
            load_best_model_at_end=task == "SEQ_CLS",
            report_to="none",
            learning_rate=1e-2,
            disable_tqdm=True,
        )
        if task == "TOKEN_CLS":
            collator = PromptedTokenCollator(tokenizer)
        else:
            collator = lambda rows: {  # noqa: E731
                **tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt"),
                "labels": torch.tensor([row["labels"] for row in rows]),
            }
        trainer = HyenaDNATrainer(model, args, collator, train_dataset=rows, eval_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        prediction = trainer.predict(rows)
        assert prediction.predictions.shape == ((16, 3) if task == "SEQ_CLS" else (16, T + 23, 3))
        return model, prediction.predictions

    whole, predictions = train(tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoint-4/model*"))  # only the adapter
    resumed, again = train(tmp_path / "run", str(tmp_path / "run" / "checkpoint-4"))
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert (predictions == again).all()


# ------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize("task", HEADS)
def test_prefix_tuning_says_what_to_use(task):
    model = adapted(task, PrefixTuningConfig)
    with pytest.raises(ValueError, match=r"no attention.*PromptTuningConfig"):
        model(random_ids(2, 20))
    if task == "CAUSAL_LM":
        with pytest.raises(ValueError, match=r"no attention.*PromptTuningConfig"):
            model.generate(input_ids=random_ids(2, 20), max_new_tokens=3)


def test_prompt_tokens_count_against_max_seq_len():
    model = adapted("CAUSAL_LM", max_seq_len=30)
    model(random_ids(1, 25))
    with pytest.raises(ValueError, match=r"31 tokens long, padding and prompts included, .* max_seq_len=30"):
        model(random_ids(1, 26))
    seen = []
    model.get_base_model().hyena.register_forward_hook(lambda *_: seen.append(1))
    # 5 + 20 and 6 new
    with pytest.raises(ValueError, match=r"Prompt \(25 tokens\).* length of 31, .*max_seq_len=30"):
        model.generate(input_ids=random_ids(1, 20), max_new_tokens=6)
    assert not seen  # before anything was computed
    assert model.generate(input_ids=random_ids(1, 20), max_new_tokens=5, min_new_tokens=5).shape == (1, 25)
    plain = model.get_base_model()
    assert plain.generate(random_ids(1, 20), max_new_tokens=10, min_new_tokens=10).shape == (1, 30)


def test_a_prompt_from_text(tmp_path):
    HyenaDNATokenizer().save_pretrained(tmp_path)
    text = {
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "ACGT",
        "tokenizer_name_or_path": str(tmp_path),
    }
    model = adapted("SEQ_CLS", PromptTuningConfig, {"num_virtual_tokens": 6, **text})
    embeddings = model.get_base_model().get_input_embeddings().weight
    # [SEP], and again from the start
    assert torch.equal(model.get_prompt(1)[0], embeddings[[7, 8, 9, 10, 1, 7]])


def test_token_labels_without_the_prompt():
    model = adapted("TOKEN_CLS")
    ids = random_ids(2, 20)
    with pytest.raises(ValueError, match=r"\(2, 20\).*\(2, 25\).*-100 in front"):
        model(ids, labels=ids % 3)
    with_prompt = model(ids, labels=F.pad(ids % 3, (T, 0), value=-100))
    expected = F.cross_entropy(with_prompt.logits[:, T:].transpose(1, 2), ids % 3)
    torch.testing.assert_close(with_prompt.loss, expected)


def test_an_adapter_for_another_width(tmp_path):
    adapted("CAUSAL_LM", LoraConfig, {}).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(random_model(d_model=32), tmp_path)


def test_labels_and_heads_of_a_saved_prompt(tmp_path):
    random_model().save_pretrained(tmp_path / "base")
    base = HyenaDNAForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    get_peft_model(base, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=T)).save_pretrained(
        tmp_path / "p"
    )
    with pytest.raises(RuntimeError, match=r"size mismatch for.*score"):
        # two labels by default
        AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "p")
