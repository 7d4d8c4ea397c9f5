"""The command line: `hyenadna NAME ...` imports the module of a command and runs its `main`."""

# Nothing heavy is imported here: `hyenadna --help` must answer at once.

import importlib
import logging
import os
import sys
from importlib.metadata import version

from hyenadna.errors import HyenaDNAError, disk_error, one_line
from hyenadna.flags import suggestion
from hyenadna.training.runs.help_pages import stored_help

COMMANDS = {
    "demo": "train on built-in real DNA, test, save, reload: minutes on two cores",
    "finetune": "train a classifier or a regression on your labelled sequences",
    "soft-prompt": "adapt a frozen model by learned tokens in front of your sequences",
    "few-shot": "classify from a few labelled examples in the context",
    "adapter-study": "compare prompts, LoRA, a linear probe and full fine-tuning",
    "benchmark": "the paper's classification benchmarks, or your own set, beside k-mer baselines",
    "chromatin": "many binary tracks of a window at once: the chromatin profile",
    "species": "tell species apart by random windows of their genomes",
    "embed": "embeddings of sequences or genes, a classifier on them, and their picture",
    "report": "results of runs in one table and picture, beside the paper's",
    "pretrain": "train a language model on genomes: FASTA, BED, several species",
    "predict": "classes or numbers of new sequences, or along a genome, from a trained model",
    "score": "log-likelihood and perplexity of sequences, on both strands",
    "variants": "log-likelihood of alternative against reference alleles of a VCF; mutagenesis of a region",
    "convert": "bring a published checkpoint in, or yours to the published layout; runs no pickle",
    "export": "make a folder that loads anywhere, with or without this package, and prove it",
    "push": "publish an exported folder on the Hub, in one commit",
}
_ELSEWHERE = {  # the others are in `hyenadna.training`; all are imported on demand
    "few-shot": "hyenadna.training.experiments.few_shot",
    "adapter-study": "hyenadna.training.experiments.adapter_study",
    "benchmark": "hyenadna.training.experiments.benchmark",
    "chromatin": "hyenadna.training.experiments.chromatin",
    "species": "hyenadna.training.experiments.species",
    "report": "hyenadna.training.experiments.report",
    "embed": "hyenadna.analysis.embedding",
    "predict": "hyenadna.analysis.prediction",
    "score": "hyenadna.analysis.scoring",
    "variants": "hyenadna.analysis.variants",
    "convert": "hyenadna.hub_upload.convert",
    "export": "hyenadna.hub_upload.export",
    "push": "hyenadna.hub_upload.push",
}
_OPTIONAL = {
    "accelerate",
    "datasets",
    "evaluate",
    "matplotlib",
    "pandas",
    "peft",
    "pyfaidx",
    "scipy",
    "sklearn",
}

# A message may repeat what a file holds, which may be one line of gigabytes.
_LONGEST_MESSAGE = 2000


def module_of(name: str) -> str:
    """Return the module of a command."""
    return _ELSEWHERE.get(name, f"hyenadna.training.{name.replace('-', '_')}")


def run_module(module: str) -> None:
    """Run the command of a module started as `python -m hyenadna.training.finetune ...`."""
    quieten()
    name = next(name for name in COMMANDS if module_of(name) == module)
    sys.exit(main([name, *sys.argv[1:]]))


def quieten() -> None:
    """Silence what libraries say that a user can do nothing about. Call it before they load."""
    # In a log file each redraw of a bar is a line.
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # A table of the weights that a file has too many or too few. The commands look at them by
    # themselves, and refuse a file that does not fit.
    loading = logging.getLogger("transformers.modeling_utils")
    loading.addFilter(lambda record: "LOAD REPORT" not in record.getMessage())


def usage() -> str:
    """Return what `hyenadna --help` prints."""
    lines = [f"  {name:<13} {help}" for name, help in COMMANDS.items()]
    end = "hyenadna NAME --help tells what a command needs and its main settings; --help-all tells all."
    return "\n".join(["usage: hyenadna NAME ... | --help | --version", "", *lines, "", end])


def main(argv: list[str] | None = None) -> int:
    """Run one command. Return 0, 1 (bad input), 2 (wrong usage) or 130 (Ctrl-C)."""
    if argv is None:
        quieten()
        argv = sys.argv[1:]
    argv = list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    name = argv[0]
    if name in ("-V", "--version"):
        print(f"hyenadna {version('hyenadna')}")
        return 0
    if name not in COMMANDS:
        near = suggestion([f"--{name}"], [f"--{known}" for known in COMMANDS]).replace("--", "")
        print(
            f"hyenadna: there is no command {name!r}; there are {', '.join(COMMANDS)}. {near}".rstrip(),
            file=sys.stderr,
        )
        return 2
    if "--help" in argv or "-h" in argv:
        # Making the text would load the command, and with it torch: seconds.
        print(stored_help(name), end="")
        return 0
    try:
        importlib.import_module("hyenadna.auto_classes")
        module = importlib.import_module(module_of(name))
    except ModuleNotFoundError as error:
        # Only for packages of an extra. A missing module of our own is a bug: show the traceback.
        if (error.name or "").partition(".")[0] not in _OPTIONAL:
            raise
        print(
            f'hyenadna {name} needs {error.name}, of the extra "train": pip install ".[train]" in a clone '
            "of the repository",
            file=sys.stderr,
        )
        return 1
    # Errors that a user can mend are one line on stderr. Everything else keeps its traceback.
    try:
        module.main(argv[1:])
        leave_together()
    except HyenaDNAError as error:
        print(f"hyenadna {name}: error: {one_line(error, _LONGEST_MESSAGE)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        reason = disk_error(error)
        if reason is None:
            raise
        print(f"hyenadna {name}: error: {reason}", file=sys.stderr)
        return 1
    return 0


def leave_together() -> None:
    """Wait until all processes of the group are done, then end the group.

    A process that exits with its group open may abort on the way out. The launcher would then kill
    the others, which may still be writing.
    """
    # Only if it is loaded: importing torch here would slow down every command.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
