"""The settings of a recipe, and the folder that belongs to one run with them.

Settings come from flags or from one YAML file. A run writes those that decide its result beside its checkpoints; a
resumed run must not change them.
"""

import fcntl  # POSIX: Linux and macOS
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import field, fields
from functools import wraps
from pathlib import Path

import yaml
from transformers import HfArgumentParser
from transformers.training_args import OptimizerNames

from hyenadna.errors import InputError

from .trainer import RecipeArguments, last_complete_checkpoint

# Of a model from scratch; a checkpoint has its own.
SHAPE = ("d_model", "n_layer", "max_seq_len", "initializer_range")
SETTINGS_FILE, METRICS_FILE = "run_settings.json", "metrics.json"
# Of the settings that Trainer defines, those that change the result.
_RESULT_SETTINGS = (
    "learning_rate",
    "weight_decay",
    "warmup_steps",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "max_grad_norm",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "metric_for_best_model",
    "bf16",
    "fp16",
    "seed",
)


def setting(default, help: str):
    """A field of a settings class, with the text of its `--help`."""
    return field(default=default, metadata={"help": help})


def result_settings(args: RecipeArguments) -> dict:
    """Return the settings that decide the result: the recipe's own, and those of Trainer's that do."""
    own = {f.name for f in fields(args)} - {f.name for f in fields(RecipeArguments)}
    settings = {name: getattr(args, name) for name in (*sorted(own), *_RESULT_SETTINGS)}
    return {**settings, "lr_scheduler_type": str(args.lr_scheduler_type), "optim": OptimizerNames(args.optim).value}


def one_writer(recipe: Callable) -> Callable:
    """Decorate `recipe(args, ...)`: while it runs, no other process runs one in the same `args.output_dir`.

    The main process locks a hidden file there. The lock ends with the process, however that ends, and is of a kind that
    its workers do not inherit, which may outlive it for a moment. Where a folder can only be read, or its file system
    has no locks, nothing is locked.

    Raises:
        InputError: Another process is writing into the folder.
    """

    @wraps(recipe)
    def alone(args: RecipeArguments, *rest, **named):
        output = Path(args.output_dir)
        lock, made = output / ".lock", [path for path in (output, *output.parents) if not path.exists()]
        with ExitStack() as at_end:
            if args.process_index == 0:
                for path in reversed(made):  # a recipe that was refused leaves nothing
                    at_end.callback(_remove_if_empty, path)
                try:
                    output.mkdir(parents=True, exist_ok=True)
                    file = at_end.enter_context(open(lock, "a"))
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not (lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())):
                        raise BlockingIOError  # another one ended just now, and removed the file
                    at_end.callback(lock.unlink, missing_ok=True)
                except BlockingIOError:
                    raise InputError(
                        f"another process is writing into output_dir {str(output)!r}; wait for it, end it, or choose "
                        "another folder"
                    ) from None
                except OSError:
                    pass
            return recipe(args, *rest, **named)

    return alone


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def refuse_unused(args: RecipeArguments, names: tuple[str, ...], recipe: str) -> None:
    """Raise `InputError` if a setting that `recipe` inherits but does not use is not left at its default."""
    default = {f.name: f.default for f in fields(args)}
    given = [name for name in names if getattr(args, name) != default[name]]
    if given:
        raise InputError(f"{recipe} does not use {', '.join(given)}: leave it out")


def check_output_folder(output: Path, settings: dict, resume: bool, not_compared: tuple[str, ...]) -> None:
    """Raise `InputError` if the run would overwrite what it did not write.

    Args:
        output: Folder of the run.
        settings: What decides its result.
        resume: Whether an earlier run there is to be continued.
        not_compared: Settings that the earlier run may have had otherwise, such as paths.
    """
    if output.is_file():
        raise InputError(f"output_dir {str(output)!r} is a file; choose a folder")
    found = sorted(p.name for p in output.iterdir() if p.name[0] != ".") if output.is_dir() else []
    if SETTINGS_FILE not in found:
        if found:
            raise InputError(f"output_dir {str(output)!r} holds {found[:5]} of something else; choose another folder")
        return
    try:
        earlier = json.loads((output / SETTINGS_FILE).read_text())
    except ValueError as error:
        raise InputError(f"{output / SETTINGS_FILE} cannot be read: {error}; choose another folder") from error
    if METRICS_FILE not in found and last_complete_checkpoint(output) is None:
        return  # a run that failed before it had anything to lose
    if not resume:
        state = "a finished" if METRICS_FILE in found else "an interrupted"
        raise InputError(
            f"output_dir {str(output)!r} holds {state} run; choose another folder, or continue that run with --resume"
        )
    for name, value in json.loads(json.dumps(settings)).items():
        digest = name.endswith(("_blake2b", "_sha256"))
        if name in not_compared or (name not in earlier and (digest or name in _RESULT_SETTINGS)):
            continue  # an earlier version did not write it
        if digest and earlier[name] != value:
            what = name.rpartition("_")[0].replace("_", " ")
            raise InputError(
                f"output_dir {str(output)!r} holds another run: its {what} had other content than now; choose another "
                f"folder, or resume with the same data"
            )
        if earlier.get(name) != value:
            raise InputError(
                f"output_dir {str(output)!r} holds another run: its {name} is {earlier.get(name)!r}, now it is "
                f"{value!r}; choose another folder, or resume with the same setting"
            )


def parse_settings(
    cls: type[RecipeArguments], recipe: str, description: str, argv: list[str] | None = None
) -> RecipeArguments:
    """Read the settings from flags, or from one YAML file with flags after it, which override it.

    A file that is not there, but in the folder `recipes` of the package, is taken from there. If a checkpoint is named
    by a flag, the shape in the file, which is that of a model from scratch, does not count.

    Args:
        cls: Their class.
        recipe: Name of the command.
        description: First sentence of its help.
        argv: Arguments; by default those of the command line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0].endswith((".yaml", ".yml")):
        shipped = Path(__file__).parents[1] / "experiments" / "recipes" / argv[0]  # the paper's settings, by their name
        try:
            content = yaml.safe_load(
                (shipped if not Path(argv[0]).exists() and shipped.exists() else Path(argv[0])).read_text()
            )
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{argv[0]} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise InputError(f"{argv[0]}: expected lines such as `learning_rate: 6e-4`")
        if any(flag.partition("=")[0] == "--model" for flag in argv):
            content = {name: value for name, value in content.items() if name not in SHAPE}
        # Through the flags' parser: it converts (YAML reads 6e-4 as text) and knows every name.
        given = []
        for name, value in content.items():
            if value is None:
                continue  # a key without a value: the default
            values = value if isinstance(value, list) else [value]
            given += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
        argv = given + argv[1:]
    parser = HfArgumentParser(
        cls,
        prog=f"hyenadna {recipe}",
        usage=f"hyenadna {recipe} [SETTINGS.yaml] --data DATA --output_dir FOLDER [--SETTING VALUE ...]",
        description=f"{description} The settings of this recipe stand last, after Trainer's own.",
        allow_abbrev=False,
    )
    args, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    if unknown:
        raise InputError(f"unknown settings: {unknown}; `hyenadna {recipe} --help` lists them")
    return args
