"""Time and memory of `tokenizer(sequence, return_tensors="pt")` on one random sequence.

    python benchmarks/tokenizer.py [--bases 1000000] [--repeats 5]

Each tokenizer has a process of its own:

- hyenadna: `hyenadna.tokenization.HyenaDNATokenizer`
- python: a tokenizer of Transformers that reads character by character in Python, as the published
  HyenaDNA tokenizer does
- loop: the least that Python can do, without any tokenizer: a list comprehension over a dict, and
  torch.tensor
- rust: the `tokenizers` backend that `tokenizer.json` describes, without our table
- protein, smiles: hyenadna with another alphabet, on as many characters of its own

Prints the median time, the speed, the peak of resident memory and the time relative to hyenadna.
Memory is counted above what the process held before the call, which includes the sequence, and
after a warm-up on a short one. Linux only (it reads /proc).
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PythonBackend, TokenizersBackend

from hyenadna.tokenization import HyenaDNATokenizer

TOKENS = ["[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N"]
VOCABULARY = {token: i for i, token in enumerate(TOKENS)}
OF_DNA = ("hyenadna", "python", "loop", "rust")
NAMES = (*OF_DNA, "protein", "smiles")


class CharacterTokenizer(PythonBackend):
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self):
        super().__init__(eos_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]")

    vocab_size = len(TOKENS)

    def get_vocab(self):
        return VOCABULARY

    def _tokenize(self, text):
        return list(text)

    def _convert_token_to_id(self, token):
        return VOCABULARY.get(token, 6)

    def _convert_id_to_token(self, index):
        return TOKENS[index]

    def build_inputs_with_special_tokens(self, ids, pair=None):
        return [*ids, 1]


# Caffeine, nicotine, chloramphenicol and sodium aspirin: a bracket or a chlorine in 17 characters.
MOLECULES = (
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C.CN1CCC[C@H]1c1cccnc1.O=C(N[C@H](CO)[C@H](O)c1ccc([N+](=O)[O-])cc1)C(Cl)Cl."
    "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]."
)


def text_for(name: str, length: int) -> str:
    """Return a text of so many characters for a tokenizer."""
    if name == "smiles":
        return (MOLECULES * (length // len(MOLECULES) + 1))[:length]
    letters = "ACDEFGHIKLMNPQRSTVWY" if name == "protein" else "ACGTN"
    return "".join(random.Random(0).choices(letters, k=length))


def make(name: str) -> Callable[[str], torch.Tensor]:
    """Return a function from a sequence to ids `(1, length + 1)`."""
    if name in ("protein", "smiles"):
        tokenizer = HyenaDNATokenizer(alphabet=name)
        return lambda text: tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
    if name == "loop":
        return lambda text: torch.tensor([[VOCABULARY.get(c, 6) for c in text] + [1]])
    if name == "rust":
        with tempfile.TemporaryDirectory() as folder:
            HyenaDNATokenizer().save_pretrained(folder)
            tokenizer = TokenizersBackend.from_pretrained(folder)
    else:
        tokenizer = {"hyenadna": HyenaDNATokenizer, "python": CharacterTokenizer}[name]()
    return lambda text: tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]


def memory(field: str) -> int:
    """Return the memory of this process in kB: `VmRSS` is the current, `VmHWM` the peak."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def measure(name: str, bases: int, repeats: int) -> None:
    """Print the median seconds, the peak MB of the first call, and a checksum of the ids."""
    text = text_for(name, bases)
    tokenize = make(name)
    tokenize("ACGT")
    # Reset the peak, which was reached by the imports.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    ids = tokenize(text)
    peak = (memory("VmHWM") - before) / 1024
    weights = torch.arange(ids.numel()) % 1009
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        tokenize(text)
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds), peak, int((ids[0] * weights).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bases", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return measure(args.one, args.bases, args.repeats)

    results = {}
    for name in NAMES:
        command = [sys.executable, __file__, "--bases", args.bases, "--repeats", args.repeats, "--one", name]
        output = subprocess.run(
            [str(part) for part in command], check=True, capture_output=True, text=True
        ).stdout
        results[name] = [float(number) for number in output.split()]
    if len({results[name][2] for name in OF_DNA}) > 1:
        raise RuntimeError(f"The tokenizers disagree about the ids: {results}")
    print(f"{args.bases:,} bases, median of {args.repeats}\n")
    print("| tokenizer | ms | Mbase/s | peak MB | time / hyenadna |")
    print("|---|---|---|---|---|")
    for name, (seconds, peak, _) in results.items():
        ratio = seconds / results["hyenadna"][0]
        print(
            f"| {name} | {1000 * seconds:.1f} | {args.bases / seconds / 1e6:.2f} | {peak:.0f} | {ratio:.1f} |"
        )


if __name__ == "__main__":
    main()
