"""Load all heads of an exported folder, and write their outputs, or compare them with those that were written.

python load_exported.py make FOLDER         # a small random model, exported (needs hyenadna)
python load_exported.py package FOLDER OUT  # with `import hyenadna`, without remote code
python load_exported.py alone FOLDER OUT    # with torch and transformers only, by the code in the folder
"""

import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

HEADS = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForTokenClassification")


def make(folder: str) -> None:
    from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
    from hyenadna.hub_upload.export import export

    torch.manual_seed(1)
    HyenaDNAForCausalLM(HyenaDNAConfig(d_model=32, max_seq_len=300)).save_pretrained(f"{folder}.source")
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
