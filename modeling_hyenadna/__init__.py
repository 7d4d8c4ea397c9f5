"""HyenaDNA, the long-range DNA language model, for Hugging Face Transformers.

    import hyenadna
    from transformers import AutoModel, AutoTokenizer
    model = AutoModel.from_pretrained(hyenadna.example_checkpoint())

`import hyenadna` registers the model with Transformers' Auto classes. What else there is:

| package | what it is for |
|---|---|
| `hyenadna.tokenization` | letters to ids |
| `hyenadna.genomics` | FASTA, BED, GTF, VCF and labelled tables, without a model |
| `hyenadna.training` | `finetune`, `pretrain` and the other commands that train |
| `hyenadna.analysis` | what a trained model says about sequences |
| `hyenadna.hub_upload` | checkpoints in and out, publishing |
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .auto_classes import (
        HyenaDNAConfig,
        HyenaDNAForCausalLM,
        HyenaDNAForSequenceClassification,
        HyenaDNAForTokenClassification,
        HyenaDNAModel,
        HyenaDNAPreTrainedModel,
        HyenaDNATokenizer,
    )

__all__ = [
    "HyenaDNAConfig",
    "HyenaDNAForCausalLM",
    "HyenaDNAForSequenceClassification",
    "HyenaDNAForTokenClassification",
    "HyenaDNAModel",
    "HyenaDNAPreTrainedModel",
    "HyenaDNATokenizer",
    "example_checkpoint",
]


def example_checkpoint() -> str:
    """Path of the pretrained model in the package, for `from_pretrained`.

    It has two blocks of 256 and reads up to 1,026 tokens. Its card, `README.md` in that folder, has
    the data, the settings and the held-out perplexity.
    """
    return str(Path(__file__).parent / "starter_1k")


def _is_command_line() -> bool:
    """Return whether this process is `hyenadna ...` or `python -m hyenadna ...`."""
    started = Path(sys.argv[0]).stem if sys.argv else ""
    if started == "-m":
        # Python is still looking for the module, and its name is here only.
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
        started = module.partition(".")[0]
    return started == "hyenadna"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.auto_classes"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# The model takes seconds to load, because it loads torch and transformers. The command line does
# without it until a command runs, so that `hyenadna NAME --help` answers at once.
if not _is_command_line():
    import_module(f"{__name__}.auto_classes")
