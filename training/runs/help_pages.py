"""The texts of `hyenadna NAME --help`, stored in `training/help`.

They are stored because making them loads the command, and with it torch: seconds. After a change of
a setting, write them again:

    python -m hyenadna.training.runs.help_pages

`tests/test_help_pages.py` compares them with what the commands say.
"""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

__all__ = ["FOLDER", "made_help", "stored_help", "write_all"]

FOLDER = Path(__file__).parents[1] / "help"


def stored_help(name: str) -> str:
    """Return what `hyenadna NAME --help` prints."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def made_help(module: str) -> str:
    """Return what the module of a command says to `--help`."""
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        import_module(module).main(["--help"])
    return printed.getvalue()


def write_all(modules: Mapping[str, str]) -> None:
    """Write the help of all commands.

    Args:
        modules: The module of each command.
    """
    texts = {name: made_help(module) for name, module in modules.items()}
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for name, text in texts.items():
        (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    from hyenadna.training.cli import COMMANDS, module_of

    write_all({name: module_of(name) for name in COMMANDS})
