"""Which checkpoints of a run can be resumed: whole ones, and nothing that only looks like one."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hyenadna.training.runs.checkpoints import (
    MANIFEST_FILE,
    check_manifest,
    last_complete_checkpoint,
    remove_old_checkpoints,
    write_manifest,
)


def write_checkpoint(folder: Path) -> None:
    folder.mkdir()
    save_file({"weight": torch.arange(1000.0)}, folder / "model.safetensors")
    torch.save({"state": torch.arange(2000.0)}, folder / "optimizer.pt")
    torch.save({"step": 3}, folder / "scheduler.pt")
    torch.save({"rng": torch.arange(10)}, folder / "rng_state.pth")
    (folder / "config.json").write_text('{"d_model": 8}')
    (folder / "trainer_state.json").write_text("{}")
    write_manifest(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    """As blocks that a disk never wrote."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


NAMES = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "config.json",
    "trainer_state.json",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage, message",
    [
        (cut, "has [0-9,]+ bytes, but [0-9,]+ were written"),
        (flip_one_bit, "is damaged: its SHA-256"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_broken_checkpoint_is_passed_over_for_the_one_before(damage, message, name, tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr("hyenadna.training.runs.checkpoints.logger.warning", warned.append)
    assert last_complete_checkpoint(tmp_path) is None
    for step in (5, 10, 20):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20") and not warned

    damage(tmp_path / "checkpoint-20" / name)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    expected = rf"checkpoint-20 is broken and passed over: {re.escape(name)} {message}"
    assert len(warned) == 1 and re.search(expected, warned[0])
    damage(tmp_path / "checkpoint-10" / name)
    damage(tmp_path / "checkpoint-5" / name)
    assert last_complete_checkpoint(tmp_path) is None


def test_blocks_that_a_disk_never_wrote(tmp_path):
    write_checkpoint(tmp_path / "checkpoint-5")
    overwrite(tmp_path / "checkpoint-5" / "optimizer.pt")
    with pytest.raises(ValueError, match=r"optimizer\.pt is damaged"):
        check_manifest(tmp_path / "checkpoint-5")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {}}',
        '{"files": {"a": 3}}',
        '{"files": {"a": {"size": 3}}}',
    ],
)
def test_a_damaged_manifest_and_none(content, tmp_path):
    write_checkpoint(tmp_path / "checkpoint-5")
    write_checkpoint(tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-6" / MANIFEST_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        check_manifest(tmp_path / "checkpoint-6")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / MANIFEST_FILE).unlink()
    with pytest.raises(ValueError, match="which is written last"):
        check_manifest(tmp_path / "checkpoint-5")
    assert last_complete_checkpoint(tmp_path) is None


def test_folders_beside_are_no_checkpoints(tmp_path):
    """`checkpoint-best`, copies and archives: they used to end in a traceback (C1), and may not be
    deleted either.
    """
    for step in (9, 10, 11):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    others = ["checkpoint-best", "checkpoint-3 (copy)", "checkpoint-", "checkpoint--1", "checkpoint-1e3"]
    for name in others:
        write_checkpoint(tmp_path / name)
    (tmp_path / "checkpoint-old.zip").write_text("")
    (tmp_path / "checkpoint-99").write_text("a file")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-11")
    remove_old_checkpoints(tmp_path / "checkpoint-11", 1, best=None)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-11", "checkpoint-old.zip", "checkpoint-99", *others}


def test_the_best_and_the_newest_stay_and_broken_ones_of_later_steps_go_first(tmp_path):
    for step in (1, 2, 3, 4, 8):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    remove_old_checkpoints(tmp_path / "checkpoint-4", None, best=None)
    assert len(list(tmp_path.iterdir())) == 5
    # the run was resumed from step 3, and 8 is broken
    remove_old_checkpoints(tmp_path / "checkpoint-4", 4, best=None)
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}
    remove_old_checkpoints(tmp_path / "checkpoint-4", 1, best=str(tmp_path / "checkpoint-2"))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-4"}


def test_a_manifest_names_every_file(tmp_path):
    write_checkpoint(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / "pytorch_model_fsdp_0").mkdir()
    (tmp_path / "checkpoint-5" / "pytorch_model_fsdp_0" / "__0_0.distcp").write_text("a shard")
    write_manifest(tmp_path / "checkpoint-5")
    files = json.loads((tmp_path / "checkpoint-5" / MANIFEST_FILE).read_text())["files"]
    assert set(files) == {*NAMES, "pytorch_model_fsdp_0/__0_0.distcp"}
    assert files["trainer_state.json"]["size"] == 2
