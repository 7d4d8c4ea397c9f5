"""The pretrained model in the package."""

import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import hyenadna
from hyenadna.genomics.labelled import load_splice_junctions
from hyenadna.transformers_api import CACHE

FOLDER = Path(hyenadna.example_checkpoint())


def test_it_is_a_published_tiny_shape_and_small():
    model, report = AutoModelForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and model.config.max_seq_len == 1026
    assert sum(p.numel() for p in model.base_model.parameters()) == 1_641_088
    assert sum(f.stat().st_size for f in FOLDER.glob("*.safetensors")) <= 8_000_000


def test_it_predicts_human_dna_better_than_base_frequencies():
    """On sequences from all over primate genomes, 60 bases each: too short for what it knows of
    repeats.
    """
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    sequences = [s for s in load_splice_junctions()["test"]["sequence"][:] if set(s) <= set("ACGT")][:200]
    ids = tokenizer(sequences, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    share = torch.bincount(ids[:, 1:].flatten(), minlength=11)[7:11] / ids[:, 1:].numel()
    assert loss < -(share * share.log()).sum().item()


def test_its_card_and_metrics_agree():
    metrics = json.loads((FOLDER / "metrics.json").read_text())
    card = (FOLDER / "README.md").read_text()
    for part in ("validation", "test"):
        ours, markov = metrics["metrics"][part], metrics["markov"][part]
        assert math.isclose(math.exp(ours["loss"]), ours["perplexity"], rel_tol=1e-6)
        assert ours["bases"] == markov["bases"]  # the same targets
        assert ours["perplexity"] < min(markov["perplexity"].values())
        assert f"{ours['perplexity']:.4f}" in card


def test_it_starts_a_classifier():
    model = AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=3)
    backbone = AutoModelForCausalLM.from_pretrained(FOLDER).hyena.state_dict()
    assert all(torch.equal(value, backbone[name]) for name, value in model.hyena.state_dict().items())


def test_it_generates_with_its_cache():
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    out = model.generate(torch.tensor([[7, 8, 9, 10]]), max_new_tokens=4, return_dict_in_generate=True)
    assert model.config.use_cache and getattr(out, CACHE) is not None
