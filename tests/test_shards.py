"""Parts of an interrupted job, whole files, one writer at a time, and the names that the room of
analysis offers.
"""

import pytest

import hyenadna.analysis
from hyenadna.errors import InputError
from hyenadna.training.runs.folder import SETTINGS_FILE
from hyenadna.training.runs.outputs import inert, locked, remove_unfinished, whole_file
from hyenadna.training.runs.shards import Parts, changed_settings, read_earlier_settings, share

from .conftest import locked_by_another_process


def test_parts_are_whole_or_missing(tmp_path):
    parts = Parts(tmp_path, ".txt")
    parts.write("b", lambda path: path.write_text("2"))

    def killed(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.write("a", killed)
    (tmp_path / ".c.77.unfinished.txt").write_text("half")
    assert parts.names() == ["b"] and parts.missing(["c", "b", "a"]) == ["c", "a"]
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]
    parts.remove()
    assert not tmp_path.exists()


def test_every_item_has_one_process():
    items = list(range(11))
    shares = [share(items, rank, 3) for rank in range(3)]
    assert (
        sorted(item for items_of_one in shares for item in items_of_one) == items
        and max(map(len, shares)) - min(map(len, shares)) <= 1
    )


def test_settings_are_compared_as_the_file_holds_them(tmp_path):
    assert read_earlier_settings(tmp_path) == {}
    (tmp_path / SETTINGS_FILE).write_text('{"names": ["a"], "window": 5, "gone": 1}')
    earlier = read_earlier_settings(tmp_path)
    assert changed_settings(earlier, {"names": ("a",), "window": 6, "new": 2}) == {"window": 5}


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with whole_file(path) as file:
        file.write("new\n")
    assert path.read_bytes() == b"new\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["run", "table[1].tsv"])
def test_one_writer_at_a_time(tmp_path, name):
    path = tmp_path / name
    is_file = "." in name
    folder = tmp_path if is_file else path
    folder.mkdir(exist_ok=True)
    litter = folder / ".table[1].77.unfinished.tsv"
    litter.write_text("half")
    other_file = folder / ".other.77.unfinished.tsv"
    other_file.write_text("half, of a writer of another file")
    lock = folder / f".{name}.lock" if is_file else path / ".lock"
    with locked_by_another_process(lock):
        with (
            pytest.raises(InputError, match="another process is writing into"),
            locked(path, is_file=is_file),
        ):
            pytest.fail("locked twice")
        assert litter.exists()
    with locked(path, is_file=is_file):
        assert not litter.exists() and other_file.exists() == is_file
    assert not lock.exists()


def test_the_files_of_other_writers_are_left(tmp_path):
    ours = [".a.77.unfinished.tsv", ".a.77.unfinished.tsv.index"]
    others = [".a.77.unfinished.txt", ".a.b.77.unfinished.tsv"]
    for name in ours + others:
        (tmp_path / name).write_text("half")
    with locked(tmp_path / "a.tsv", is_file=True):
        left = {path.name for path in tmp_path.glob(".*unfinished*")}
    assert left == set(others)

    # A run in this folder begins while `score` writes a.txt into it.
    with locked_by_another_process(tmp_path / ".a.txt.lock"), locked(tmp_path):
        left = {path.name for path in tmp_path.glob(".*unfinished*")}
    assert left == {".a.77.unfinished.txt"}


def test_a_refused_run_leaves_no_folder(tmp_path):
    with pytest.raises(InputError), locked(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
        raise InputError("refused")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_become_text(text):
    assert inert(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "-", "+", "-5", "+1e-3", "chr1", "A=1", "."])
def test_other_text_stays(text):
    assert inert(text) == text


@pytest.mark.parametrize("name", hyenadna.analysis.__all__)
def test_the_names_that_the_room_offers(name):
    assert getattr(hyenadna.analysis, name) is not None and name in dir(hyenadna.analysis)


def test_a_name_that_the_room_does_not_offer():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        hyenadna.analysis.nothing  # noqa: B018
