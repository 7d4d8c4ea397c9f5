import copy

import pytest
import torch
from transformers import DynamicCache

from hyenadna import HyenaDNAForCausalLM, HyenaDNATokenizer
from hyenadna.transformers_api import CACHE

from .conftest import random_ids, random_model

ALLOWED = [1, 7, 8, 9, 10, 11]


@pytest.fixture(scope="module")
def model():
    model = random_model(max_seq_len=130, seed=11)
    with torch.no_grad():
        model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(3))
        model.lm_head.weight[1] = 0  # so that sequences do not end at once
    return model


def greedy(model, ids: torch.Tensor, n: int) -> list[int]:
    """The plainest loop: one sequence, all of it again for each base, the best of what is allowed."""
    for _ in range(n):
        logits = model(ids).logits[0, -1]
        best = ALLOWED[logits[ALLOWED].argmax()]
        ids = torch.cat([ids, torch.tensor([[best]])], dim=1)
        if best == 1:
            break
    return ids[0].tolist()


def test_greedy_equals_the_loop(model):
    ids = random_ids(3, 12)
    out = model.generate(ids, max_new_tokens=20, do_sample=False)
    for use_cache in (True, False):
        assert torch.equal(model.generate(ids, max_new_tokens=20, do_sample=False, use_cache=use_cache), out)
    generated = set()
    for row, sequence in zip(ids, out.tolist(), strict=True):
        expected = greedy(model, row[None], 20)
        assert sequence[: len(expected)] == expected and set(sequence[len(expected) :]) <= {4}
        generated |= set(expected[12:])
    assert len(generated) > 4  # or this test would say little


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_unequal_prompts_in_a_batch(model, side, use_cache):
    ids = random_ids(3, 15)
    mask = torch.ones_like(ids)
    mask[1, :6], mask[2, :14] = 0, 0
    if side != "left":
        mask = mask.flip(1)
    if side == "both":
        mask[1, :3] = 0
    ids = torch.where(mask.bool(), ids, 4)
    embeds = model.get_input_embeddings()(ids)
    kwargs = {"attention_mask": mask, "max_new_tokens": 15, "do_sample": False, "use_cache": use_cache}
    found = model.generate(ids, **kwargs)[:, 15:]
    assert torch.equal(model.generate(inputs_embeds=embeds, **kwargs), found)
    beams = model.generate(ids, num_beams=3, **kwargs)[:, 15:]
    for row, keep, *new in zip(ids, mask.bool(), found.tolist(), beams.tolist(), strict=True):
        expected = greedy(model, row[keep][None], 15)[int(keep.sum()) :]
        assert new[0][: len(expected)] == expected
        alone = model.generate(row[keep][None], num_beams=3, max_new_tokens=15, do_sample=False)[
            0, int(keep.sum()) :
        ]
        assert new[1][: len(alone)] == alone.tolist()


def without_cache(model, *args, **kwargs):
    return model.generate(*args, use_cache=False, **kwargs)


def test_a_cache_is_used_and_only_the_newest_token_is_read(model, monkeypatch):
    lengths, forward = [], model.hyena.forward
    monkeypatch.setattr(
        model.hyena, "forward", lambda **kw: lengths.append(kw["input_ids"].shape[1]) or forward(**kw)
    )
    model.generate(random_ids(1, 12), max_new_tokens=5, min_new_tokens=5)
    assert lengths == [12, 1, 1, 1, 1]
    lengths.clear()
    without_cache(model, random_ids(1, 12), max_new_tokens=3, min_new_tokens=3)
    assert lengths == [12, 13, 14]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"do_sample": False},
        {"do_sample": False, "num_beams": 4, "num_return_sequences": 3},
        {"do_sample": True, "temperature": 2.0, "num_return_sequences": 2},
        {"do_sample": True, "num_beams": 3, "temperature": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("padded", [False, True])
def test_all_ways_to_generate_are_the_same_without_a_cache(model, kwargs, padded):
    model = copy.deepcopy(model).double()  # or a tie could be broken by a rounding
    ids, mask = random_ids(3, 40), torch.ones(3, 40, dtype=torch.long)
    if padded:
        mask[1, :7], mask[2, :33] = 0, 0
        ids = ids.masked_fill(mask == 0, 4)
    results = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=60,
            min_new_tokens=50,
            use_cache=use_cache,
            output_scores=True,
            return_dict_in_generate=True,
            **kwargs,
        )
        results.append(out)
        assert (getattr(out, CACHE) is not None) == use_cache
    assert torch.equal(results[0].sequences, results[1].sequences)
    for cached, plain in zip(results[0].scores, results[1].scores, strict=True):
        # Transformers computes them in float32
        torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-4)


def test_prefill_in_chunks(model):
    ids, mask = random_ids(2, 50), torch.ones(2, 50, dtype=torch.long)
    mask[1, :20] = 0  # the first chunks of this row are pads
    expected = without_cache(model, ids, attention_mask=mask, max_new_tokens=20, do_sample=False)
    for size in (1, 7, 16, 64):
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=20, do_sample=False, prefill_chunk_size=size
        )
        assert torch.equal(out, expected)


def test_right_pads_in_chunks(model):
    ids = random_ids(3, 40)
    mask = torch.ones_like(ids)
    mask[1, 37:] = 0
    mask[2, 34:] = 0
    settings = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False}
    expected = model.generate(ids, **settings, use_cache=False)
    for size in (10, 20, 32):
        assert torch.equal(model.generate(ids, **settings, prefill_chunk_size=size), expected)
    # the last chunk has one column, which is a pad in rows 1 and 2
    with pytest.raises(ValueError, match=r"Row 1 of `attention_mask`.*leave `prefill_chunk_size` out"):
        model.generate(ids, **settings, prefill_chunk_size=39)


@pytest.mark.parametrize("way", ["ids", "embeds"])
def test_a_second_turn_of_unequal_lengths(model, way):
    """Replies are padded on either side, and so are the prompts before them."""
    prompts = random_ids(3, 20)
    mask = torch.ones_like(prompts)
    mask[1, :6] = 0
    settings = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    first = model.generate(prompts, attention_mask=mask, return_dict_in_generate=True, **settings)
    ids = torch.cat([first.sequences, random_ids(3, 12, seed=5)], dim=1)
    mask = torch.cat([mask, torch.ones(3, 22, dtype=mask.dtype)], dim=1)
    mask[0, 30:35] = 0
    mask[1, 37:] = 0
    expected = model.generate(ids, attention_mask=mask, use_cache=False, **settings)[:, 42:]
    inputs = {"input_ids": ids}
    if way == "embeds":
        inputs = {"inputs_embeds": model.get_input_embeddings()(ids)}
    out = model.generate(**inputs, attention_mask=mask, **{CACHE: first[CACHE]}, **settings)
    assert torch.equal(out[:, -10:], expected)


@pytest.mark.parametrize("length", [20, 25])
def test_a_cache_of_the_whole_prompt_is_refused(model, length):
    """Transformers would read the prompt again, as if it came twice."""
    ids = random_ids(1, 25)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :length], cache=cache)
    with pytest.raises(ValueError, match=f"holds {length} positions, but the prompt has 20: nothing is left"):
        model.generate(ids[:, :20], **{CACHE: cache}, max_new_tokens=5)


def test_going_on_from_a_returned_cache(model):
    ids, more = random_ids(2, 30), random_ids(2, 5, seed=2)
    kwargs = {"min_new_tokens": 10, "max_new_tokens": 10, "do_sample": False}
    first = model.generate(ids, return_dict_in_generate=True, **kwargs)
    prompt = torch.cat([first.sequences, more], dim=1)
    cache = getattr(first, CACHE)
    assert cache.get_seq_length() == 39  # the newest token has not been read
    out = model.generate(prompt, cache=cache, **kwargs)
    assert torch.equal(out, without_cache(model, prompt, **kwargs))
    empty = DynamicCache()  # made without the configuration
    assert torch.equal(model.generate(prompt, cache=empty, **kwargs), out)


def test_assisted_decoding_and_prompt_lookup_crop_the_cache(model):
    ids = random_ids(1, 40)
    expected = without_cache(model, ids, min_new_tokens=60, max_new_tokens=60, do_sample=False)
    assistant = random_model(max_seq_len=130, seed=12, n_layer=1)
    kwargs = {"min_new_tokens": 60, "max_new_tokens": 60, "do_sample": False}
    assert torch.equal(model.generate(ids, assistant_model=assistant, **kwargs), expected)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=5, **kwargs), expected)
    # An assistant that guesses right, so that whole guesses are taken over.
    assert torch.equal(model.generate(ids, assistant_model=copy.deepcopy(model), **kwargs), expected)


def test_a_cache_of_attention_is_refused_before_any_work(model, monkeypatch):
    monkeypatch.setattr(model.hyena, "forward", lambda *a, **k: pytest.fail("the model ran"))
    for kind in ("static", "quantized", "offloaded"):
        with pytest.raises(ValueError, match=f"'{kind}'.*one kind of cache.*'dynamic'"):
            model.generate(random_ids(1, 10), max_new_tokens=5, cache_implementation=kind)


def test_a_checkpoint_of_trainer_generates_with_a_cache(model, tmp_path):
    model.config.use_cache = False  # as Trainer leaves it
    model.save_pretrained(tmp_path)
    model.config.use_cache = True
    again = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    out = again.generate(random_ids(1, 10), max_new_tokens=5, return_dict_in_generate=True)
    assert getattr(out, CACHE) is not None


def test_prompts_as_embeddings(model):
    ids = random_ids(2, 12)
    expected = model.generate(ids, max_new_tokens=9, do_sample=False)[:, 12:]
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeds, max_new_tokens=9, do_sample=False), expected)
    longer = torch.cat([torch.randn(2, 5, 16), embeds], dim=1)  # a soft prompt
    kwargs = {"min_new_tokens": 9, "max_new_tokens": 9, "do_sample": False}
    out, x = model.generate(inputs_embeds=longer, **kwargs), longer
    for i in range(9):
        best = torch.tensor(ALLOWED)[model(inputs_embeds=x).logits[:, -1, ALLOWED[1:]].argmax(-1) + 1]
        assert torch.equal(out[:, i], best)
        x = torch.cat([x, model.get_input_embeddings()(best)[:, None]], dim=1)
    both = model.generate(ids, inputs_embeds=embeds, max_new_tokens=9, do_sample=False)
    assert torch.equal(both[:, 12:], expected)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("way", ["plain", "unequal", "embeddings", "chunks", "assisted"])
@torch.no_grad()
def test_every_token_is_the_argmax_of_one_full_pass(model, way, use_cache):
    """In float64, over what was generated: nothing of `generate` is in the comparison."""
    if not use_cache and way in ("chunks", "assisted"):
        pytest.skip("Transformers does not do this without a cache")
    model = copy.deepcopy(model).double()
    ids = random_ids(1 if way == "assisted" else 3, 30)
    mask = torch.ones_like(ids)
    settings = {"min_new_tokens": 60, "max_new_tokens": 60, "do_sample": False, "use_cache": use_cache}
    given = {"inputs": ids, "attention_mask": mask}
    if way == "unequal":
        mask[1, :7], mask[2, :29] = 0, 0
    elif way == "embeddings":
        given = {"inputs_embeds": model.get_input_embeddings()(ids)}
    elif way == "chunks":
        settings["prefill_chunk_size"] = 7
    elif way == "assisted":
        settings["assistant_model"] = random_model(max_seq_len=130, seed=12, n_layer=1).double()
    new = model.generate(**given, **settings)[:, -60:]
    whole = torch.cat([ids, new], dim=1)
    whole_mask = torch.cat([mask, torch.ones_like(new)], dim=1)
    logits = model(whole, attention_mask=whole_mask).logits[:, 29:-1, ALLOWED[1:]]
    assert torch.equal(new, torch.tensor(ALLOWED[1:])[logits.argmax(-1)])
    assert len(set(new.flatten().tolist())) > 3


def test_a_beam_as_wide_as_all_prefixes_finds_the_best_sequence(model):
    ids = random_ids(1, 12)
    endings = torch.cartesian_prod(*[torch.tensor(ALLOWED[1:])] * 3)
    every = torch.cat([ids.expand(len(endings), -1), endings], dim=1)
    p = model(every).logits.log_softmax(-1)  # Transformers normalizes before it suppresses
    score = p[:, 11:-1].gather(2, endings[..., None]).sum((1, 2))
    ranked = every[score.argsort(descending=True)]
    kwargs = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "num_beams": 25}
    assert torch.equal(model.generate(ids, **kwargs), ranked[:1])
    assert torch.equal(model.generate(ids, num_return_sequences=4, **kwargs), ranked[:4])
    assert not torch.equal(ranked[0], ranked[1]) and score.std() > 0.1


def test_sampling_is_seeded_and_emits_bases_only(model):
    ids = random_ids(4, 10)
    torch.manual_seed(0)
    a = model.generate(ids, max_new_tokens=100, do_sample=True, temperature=3.0)
    torch.manual_seed(0)
    b = model.generate(ids, max_new_tokens=100, do_sample=True, temperature=3.0)
    assert torch.equal(a, b)
    # 4 is the padding after an end; N is a base
    assert set(a.flatten().tolist()) <= {*ALLOWED, 4} and 11 in a


def test_ends_at_sep(model):
    ids = random_ids(1, 5)
    with torch.no_grad():
        saved = model.lm_head.weight.clone()
        h = model.hyena(ids).last_hidden_state[0, -1]
        model.lm_head.weight[1] = 100 * h  # the end is now by far the best
        out = model.generate(ids, max_new_tokens=50, do_sample=False)
        model.lm_head.weight.copy_(saved)
    assert out[0].tolist() == [*ids[0].tolist(), 1]


def test_defaults_survive_files_and_what_a_user_sets_stays(model, tmp_path):
    model.save_pretrained(tmp_path / "a")
    again = HyenaDNAForCausalLM.from_pretrained(tmp_path / "a")
    assert again.generation_config.suppress_tokens == [0, 2, 3, 4, 5, 6, 12, 13, 14, 15]
    assert again.generation_config.eos_token_id == 1 and again.generation_config.pad_token_id == 4
    again.generation_config.suppress_tokens = [0, 11]
    again.save_pretrained(tmp_path / "b")
    assert HyenaDNAForCausalLM.from_pretrained(tmp_path / "b").generation_config.suppress_tokens == [0, 11]


def test_a_published_folder_without_generation_config(golden):
    model = HyenaDNAForCausalLM.from_pretrained(golden)
    assert not (golden / "generation_config.json").exists()
    out = model.generate(random_ids(2, 20), max_new_tokens=30, do_sample=True)
    assert set(out.flatten().tolist()) <= {*ALLOWED, 4}


def test_too_long_is_an_error_before_any_work(model, monkeypatch):
    monkeypatch.setattr(model.hyena, "forward", lambda *a, **k: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=r"\(10 tokens\).*length of 210.*max_seq_len=130.*max_new_tokens"):
        model.generate(random_ids(1, 10), max_new_tokens=200)
    with pytest.raises(ValueError, match=r"\(10 tokens\).*length of 131"):
        model.generate(inputs_embeds=torch.zeros(1, 10, 16), max_new_tokens=121)


# -- vocabularies


def suppressed(**config) -> list[int] | None:
    return random_model(d_model=8, n_layer=1, **config).generation_config.suppress_tokens


def test_what_has_no_token_is_never_generated():
    assert suppressed() == [0, 2, 3, 4, 5, 6, 12, 13, 14, 15]
    # as such a model is saved
    assert suppressed(vocab_size=16, pad_vocab_size_multiple=1) == suppressed()
    assert suppressed(vocab_size=13) == [0, 2, 3, 4, 5, 6, 13, 14, 15]  # of 16 rows
    # Of another alphabet nothing is known but the number of its letters.
    assert suppressed(vocab_size=64) is None
    assert suppressed(vocab_size=60) == [60, 61, 62, 63]
    assert suppressed(vocab_size=6) == [6, 7]


def test_resizing_says_what_is_a_token(tmp_path):
    model = random_model()
    special = [0, 2, 3, 4, 5, 6]
    for count, multiple, expected in (
        (13, None, special),
        (14, 8, [*special, 14, 15]),
        (22, 8, [*special, 22, 23]),
        (23, 8, [*special, 23]),
        (12, 8, [*special, 12, 13, 14, 15]),
    ):
        model.resize_token_embeddings(count, pad_to_multiple_of=multiple)
        assert model.generation_config.suppress_tokens == expected
        model.save_pretrained(tmp_path)
        assert HyenaDNAForCausalLM.from_pretrained(tmp_path).generation_config.suppress_tokens == expected
    model.generation_config.suppress_tokens = [0, 11]  # a user's
    model.resize_token_embeddings(18)
    assert model.generation_config.suppress_tokens == [0, 11]


def test_a_token_that_was_added_is_generated():
    tokenizer = HyenaDNATokenizer(add_eos_token=False)
    tokenizer.add_tokens(["m"])
    model = random_model(d_model=16)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = tokenizer("Am" * 12, return_tensors="pt").input_ids
    assert set(ids[0].tolist()) == {7, 12}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    out = model.generate(ids[:, :6], max_new_tokens=6, do_sample=False)
    assert tokenizer.decode(out[0]) == "Am" * 6


def test_without_generation_config_trainers_use_cache_is_not_handed_on(tmp_path):
    model = random_model(d_model=8)
    model.config.use_cache = False  # as Trainer leaves it
    assert HyenaDNAForCausalLM(model.config).generation_config.use_cache is True
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    again = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert again.generation_config.use_cache is True
    again.generation_config.use_cache = False  # a user's
    again.save_pretrained(tmp_path)
    assert HyenaDNAForCausalLM.from_pretrained(tmp_path).generation_config.use_cache is False


# -- more of what `generate` takes


@pytest.mark.parametrize("use_cache", [True, False])
def test_stop_strings(model, use_cache):
    tokenizer = HyenaDNATokenizer()
    ids = random_ids(4, 20)
    settings = {"max_new_tokens": 60, "min_new_tokens": 60, "do_sample": False, "use_cache": use_cache}
    texts = tokenizer.batch_decode(model.generate(ids, **settings)[:, 20:], skip_special_tokens=True)
    stops = [texts[0][4:7], texts[1][10:12].lower()]
    out = model.generate(ids, stop_strings=stops, tokenizer=tokenizer, **settings)
    stopped = 0
    for row, text in zip(out[:, 20:], texts, strict=True):
        ends = [text.find(stop.upper()) + len(stop) for stop in stops if stop.upper() in text]
        expected = text[: min(ends, default=len(text))]
        assert tokenizer.decode(row, skip_special_tokens=True) == expected
        stopped += expected != text
    assert stopped >= 2
    with pytest.raises(ValueError, match=r"`stop_strings` holds 'stop'.*'TAA'"):
        model.generate(ids, max_new_tokens=5, stop_strings=["stop"], tokenizer=tokenizer)
    with pytest.raises(ValueError, match="could not locate a tokenizer"):
        model.generate(ids, max_new_tokens=5, stop_strings=["TAA"])


def test_early_exit_drafts_the_same_and_leaves_the_model_as_it_was(model):
    ids = random_ids(1, 20)
    expected = model.generate(ids, max_new_tokens=30, do_sample=False)
    out = model.generate(ids, max_new_tokens=30, do_sample=False, assistant_early_exit=1, use_cache=True)
    assert torch.equal(out, expected) and model.config.n_layer == 2
    assert torch.equal(model.generate(ids, max_new_tokens=30, do_sample=False), expected)


def test_continuous_batching_is_refused(model):
    with pytest.raises(NotImplementedError, match=r"`generate_batch`.*padded batch"):
        model.generate_batch([[7, 8, 9]])
