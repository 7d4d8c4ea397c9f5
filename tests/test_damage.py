"""Every kind of file in every state of damage, through the commands that read it; and every command
on a disk that is full, or where it may not write.

The tables are in `tests/helpers/damage.py`. `python -m tests.campaigns.damage` damages at random.
"""

import shutil
from pathlib import Path

import pytest

from hyenadna.training import cli

from .helpers.damage import (
    COMMANDS,
    PLACES,
    READERS,
    Reader,
    complaint,
    damage,
    damages_of,
    digest_of,
    file_size_limit,
    half_written,
    run,
    write_whole_files,
)

READABLE = [(reader, name) for reader in READERS for name in (None, *reader.readable)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_whole_files(tmp_path_factory.mktemp("damage") / "whole")


@pytest.fixture
def files(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "files", symlinks=True)


def case_id(value) -> str:
    return value.id if isinstance(value, Reader) else str(value)


# ----------------------------------------------------------------------------------------- reading


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=case_id)
def test_damage_is_told_in_one_line_that_names_the_file(reader, whole, tmp_path):
    """Before any work: nothing is written then, and nothing of what was there is changed."""
    for number, name in enumerate(damages_of(reader.file)):
        if name in reader.readable:
            continue
        files = shutil.copytree(whole, tmp_path / str(number), symlinks=True)
        damage(files / reader.file, name)
        before = digest_of(files)
        outcome = run(reader.command, files, files / "out")
        names = [Path(reader.file).name]
        if name in PLACES or name == "nothing":
            names.append(Path(reader.file).parent.name or reader.file)
        assert complaint(outcome, reader.command, *names) is None, (name, outcome)
        assert digest_of(files) == before, name


def check_readable(reader: Reader, name: str | None, files: Path) -> None:
    if name is not None:
        damage(files / reader.file, name)
    outcome = run(reader.command, files, files / "out")
    assert outcome.code == 0, outcome
    assert not half_written(digest_of(files))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("reader", "name"), [case for case in READABLE if not case[0].trains], ids=case_id)
def test_whole_files_are_read_and_what_leaves_them_readable(reader, name, files):
    """The damages of the other test are refused because of the damage."""
    check_readable(reader, name, files)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("reader", "name"), [case for case in READABLE if case[0].trains], ids=case_id)
def test_whole_files_are_trained_on(reader, name, files):
    check_readable(reader, name, files)


# ----------------------------------------------------------------------------------------- writing


def test_every_command_that_writes_is_in_the_table():
    assert {command.split()[0] for command in COMMANDS} == set(cli.COMMANDS) - {"push"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_a_folder_that_must_not_be_written_to(command, files):
    (files / "closed").mkdir(mode=0o555)
    outcome = run(command, files, files / "closed" / "out")
    assert complaint(outcome, command, "closed") is None, outcome
    assert not list((files / "closed").iterdir())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_a_disk_without_space(command, files):
    """A limit on the size of files stops every writer, those of other libraries as well."""
    with file_size_limit(0):
        outcome = run(command, files, files / "out")
    assert complaint(outcome, command, "out", ".fa") is None, outcome
    assert not half_written(digest_of(files))
