"""What a user throws at a model: each tool works, or is refused with a message that says what to
do.

Slow, and most tools are optional: `pip install hyenadna[ecosystem]`. What is not installed is
skipped.
"""

import shutil

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)

from hyenadna import (
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    HyenaDNATokenizer,
    example_checkpoint,
)

from .conftest import random_ids, random_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer():
    return HyenaDNATokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A small language model in a folder."""
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def arguments(path, **settings) -> dict:
    defaults = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True}
    return {"output_dir": str(path), "disable_tqdm": True, **defaults, **settings}


# ---------------------------------------------------------------------------------------- pipelines


@pytest.mark.parametrize(
    ("task", "cls"),
    [
        ("text-generation", HyenaDNAForCausalLM),
        ("text-classification", HyenaDNAForSequenceClassification),
        ("token-classification", HyenaDNAForTokenClassification),
        ("feature-extraction", HyenaDNAModel),
    ],
)
def test_pipelines(task, cls, tokenizer):
    texts = ["ACGTTGCA", "ACG", "TTTTTACGTGGC"]
    settings = {"max_new_tokens": 6, "do_sample": False} if task == "text-generation" else {}
    run = pipeline(task, random_model(cls), tokenizer=HyenaDNATokenizer(), device="cpu")
    together = run(texts, batch_size=3, **settings)
    for text, result in zip(texts, together, strict=True):
        alone = run(text, **settings)
        if task == "feature-extraction":
            length = len(alone[0])
            torch.testing.assert_close(
                torch.tensor(result[0][-length:]), torch.tensor(alone[0]), rtol=1e-4, atol=1e-4
            )
        elif task == "text-generation":
            assert result == alone and result[0]["generated_text"].startswith(text)
        else:
            alone = alone if isinstance(alone, list) else [alone]
            result = result if isinstance(result, list) else [result]
            for a, b in zip(alone, result, strict=True):
                assert a.keys() == b.keys() and abs(a["score"] - b["score"]) < 1e-4


# ------------------------------------------------------------------------------------------ Trainer


# Transformers 5.23 renamed the option, and warns about the older name.
CHECKPOINTING = "activation_checkpointing"
if CHECKPOINTING not in TrainingArguments.__dataclass_fields__:
    CHECKPOINTING = "gradient_checkpointing"

TRAINER_OPTIONS = {
    "checkpointing": {CHECKPOINTING: True},
    "reentrant checkpointing": {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}},
    "bf16": {"bf16": True},
    "accumulation": {"gradient_accumulation_steps": 2},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "NEFTune": {"neftune_noise_alpha": 5.0},
    "adafactor": {"optim": "adafactor"},
    "length grouping": {"train_sampling_strategy": "group_by_length"},
    "workers": {"dataloader_num_workers": 1},
    "batch size finder": {"auto_find_batch_size": True},
    "torch.compile": {"torch_compile": True, "torch_compile_backend": "eager"},
}


@pytest.mark.parametrize("name", TRAINER_OPTIONS)
def test_stock_trainer(name, tmp_path):
    set_seed(0)
    model = random_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = random_ids(8, 20)
    data = Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})
    settings = arguments(tmp_path, save_strategy="no", **TRAINER_OPTIONS[name])
    result = Trainer(model, TrainingArguments(**settings), train_dataset=data).train()
    assert 0 < result.training_loss < 20
    unchanged = [key for key, value in model.state_dict().items() if torch.equal(value, before[key])]
    assert not unchanged


def test_stock_trainer_evaluates_stops_and_resumes(tmp_path):
    ids = random_ids(16, 20)
    data = Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] == 7).long().tolist()})

    def trainer(steps):
        set_seed(0)
        settings = {
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_steps": 1,
            "load_best_model_at_end": True,
        }
        settings = arguments(tmp_path, metric_for_best_model="accuracy", **(settings | {"max_steps": steps}))
        return Trainer(
            random_model(HyenaDNAForSequenceClassification),
            TrainingArguments(**settings),
            train_dataset=data,
            eval_dataset=data,
            compute_metrics=lambda p: {"accuracy": (p.predictions.argmax(-1) == p.label_ids).mean()},
            callbacks=[EarlyStoppingCallback(early_stopping_patience=5)],
        )

    trainer(2).train()
    again = trainer(3)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3 and "eval_accuracy" in again.evaluate()


# --------------------------------------------------------------------------------------------- peft


PEFT_METHODS = {
    "lora": ("LoraConfig", {}),
    "lora on all layers": ("LoraConfig", {"target_modules": "all-linear"}),
    "lora and embeddings": ("LoraConfig", {"target_modules": ["in_proj", "word_embeddings"]}),
    "lora and the head": ("LoraConfig", {"modules_to_save": ["lm_head"]}),
    "dora": ("LoraConfig", {"use_dora": True}),
    "rslora": ("LoraConfig", {"use_rslora": True}),
    "pissa": ("LoraConfig", {"init_lora_weights": "pissa"}),
    "olora": ("LoraConfig", {"init_lora_weights": "olora"}),
    "ia3": ("IA3Config", {}),
    "loha": ("LoHaConfig", {}),
    "lokr": ("LoKrConfig", {}),
    "vera": ("VeraConfig", {"r": 4}),
    "oft": ("OFTConfig", {"oft_block_size": 4, "r": 0}),
    "boft": ("BOFTConfig", {"boft_block_size": 4}),
    "hra": ("HRAConfig", {}),
    "fourier": ("FourierFTConfig", {"n_frequency": 20}),
    "layer norms": ("LNTuningConfig", {}),
    "randlora": ("RandLoraConfig", {}),
    "shira": ("ShiraConfig", {"r": 2}),
    "c3a": ("C3AConfig", {"block_size": 4}),
    "road": ("RoadConfig", {"group_size": 4}),
    "trainable tokens": ("TrainableTokensConfig", {"token_indices": [7, 8]}),
    "soft prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 8}),
}


@pytest.mark.parametrize("name", PEFT_METHODS)
def test_peft(name, tmp_path):
    """Train a step, save, load again: the same outputs; and generation with and without the cache
    is the same.
    """
    peft = pytest.importorskip("peft")
    config, settings = PEFT_METHODS[name]
    if not hasattr(peft, config):
        pytest.skip(f"this peft has no {config}")
    set_seed(0)
    model = peft.get_peft_model(random_model(), getattr(peft, config)(task_type="CAUSAL_LM", **settings))
    ids = random_ids(2, 12)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert not torch.allclose(logits[:, -12:], random_model()(ids).logits)
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(random_model(), tmp_path).eval()
        torch.testing.assert_close(
            again(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, logits, rtol=1e-4, atol=1e-4
        )
    settings = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 6,
        "do_sample": False,
    }
    assert torch.equal(
        model.generate(**settings, use_cache=True), model.generate(**settings, use_cache=False)
    )


def test_prefix_tuning_is_refused():
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ValueError, match=r"Prefix tuning.*no attention.*PromptTuningConfig"):
        peft.get_peft_model(random_model(), config)(input_ids=random_ids(1, 5))


# --------------------------------------------------------------------------------------- quantizers


def _bitsandbytes(**settings):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**settings)
    return AutoModelForCausalLM.from_pretrained(example_checkpoint(), quantization_config=config)


def _torchao(kind, by_transformers):
    ao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    config = getattr(ao, kind)()
    if by_transformers:
        config = TorchAoConfig(config)
        return AutoModelForCausalLM.from_pretrained(example_checkpoint(), quantization_config=config)
    model = AutoModelForCausalLM.from_pretrained(example_checkpoint()).eval()
    ao.quantize_(model, config)
    return model


def _quanto(weights, by_transformers=True):
    quanto = pytest.importorskip("optimum.quanto")
    from transformers import QuantoConfig

    if by_transformers:
        config = QuantoConfig(weights=weights)
        return AutoModelForCausalLM.from_pretrained(example_checkpoint(), quantization_config=config)
    model = AutoModelForCausalLM.from_pretrained(example_checkpoint()).eval()
    quanto.quantize(model, weights=getattr(quanto, f"q{weights}"))
    quanto.freeze(model)
    return model


def _dynamic():
    model = AutoModelForCausalLM.from_pretrained(example_checkpoint()).eval()
    return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


# How to make the model, and by how much its logits may differ. Their spread is 5.3; without mixers
# they are off by 4.6.
QUANTIZERS = {
    "bitsandbytes 8 bit": (lambda: _bitsandbytes(load_in_8bit=True), 0.1),
    "bitsandbytes 4 bit": (lambda: _bitsandbytes(load_in_4bit=True), 0.5),
    "bitsandbytes nf4": (lambda: _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"), 0.5),
    "torchao weights": (lambda: _torchao("Int8WeightOnlyConfig", True), 0.1),
    "torchao activations": (lambda: _torchao("Int8DynamicActivationInt8WeightConfig", True), 0.2),
    "torchao weights, all layers": (lambda: _torchao("Int8WeightOnlyConfig", False), 0.2),
    "torchao activations, all layers": (
        lambda: _torchao("Int8DynamicActivationInt8WeightConfig", False),
        0.2,
    ),
    "quanto 8 bit": (lambda: _quanto("int8"), 0.1),
    "quanto 4 bit": (lambda: _quanto("int4"), 0.5),
    "quanto 8 bit, all layers": (lambda: _quanto("int8", by_transformers=False), 0.5),
    "quantize_dynamic": (_dynamic, 0.3),  # 0.20 at width 256
}


@pytest.mark.parametrize("name", QUANTIZERS)
@torch.no_grad()
def test_quantizers(name):
    make, tolerance = QUANTIZERS[name]
    ids = random_ids(2, 100)[:, :60]
    expected = AutoModelForCausalLM.from_pretrained(example_checkpoint())(ids).logits
    model = make().eval()
    error = (model(ids).logits - expected).abs().max().item()
    assert 0 < error < tolerance
    # By the cache too; not token by token, because activations in 8 bits make close calls of what
    # is close.
    cache = DynamicCache(config=model.config)
    model(ids[:, :40], past_key_values=cache)
    continued = model(ids[:, 40:], past_key_values=cache).logits
    assert (continued - expected[:, 40:]).abs().max() < tolerance
    assert model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False).shape == (2, 64)


def test_qlora_trains():
    peft = pytest.importorskip("peft")
    model = _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM"))
    ids = random_ids(2, 40)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


def test_a_filter_of_integers_is_refused():
    """No quantizer of Transformers makes one; it can be made by name, as here."""
    model = random_model()
    filters = model.hyena.backbone.layers[0].mixer.filter_fn.implicit_filter
    filters[0] = torch.ao.nn.quantized.dynamic.Linear(filters[0].in_features, filters[0].out_features)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"filters was quantized.*`filter_fn` in their name"),
    ):
        model(random_ids(1, 10))


# ---------------------------------------------------------------------------------------------- trl


# trl uses the older names: `gradient_checkpointing`, `gradient_checkpointing_disable`.
OLDER_NAME = pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning")


@OLDER_NAME
def test_trl_sft_by_path(folder, tokenizer, tmp_path):
    trl = pytest.importorskip("trl")
    data = Dataset.from_dict({"text": ["ACGT" * 4] * 4})
    args = trl.SFTConfig(**arguments(tmp_path, bf16=False, max_length=32, eos_token="[SEP]"))
    trainer = trl.SFTTrainer(folder, args=args, train_dataset=data, processing_class=tokenizer)
    assert 0 < trainer.train().training_loss < 20


@OLDER_NAME
def test_trl_dpo_makes_its_own_reference(folder, tokenizer, tmp_path):
    trl = pytest.importorskip("trl")
    data = Dataset.from_dict({"prompt": ["ACGT"] * 4, "chosen": ["AAAA"] * 4, "rejected": ["CCCC"] * 4})
    args = trl.DPOConfig(**arguments(tmp_path, bf16=False, max_length=32))
    model = HyenaDNAForCausalLM.from_pretrained(folder)
    trainer = trl.DPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer)
    assert abs(trainer.train().training_loss - 0.69) < 0.2


# -------------------------------------------------------------------------- attribution, embeddings


def test_captum_integrated_gradients():
    attr = pytest.importorskip("captum.attr")
    model = random_model(HyenaDNAForSequenceClassification)
    x = model.get_input_embeddings()(random_ids(2, 20)).detach()
    method = attr.IntegratedGradients(lambda x: model(inputs_embeds=x).logits)
    values, delta = method.attribute(x, target=1, n_steps=100, return_convergence_delta=True)
    assert values.shape == x.shape and delta.abs().max() < 0.05


def test_sentence_transformers(folder):
    library = pytest.importorskip("sentence_transformers")
    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:
        from sentence_transformers.models import Pooling, Transformer
    transformer = Transformer(folder)
    width = transformer.auto_model.config.d_model
    model = library.SentenceTransformer(modules=[transformer, Pooling(width)], device="cpu")
    texts = ["ACGTACGTAC", "TTG", "GGGGGGGGGGGGGGG"]
    together = model.encode(texts, convert_to_tensor=True)
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(model.encode([text], convert_to_tensor=True)[0], row, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------- export


def test_onnx_with_a_mask(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = random_model(d_model=8, n_layer=1)
    ids = random_ids(3, 20)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    mask[2, 8:11] = 0
    file = str(tmp_path / "model.onnx")
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    torch.onnx.export(model, (), file, kwargs=inputs, dynamo=True, verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for m in (mask, mask.flip(1)):
        logits = session.run(None, {"input_ids": ids.numpy(), "attention_mask": m.numpy()})[0]
        with torch.no_grad():
            expected = model(ids, attention_mask=m).logits
        torch.testing.assert_close(torch.tensor(logits)[m.bool()], expected[m.bool()], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_export_of_prefill_and_decode():
    """The filters are not looked up in their memo while a graph is traced: it compares weights by
    value.
    """
    model = random_model(d_model=8, n_layer=1)
    ids = random_ids(1, 12)

    class Continue(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, prompt, following):
            cache = DynamicCache(config=self.model.config)
            first = self.model(prompt, past_key_values=cache).logits
            return torch.cat([first, self.model(following, past_key_values=cache).logits], dim=1)

    program = torch.export.export(Continue(), (ids[:, :8], ids[:, 8:]), strict=False).module()
    other = random_ids(1, 12, seed=5)
    for x in (ids, other):
        torch.testing.assert_close(program(x[:, :8], x[:, 8:]), model(x).logits, rtol=1e-4, atol=1e-4)


def test_aot_inductor(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    model = random_model(d_model=8, n_layer=1)
    ids = random_ids(2, 20)
    with torch.no_grad():
        program = torch.export.export(model, (), {"input_ids": ids, "use_cache": False}, strict=False)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        logits = torch._inductor.aoti_load_package(package)(input_ids=ids, use_cache=False)
        logits = logits["logits"] if isinstance(logits, dict) else getattr(logits, "logits", logits)
        torch.testing.assert_close(logits, model(ids).logits, rtol=1e-3, atol=1e-3)
