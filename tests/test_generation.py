import pytest
import torch

from hyenadna import HyenaDNAForCausalLM

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


def test_unequal_prompts_in_a_batch(model):
    ids = random_ids(3, 15)
    mask = torch.ones_like(ids)
    mask[1, :6], mask[2, :14] = 0, 0
    ids = torch.where(mask.bool(), ids, 4)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=15, do_sample=False)
    for row, keep, sequence in zip(ids, mask.bool(), out.tolist(), strict=True):
        expected = greedy(model, row[keep][None], 15)[int(keep.sum()) :]
        assert sequence[15 : 15 + len(expected)] == expected


def test_prompts_as_embeddings(model):
    ids = random_ids(2, 12)
    expected = model.generate(ids, max_new_tokens=9, do_sample=False)[:, 12:]
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeds, max_new_tokens=9, do_sample=False), expected)
    both = model.generate(ids, inputs_embeds=embeds, max_new_tokens=9, do_sample=False)
    assert torch.equal(both[:, 12:], expected)


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
    assert set(a.flatten().tolist()) <= {*ALLOWED, 4} and 11 in a  # 4 is the padding after an end; N is a base


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
