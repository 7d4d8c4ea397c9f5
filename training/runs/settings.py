"""The settings of a command: declared as dataclass fields, read from flags or from one YAML file.

A recipe's settings are a dataclass composed of groups (`RowsArguments`, `BackboneArguments`, ...)
and of `RecipeArguments`, which holds Trainer's. Each field is declared with `setting`, which also
says whether it decides the result of a run: those are written into the folder of the run, and a
resumed run must not change them.
"""

import argparse
import itertools
import json
import shlex
import sys
from dataclasses import field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser
from transformers.training_args import OptimizerNames

from hyenadna.errors import UNREADABLE, InputError, reading
from hyenadna.flags import Section, next_steps, short_help, suggestion

Settings = TypeVar("Settings")

# Bounds of a YAML file: many times what the longest recipe needs.
_MOST_BYTES = 100_000
_MOST_EVENTS = 5_000
_DEEPEST = 10

# Fields that Trainer declares cannot carry our flag. These of them decide the result.
_DECIDING_FIELDS_OF_TRAINER = (
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


# Settings of Trainer that `--help` shows, in our words: Transformers' own take a screen.
_HELP_OF_TRAINER = {
    "bf16": "Compute in bfloat16 where that is safe",
    "eval_steps": "Steps between evaluations",
    "gradient_accumulation_steps": "Batches in an optimiser step",
    "max_steps": "Optimiser steps, in place of epochs",
    "num_train_epochs": "Passes over the training rows",
    "per_device_train_batch_size": "Rows in a batch on each device",
    "per_device_eval_batch_size": "Rows in a batch on each device, in evaluation",
    "save_steps": "Steps between checkpoints",
    "seed": "Seed of everything that is random",
    "use_cpu": "Do not use a GPU",
}

# What `--help` shows of a command that says nothing else (`SHOWN`).
SHOWN_OF_TRAINING = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "bf16",
    "seed",
    "use_cpu",
)


class _Help(str):
    """The help of a setting, which also carries its flags.

    HfArgumentParser passes the metadata of a field on to argparse, which refuses keys that it does
    not know.
    """

    decides: bool
    compared: bool


def setting(default: Any, help: str, *, decides: bool = True, compared: bool = True) -> Any:
    """Declare a field of a settings class.

    Args:
        default: Value without a flag. A list is copied for each instance.
        help: Text of `--help`.
        decides: Whether the value decides the result of a run. Then it is written into
            `run_settings.json`.
        compared: Whether a resumed run must have the same value. A path need not: a fingerprint of
            its content is compared instead.
    """
    text = _Help(help)
    text.decides = decides
    text.compared = compared
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def names_of(group: type) -> tuple[str, ...]:
    """Return the names of the settings in a group, in the order of their declaration."""
    return tuple(f.name for f in fields(group) if f.init)


def result_settings(args: Any) -> dict:
    """Return the settings that decide the result of a run, as JSON holds them."""
    settings = {}
    for f in fields(args):
        if getattr(f.metadata.get("help"), "decides", f.name in _DECIDING_FIELDS_OF_TRAINER):
            settings[f.name] = getattr(args, f.name)

    # Transformers keeps these two as enums, or as text if they were given as text.
    if "lr_scheduler_type" in settings:
        settings["lr_scheduler_type"] = str(args.lr_scheduler_type)
    if "optim" in settings:
        settings["optim"] = OptimizerNames(args.optim).value
    return settings


def settings_not_compared(args: Any) -> tuple[str, ...]:
    """Return the names of the settings that a resumed run may change, such as paths."""
    return tuple(f.name for f in fields(args) if not getattr(f.metadata.get("help"), "compared", True))


def refuse_unused(args: Any, names: tuple[str, ...], recipe: str) -> None:
    """Raise `InputError` if a setting that `recipe` does not use is not left at its default."""
    default = {f.name: f.default for f in fields(args)}
    given = [name for name in names if getattr(args, name) != default[name]]
    if given:
        raise InputError(f"{recipe} does not use {', '.join(given)}: leave it out")


def parse_settings(
    cls: type[Settings], recipe: str, description: str, argv: list[str] | None = None, epilog: str = ""
) -> Settings:
    """Read the settings from flags, or from a YAML file and flags that override it.

    A recipe that ships with the package is found by its name alone, if there is no such file in the
    current folder. If a flag names a checkpoint, the shape in the file, which is that of a model
    from scratch, does not count.

    Args:
        cls: Class of the settings. Its `SHOWN` has the names of the settings in `--help` under
            their titles, its `EXAMPLE` a command line, its `NEXT` what may follow (`say_next`).
            `--help-all` lists all settings.
        recipe: Name of the command.
        description: First sentence of its help.
        argv: Arguments; by default those of the command line.
        epilog: What `--help` ends with.

    Raises:
        InputError: The file cannot be read, a setting is unknown, or the class refuses a value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0].endswith((".yaml", ".yml")):
        names_checkpoint = _names_checkpoint(argv)
        left_out = ()
        if names_checkpoint:
            left_out = getattr(cls, "SHAPE", ())
        argv = _flags_of_file(argv[0], left_out) + argv[1:]

    usage = f"hyenadna {recipe} [SETTINGS.yaml] --SETTING VALUE ..."
    parser = HfArgumentParser(
        cls,
        prog=f"hyenadna {recipe}",
        usage=usage,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
    )
    _answer_help(parser, cls, argv)
    if "disable_tqdm" in names_of(cls) and not sys.stderr.isatty():
        argv = ["--disable_tqdm", "True", *argv]  # in a log file, each redraw of a bar is a line
    args, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        near = suggestion(unknown, parser._option_string_actions)
        raise InputError(
            f"unknown settings: {unknown}; {recipe} does not use them: leave them out (`hyenadna {recipe} "
            f"--help-all` lists what it uses). {near}".rstrip()
        )
    return args


def _answer_help(parser: argparse.ArgumentParser, cls: type, argv: list[str]) -> None:
    """Print the short or the long help and exit, if the flags ask for one."""
    if "--help-all" in argv:
        parser.print_help()
    elif "--help" in argv or "-h" in argv:
        more = (
            f"In brackets: the default. `hyenadna {parser.prog.split()[-1]} --help-all` lists all settings."
        )
        epilog = f"{more}\n\n{parser.epilog or ''}"
        example = getattr(cls, "EXAMPLE", "")
        print(short_help(parser.usage, parser.description, _shown(parser, cls), example, epilog), end="")
    else:
        return
    sys.exit(0)


def _shown(parser: argparse.ArgumentParser, cls: type) -> list[Section]:
    """Return the settings for `--help`, under their titles."""
    actions = {}
    for action in parser._actions:
        # A setting that is on by default has a second flag, --no_NAME, which is the one to show.
        if action.dest not in actions or action.option_strings[0].startswith("--no_"):
            actions[action.dest] = action
        if action.dest in _HELP_OF_TRAINER and not _has_own_help(cls, action.dest):
            action.help = _HELP_OF_TRAINER[action.dest]
    return [(title, [actions[name] for name in names]) for title, names in cls.SHOWN.items()]


def _has_own_help(cls: type, name: str) -> bool:
    return any(f.name == name and isinstance(f.metadata.get("help"), _Help) for f in fields(cls))


def say_next(args: Any) -> None:
    """Print what may follow a run: the command lines in `NEXT` of its settings, filled in."""
    if getattr(args, "process_index", 0):
        return
    values = {f.name: shlex.quote(str(getattr(args, f.name))) for f in fields(args)}
    print(next_steps({command.format(**values): why for command, why in args.NEXT.items()}))


def _names_checkpoint(argv: list[str]) -> bool:
    """Return whether a flag names a checkpoint; `--model none` names none."""
    models = [flag.partition("=")[2] for flag in argv if flag.startswith("--model=")]
    models += [value for flag, value in itertools.pairwise(argv) if flag == "--model"]
    return any(model != "none" for model in models)


def _check_size(text: str) -> None:
    """Raise `ValueError` for YAML that no settings need, before it is composed.

    A few hundred bytes of aliases stand for gigabytes, deep nesting overflows the stack, and the
    parser of the flags takes minutes for thousands of names.
    """
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias (*{event.anchor}); write the value again")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        if count > _MOST_EVENTS:
            raise ValueError(f"it has more than {_MOST_EVENTS:,} keys and values")


def _flags_of_file(name: str, left_out: tuple[str, ...]) -> list[str]:
    """Return the content of a YAML file as flags, without the settings in `left_out`.

    The parser of the flags then converts the values (YAML reads 6e-4 as text) and knows every name.
    """
    path = Path(name)
    shipped = Path(__file__).parents[1] / "experiments" / "recipes" / name
    if not path.exists() and shipped.exists():
        path = shipped
    with reading(f"{name} cannot be read", errors=(*UNREADABLE, yaml.YAMLError)):
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode()
        _check_size(text)
        content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise InputError(f"{name}: expected lines such as `learning_rate: 6e-4`")

    given = []
    for key, value in content.items():
        if value is None or key in left_out:  # a key without a value leaves the default
            continue
        values = value if isinstance(value, list) else [value]
        given.append(f"--{key}")
        given += [json.dumps(item) if isinstance(item, dict) else str(item) for item in values]
    return given
