"""Flags of the command line: short help, two spellings, and the nearest name of an unknown one."""

import argparse
import difflib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

__all__ = ["CommandParser", "Section", "next_steps", "short_help", "suggestion"]

_WIDTH = 80
_TEXT_FROM = 28  # the column where the explanations begin
_LONGEST_DEFAULT = 30

# What people write who know other programs. A command suggests the first that it has.
_OTHER_NAMES = {
    "batch": ("batch_size", "per_device_train_batch_size"),
    "batch_size": ("per_device_train_batch_size", "batch_bases"),
    "checkpoint": ("model",),
    "cpu": ("use_cpu", "device"),
    "device": ("use_cpu",),
    "epochs": ("num_train_epochs",),
    "genome": ("fasta",),
    "input": ("data",),
    "labels": ("label_column",),
    "lora": ("lora_rank",),
    "lr": ("learning_rate",),
    "model_name_or_path": ("model",),
    "out": ("output_dir", "output"),
    "output": ("output_dir",),
    "output_dir": ("output",),
    "rank": ("lora_rank",),
    "reference": ("fasta",),
    "steps": ("max_steps",),
    "train_data": ("data",),
    "use_cpu": ("device",),
    "val_data": ("validation_data",),
}

Section = tuple[str, Sequence[argparse.Action]]


# ----------------------------------------------------------------------------------- misspelt flags


def suggestion(words: Iterable[str], flags: Iterable[str]) -> str:
    """Return a sentence that names the nearest flag of each unknown one; empty if none is near.

    >>> suggestion(["--epochs", "2"], ["--num_train_epochs", "--seed"])
    'Instead of --epochs, did you mean --num_train_epochs?'
    """
    # Where a flag has two spellings, the one with underscores is the name that the pages use.
    known = {_plain(flag): f"--{_plain(flag)}" for flag in flags if flag.startswith("--")}
    sentences = []
    for word in words:
        if not word.startswith("--"):
            continue
        nearest = _nearest(_plain(word), known)
        if nearest is not None:
            sentences.append(f"Instead of {word.partition('=')[0]}, did you mean {known[nearest]}?")
    return " ".join(sentences)


def _nearest(name: str, known: Mapping[str, str]) -> str | None:
    others = [other for other in _OTHER_NAMES.get(name, ()) if other in known]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return next(iter(others + close), None)


def _plain(flag: str) -> str:
    return flag.partition("=")[0].removeprefix("--").replace("-", "_")


class CommandParser(argparse.ArgumentParser):
    """The parser of a command that has few settings, none of them Trainer's.

    It takes `--output-dir` for `--output_dir`, refuses an unknown flag before it asks for missing
    ones, and names the nearest.
    """

    def __init__(self, command: str, description: str, example: str = "", epilog: str = ""):
        super().__init__(
            prog=f"hyenadna {command}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            add_help=False,
        )
        self.example = example
        self.add_argument("-h", "--help", "--help-all", action="help", help="print this text and exit")

    def format_help(self) -> str:
        """Return the text of `--help`."""
        needed = self._needed()
        others = [a for a in self._actions if a not in needed and a.dest != "help"]
        sections = [("required", needed), ("optional", others)]
        return short_help(self._usage(), self.description or "", sections, self.example, self.epilog or "")

    def format_usage(self) -> str:
        """Return the line that precedes an error."""
        return f"usage: {self._usage()}\n"

    def _needed(self) -> list[argparse.Action]:
        """Return what has to be given: names without a flag first."""
        positional = [action for action in self._actions if not action.option_strings]
        return positional + [action for action in self._actions if action.option_strings and action.required]

    def _usage(self) -> str:
        words = [self.prog]
        for action in self._needed():
            takes_one = action.option_strings and not action.metavar and not action.choices
            words.append(f"{_flag(action)} {action.dest.upper()}" if takes_one else _flag(action))
        return " ".join([*words, "[--SETTING VALUE ...]"])

    def parse_known_args(self, args=None, namespace=None):
        known = self._option_string_actions
        words = []
        for word in args if args is not None else []:
            name, equals, value = word.partition("=")
            # push has a flag of its own with a hyphen.
            if name.startswith("--") and name not in known:
                name = name.replace("-", "_").replace("__", "--", 1)
                if name not in known:
                    self.refuse(word)
            words.append(f"{name}{equals}{value}" if name.startswith("--") else word)
        return super().parse_known_args(words, namespace)

    def refuse(self, word: str) -> NoReturn:
        """Exit, because there is no such flag."""
        near = suggestion([word], self._option_string_actions)
        self.error(f"there is no {word.partition('=')[0]}. {near or f'See {self.prog} --help'}")


# ---------------------------------------------------------------------------------- what to do next


def next_steps(steps: Mapping[str, str]) -> str:
    """Return what a command says last: commands that may follow, and what each is for.

    >>> print(next_steps({"hyenadna score --model run ...": "likelihoods of sequences"}))
    next:
      hyenadna score --model run ...    # likelihoods of sequences
    """
    width = max(map(len, steps))
    return "\n".join(["next:", *[f"  {step:<{width}}    # {why}" for step, why in steps.items()]])


# --------------------------------------------------------------------------------------------- help


def short_help(
    usage: str, description: str, sections: Iterable[Section], example: str = "", epilog: str = ""
) -> str:
    """Return the help of a command, in lines of 80 characters.

    Args:
        usage: The command with what it needs.
        description: What it does, in a sentence.
        sections: Titles, and settings as parsers hold them.
        example: A command line, with an explanation or without.
        epilog: Paragraphs for the end, with an empty line between them.
    """
    indent = " " * len("usage: hyenadna ")
    lines = _wrap(f"usage: {usage}", _WIDTH, indent)
    lines += ["", *textwrap.wrap(description, _WIDTH)]
    for title, actions in sections:
        if actions:
            lines += ["", f"{title}:"]
        for action in actions:
            lines += _lines_of(action)
    if example:
        lines += ["", "example:", *[f"  {line}" for line in example.splitlines()]]
    for paragraph in filter(None, epilog.split("\n\n")):
        lines += ["", *_wrap(paragraph, _WIDTH)]
    return "\n".join(lines) + "\n"


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Return the lines of a text. Flags and file names stay whole."""
    return textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _lines_of(action: argparse.Action) -> list[str]:
    """Return the lines of a setting: its flag, what it means, and its default in brackets."""
    flag = f"  {_flag(action)}"
    text = (action.help or "").rstrip(".")
    if "--no_" in flag:
        text = f"Switch this off: {text[:1].lower()}{text[1:]}"
    default = _default(action)
    if default:
        text += f" [{default}]"
    wrapped = _wrap(text, _WIDTH - _TEXT_FROM)
    if len(flag) > _TEXT_FROM - 2:
        return [flag, *[" " * _TEXT_FROM + line for line in wrapped]]
    first, *rest = wrapped or [""]
    return [f"{flag:<{_TEXT_FROM}}{first}", *[" " * _TEXT_FROM + line for line in rest]]


def _flag(action: argparse.Action) -> str:
    """Return a flag with its values, as `--strand both|forward|reverse` or `--data FILE`."""
    values = action.metavar or ""
    if action.choices is not None:
        values = "|".join(map(str, action.choices))
    if not action.option_strings:
        return f"{values or action.dest}{' ...' if action.nargs == '+' else ''}"
    takes_none = action.nargs == 0
    return action.option_strings[0] if takes_none or not values else f"{action.option_strings[0]} {values}"


def _default(action: argparse.Action) -> str:
    """Return the default as text; empty if there is none that helps a reader."""
    value = action.default
    # -1 is Trainer's way to say "not given".
    if value in (None, [], -1, argparse.SUPPRESS) or isinstance(value, bool):
        return ""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    text = f"{value:g}" if isinstance(value, float) else str(getattr(value, "value", value))
    return text if len(text) <= _LONGEST_DEFAULT else ""
