"""Load all heads of an exported folder, and write outputs and generated tokens, or compare them
with what was written.

python load_exported.py make FOLDER         # a small random model, exported (needs hyenadna)
python load_exported.py package FOLDER OUT  # with `import hyenadna`, without remote code
python load_exported.py alone FOLDER OUT    # with torch and transformers only, by the code in the folder
"""

import copy
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

HEADS = (
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
)


def make(folder: str) -> None:
    from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
    from hyenadna.hub_upload.export import export

    torch.manual_seed(1)
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=32, max_seq_len=300))
    with torch.no_grad():
        for parameter in model.parameters():
            # or what is generated would depend on the last base only
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(f"{folder}.source")
    print(export(f"{folder}.source", folder))


def outputs(folder: str, alone: bool) -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    batch = tokenizer(["ACGTNacgtnRYU", "T" * 250 + "ACG" * 10], padding=True, return_tensors="pt")
    results = {f"tokenizer.{name}": tensor for name, tensor in batch.items()}
    for head in HEADS:
        torch.manual_seed(0)  # of a head that the folder has no weights for
        model = getattr(transformers, head).from_pretrained(folder, trust_remote_code=alone).eval()
        package = type(model).__module__.partition(".")[0]
        assert package == ("transformers_modules" if alone else "hyenadna"), type(model)
        with torch.inference_mode():
            results[head] = model(**batch)[0].contiguous()
        if head == "AutoModelForCausalLM":
            results |= generated(model, tokenizer)
    return results


def generated(model, tokenizer) -> dict[str, torch.Tensor]:
    """Tokens that follow two prompts of unequal length: greedy and sampled, with the cache and
    without it.

    A release that loses the cache gives other tokens, mostly without a word; so the greedy ones are
    also compared with the best bases of one pass over all of them. In float64, or a tie could be
    broken by a rounding.
    """
    model = copy.deepcopy(model).double()
    batch = tokenizer(["ACGT" * 9, "GATTACA"], add_special_tokens=False, padding=True, return_tensors="pt")
    length, new = batch["input_ids"].shape[1], 32
    settings = {"max_new_tokens": new, "min_new_tokens": new}
    results = {}
    for name, way in (("greedy", {"do_sample": False}), ("sampled", {"do_sample": True, "temperature": 2.0})):
        for use_cache in (True, False):
            torch.manual_seed(2)
            tokens = model.generate(**batch, **settings, **way, use_cache=use_cache)[:, length:]
            expected = results.setdefault(f"generate.{name}", tokens.contiguous())
            assert torch.equal(tokens, expected), f"{name}: other tokens without the cache"
    best = results["generate.greedy"]
    ids = torch.cat([batch["input_ids"], best], dim=1)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(best)], dim=1)
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask).logits[:, length - 1 : -1]
    bases = torch.tensor(tokenizer.convert_tokens_to_ids(list("ACGTN")))
    assert torch.equal(bases[logits[..., bases].argmax(-1)], best), (
        "greedy: not the best bases of a full pass"
    )
    assert len(best.unique()) > 2, "greedy: one base over and over would be equal by chance"
    return results


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "make":
        make(folder)
    elif command == "package":
        import hyenadna

        save_file(outputs(folder, alone=False), rest[0])
    else:
        try:
            import hyenadna  # noqa: F401
        except ModuleNotFoundError:
            pass
        else:
            sys.exit("hyenadna is installed here, so this would prove nothing")
        expected, results = load_file(rest[0]), outputs(folder, alone=True)
        for name, tensor in expected.items():
            torch.testing.assert_close(results[name], tensor, rtol=1e-5, atol=1e-6)
            print(f"{name}: equal, {tuple(tensor.shape)}")
