"""Killed by SIGKILL and run again: every file is the same as without, and none is left over.

`tests/campaigns/kills.py` does the same with as many kills as one likes.
"""

import numpy as np
import pytest

from .campaigns import kills


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> kills.Campaign:
    return kills.Campaign(tmp_path_factory.mktemp("kills"))


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        # after the last checkpoint is complete, while an older one is removed
        ("pretrain", r"rmdir out/checkpoint-4"),
        ("finetune_steps", r"open out/\.predictions\..*"),
        # while a checkpoint is written that the second run writes again
        ("finetune_epochs", r"rename out/checkpoint-15/\.manifest\..*"),
        # after `metrics.json`, while the parts are removed
        ("embed", r"rmdir out/\.unfinished"),
        ("variants", r"rmdir out/parts"),
        # while a file has its temporary name
        ("mutagenesis", r"rename inputs/\.g\.fa\..*"),
        ("report", r"rename out/\.report\..*\.png .*"),
        # between the names of its two tables
        ("score", r"rename \.scores\..*"),
        ("benchmark", r"rename out/\.report\..*\.png .*"),
        ("convert", r"open \.out\..*/config.json"),
    ],
)
def test_killed_before_an_operation_on_a_file(campaign, name, operation):
    whole, _ = campaign.whole(name)
    already = campaign.kills, len(campaign.failures)
    campaign.kill(name, [kills.before_last(whole, operation)])
    assert campaign.kills == already[0] + 1
    assert campaign.failures[already[1] :] == []


@pytest.mark.parametrize("name", ["finetune_steps", "pretrain"])
def test_killed_at_random(campaign, name):
    whole, _ = campaign.whole(name)
    rng = np.random.default_rng(0)
    campaign.kill(name, [kills.draw_moment(rng, whole) for _ in range(3)])
    assert [failure for failure in campaign.failures if failure.startswith(name)] == []


def test_a_difference_is_told(campaign):
    """What the comparison is worth: an other weight, a file too many, and one that is missing."""
    _, expected = campaign.whole("convert")
    assert "out/model.safetensors" in expected
    other = {**expected, "out/model.safetensors": "x", "out/.litter": "y"}
    del other["out/config.json"]
    texts = ["missing out/config.json", "left over out/.litter", "other out/model.safetensors"]
    assert kills.differences(expected, other) == texts
