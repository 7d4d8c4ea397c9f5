"""Publish to a Hub of our own on 127.0.0.1, over HTTP; load from there in a new process with an
empty cache.
"""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import traceback

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file, save
from transformers import AutoModelForSequenceClassification

from hyenadna import HyenaDNAForSequenceClassification, HyenaDNATokenizer
from hyenadna.errors import CheckpointError, PushError
from hyenadna.hub_upload import contents
from hyenadna.hub_upload import export as export_module
from hyenadna.hub_upload import push as push_module
from hyenadna.hub_upload.contents import files_to_push
from hyenadna.hub_upload.export import export, verify
from hyenadna.hub_upload.push import push
from hyenadna.training import cli

from .conftest import random_ids, random_model
from .helpers.checkpoints import METRICS, lightning, nested, write
from .hub_server import CUT, CUT_AFTER, TOKEN, Hub

UPLOAD, COMMIT, CREATE = "PUT /lfs/", "POST .*/commit/", "POST /api/repos/create"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A classifier, and the folder that `hyenadna export` makes of it."""
    folder = tmp_path_factory.mktemp("exported")
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    model = random_model(HyenaDNAForSequenceClassification, **labels)
    model.save_pretrained(folder / "run")
    HyenaDNATokenizer(add_eos_token=False).save_pretrained(folder / "run")
    (folder / "run/metrics.json").write_text(json.dumps(METRICS))
    (folder / "run/confusion_matrix.png").write_bytes(b"\x89PNG\r\n")
    with pytest.MonkeyPatch.context() as patch:  # proved when it is pushed
        patch.setattr(export_module, "verify", lambda folder, model=None: "")
        export(str(folder / "run"), folder / "promoters", data_name="Promoters")
    return model, folder / "promoters"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, and this process made to talk to it; `time.sleep` only notes how long it was
    asked to.
    """
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.slept = []
    monkeypatch.setattr("time.sleep", server.slept.append)
    server.verified = []
    monkeypatch.setattr(push_module, "verify", server.verified.append)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.close()
    assert not server.unknown


def run(hub, code: str, *arguments: str, home, **environment) -> str:
    """What `code` prints in a new process that knows this Hub, and has an empty cache in `home`."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        **environment,
    }
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-3000:]
    assert TOKEN not in child.stdout + child.stderr
    return child.stdout


PUSH = """
import sys
for name in ("accelerate", "datasets", "evaluate", "matplotlib", "pandas", "peft", "sklearn"):
    sys.modules[name] = None  # the extras of training are not needed
from hyenadna.training.cli import main
sys.exit(main(["push", *sys.argv[1:]]))
"""
WITHOUT = """
import json, sys
sys.modules["hyenadna"] = None
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("me/promoters", trust_remote_code=False)
model = AutoModelForSequenceClassification.from_pretrained("me/promoters", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
print(json.dumps(model(**tokenizer("ACGTNacgtnRU", return_tensors="pt")).logits.tolist()))
"""


def test_a_pushed_folder_loads_where_the_package_is_not_installed(exported, hub, tmp_path, monkeypatch):
    model, folder = exported
    monkeypatch.undo()  # a real verification, in a process that knows no Hub but this one
    printed = run(hub, PUSH, str(folder), "me/promoters", home=tmp_path / "a")
    assert "pushed to me/promoters (private)" in printed and f"see {hub.url}/me/promoters/commit/" in printed
    assert hub.repos["me/promoters"]["private"] and len(hub.repos["me/promoters"]["branches"]["main"]) == 1
    stored = hub.files("me/promoters")
    assert stored.keys() == {path.name for path in folder.iterdir()}
    for path in folder.iterdir():
        assert path.name == "README.md" or stored[path.name] == path.read_bytes()
    assert not [name for name, content in stored.items() if TOKEN.encode() in content]

    logits = torch.tensor(json.loads(run(hub, WITHOUT, home=tmp_path / "b")))
    expected = model(torch.tensor([[7, 8, 9, 10, 11, 7, 8, 9, 10, 11, 11, 10]])).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    assert not hub.unknown


WITH = """
import sys
import torch, hyenadna
from datasets import Dataset
from hyenadna.hub_upload.convert import convert
from hyenadna.training.trainer import HyenaDNATrainer, RecipeArguments
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

out, scratch = sys.argv[1:]
ids = torch.arange(7, 11).repeat(8)[None]
results = {}
model = AutoModelForSequenceClassification.from_pretrained("me/promoters")
assert type(model) is hyenadna.HyenaDNAForSequenceClassification
results["package"] = model(ids).logits
model.push_to_hub("me/plain")
AutoTokenizer.from_pretrained("me/promoters").push_to_hub("me/plain")
again = AutoModelForSequenceClassification.from_pretrained("me/plain")
results["plain"] = again(ids).logits
assert AutoTokenizer.from_pretrained("me/plain")("ACG").input_ids == [7, 8, 9]

args = RecipeArguments(
    output_dir=f"{scratch}/trained", push_to_hub=True, hub_model_id="me/trained", max_steps=1, use_cpu=True
)
rows = Dataset.from_dict({"input_ids": ids.repeat(4, 1).tolist(), "labels": [0, 1, 0, 1]})
trainer = HyenaDNATrainer(model=model, args=args, train_dataset=rows)
trainer.train()
trainer.push_to_hub()
results["in memory"] = model.eval()(ids).logits
results["trained"] = AutoModelForSequenceClassification.from_pretrained("me/trained")(ids).logits

lm = AutoModelForCausalLM.from_pretrained("me/promoters-lm")
lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["in_proj"], init_lora_weights=False)
peft = get_peft_model(lm, lora).eval()
results["lora in memory"] = peft(ids).logits
peft.push_to_hub("me/adapter")
results["lora"] = AutoPeftModelForCausalLM.from_pretrained("me/adapter")(ids).logits

convert("me/lightning", f"{scratch}/converted")
results["lightning"] = AutoModelForCausalLM.from_pretrained(f"{scratch}/converted")(ids).logits
try:
    hyenadna.HyenaDNAForCausalLM.from_pretrained("me/lightning")
except ValueError as error:
    assert "hyenadna convert SOURCE DEST" in str(error), error
else:
    raise SystemExit("a Lightning repository loaded")
save_file({name: tensor.detach() for name, tensor in results.items()}, out)
"""


def test_push_to_hub_of_transformers_and_peft(exported, hub, tmp_path, monkeypatch):
    model, folder = exported
    monkeypatch.undo()
    hub.create("me/promoters", files={path.name: path.read_bytes() for path in folder.iterdir()})
    lm = random_model(tie_word_embeddings=True, complex_positional_embedding=True)
    lm.save_pretrained(tmp_path / "lm")
    hub.create(
        "me/promoters-lm", files={path.name: path.read_bytes() for path in (tmp_path / "lm").iterdir()}
    )
    source = write(tmp_path / "lightning", lightning(lm), nested(lm))
    hub.create("me/lightning", files={path.name: path.read_bytes() for path in source.iterdir()})
    run(hub, WITH, str(tmp_path / "out.safetensors"), str(tmp_path), home=tmp_path / "home")
    got, ids = load_file(tmp_path / "out.safetensors"), torch.arange(7, 11).repeat(8)[None]
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(got["package"], model(ids).logits, **close)
    torch.testing.assert_close(got["plain"], model(ids).logits, **close)
    torch.testing.assert_close(got["trained"], got["in memory"], **close)
    torch.testing.assert_close(got["lora"], got["lora in memory"], **close)
    torch.testing.assert_close(got["lightning"], lm(ids).logits, **close)
    assert not torch.equal(got["trained"], got["package"]) and not torch.equal(got["lora"], got["lightning"])
    for repo in ("me/plain", "me/trained"):  # no code travels, so no code is named
        assert "auto_map" not in json.loads(hub.files(repo)["config.json"])
        assert hub.files(repo).keys() >= {"config.json", "model.safetensors"}
    assert not hub.unknown


# ------------------------------------------------------------------------------------- what is sent


def test_dry_run_lists_and_sends_nothing(exported, hub, capsys):
    _, folder = exported
    assert cli.main(["push", str(folder), "me/promoters", "--dry_run", "--revision", "v1"]) == 0
    out = capsys.readouterr().out
    assert "would push to me/promoters, revision v1 (private" in out
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    for name, size in sizes.items():
        assert re.search(rf"{size / 1e6:.3f} MB  {re.escape(name)}\n", out), name
    assert f"{sum(sizes.values()) / 1e6:.3f} MB  in all" in out
    assert all(request.startswith("GET ") for request in hub.requests) and not hub.verified
    assert "what would be deleted is not known: me/promoters, or the revision, is not there" in out


def test_the_card_carries_the_name_of_the_repository(exported, hub):
    _, folder = exported
    push(folder, "me/other-name")
    text = hub.files("me/other-name")["README.md"].decode()
    assert "# other-name\n" in text and 'name = "me/other-name"' in text and '"promoters"' not in text
    card = ModelCard(text)
    assert card.data.model_name == "other-name"
    values = {(r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert values == {(part, name): v for part, ms in METRICS["metrics"].items() for name, v in ms.items()}
    assert (folder / "README.md").read_text().startswith("---") and "other-name" not in (
        folder / "README.md"
    ).read_text()
    assert hub.verified == [folder]


def test_a_name_without_a_user_is_made_in_ones_own_space(exported, hub):
    push(exported[1], "short")
    assert 'name = "me/short"' in hub.files("me/short")["README.md"].decode()


@pytest.mark.parametrize("name", ["pt", "2024", "A", "it's: no"])
def test_a_card_of_any_name(hub, tmp_path, monkeypatch, name):
    """The name of the folder may stand in the snippet, or mean something in YAML."""
    random_model(HyenaDNAForSequenceClassification).save_pretrained(tmp_path / "run")
    (tmp_path / "run/metrics.json").write_text(json.dumps(METRICS))
    monkeypatch.setattr(export_module, "verify", lambda folder, model=None: "")
    export(str(tmp_path / "run"), tmp_path / name, data_name="Promoters")
    push(tmp_path / name, "me/2025")
    card = ModelCard(hub.files("me/2025")["README.md"].decode())
    assert card.data.model_name == "2025" and "\n# 2025\n" in card.text and 'return_tensors="pt"' in card.text
    ours = ModelCard.load(tmp_path / name / "README.md")
    assert card.text.replace("me/2025", name).replace("# 2025", f"# {name}") == ours.text
    assert card.data.eval_results == ours.data.eval_results

    edited = str(ours).replace(f"# {name}\n", "# Finds promoters\n")
    # a title of the user's own stays
    (tmp_path / name / "README.md").write_text(edited + f"\n# {name}\n")
    push(tmp_path / name, "me/2025")
    assert "\n# Finds promoters\n" in hub.files("me/2025")["README.md"].decode()


def test_public_is_only_public_when_told(exported, hub):
    _, folder = exported
    report = push(folder, "me/open", public=True)
    assert not hub.repos["me/open"]["private"] and "(public)" in report
    with pytest.raises(PushError, match="is public already"):
        push(folder, "me/open")
    assert len(hub.repos["me/open"]["branches"]["main"]) == 1


def test_a_private_repository_is_made_public_after_the_commit(exported, hub, capsys):
    _, folder = exported
    hub.create("me/a", private=True, files={"secret.txt": b"x"})
    assert "private now, and public afterwards" in push(folder, "me/a", public=True, dry_run=True)
    hub.fail(COMMIT, 403)
    with pytest.raises(PushError, match="nothing was published"):
        push(folder, "me/a", public=True)
    assert hub.repos["me/a"]["private"]
    hub.fail("PUT .*/settings", 403)
    with pytest.raises(
        PushError, match=rf"the files are there, but only you can see them: {hub.url}/me/a/commit/"
    ):
        push(folder, "me/a", public=True)
    assert hub.repos["me/a"]["private"] and "model.safetensors" in hub.files("me/a")
    assert "(public now, private until now)" in push(folder, "me/a", public=True)
    assert not hub.repos["me/a"]["private"]
    assert "would be refused without --public" in push(folder, "me/a", dry_run=True)


OURS = {
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
}
OURS |= {"adapter_model.safetensors", "adapter_config.json", "old_filter.py", "older.py"}
THEIRS = {
    "LICENSE",
    "notes.md",
    "figure.png",
    "predict.py",
    "data/model.safetensors",
    "data/older.py",
    "config.yaml",
}


@pytest.mark.parametrize("pull_request", [False, True])
def test_what_an_earlier_push_left_is_deleted_in_the_same_commit(exported, hub, pull_request):
    _, folder = exported
    before = {name: name.encode() for name in OURS | THEIRS}
    before["modeling_hyenadna.py"] = b"from .old_filter import f\n"
    before["old_filter.py"] = b"import torch\nfrom .older import g\n"
    before["older.py"] = b"import predict\n"
    hub.create("me/a", private=True, files=before)
    report = push(folder, "me/a", dry_run=True)
    assert set(re.findall(r"to be deleted  (\S+)", report)) == OURS
    assert len(hub.repos["me/a"]["branches"]["main"]) == 1

    report = push(folder, "me/a", pull_request=pull_request)
    assert set(re.findall(r"deleted        (\S+)", report)) == OURS
    branch = "refs/pr/1" if pull_request else "main"
    assert len(hub.repos["me/a"]["branches"][branch]) == 2
    assert hub.files("me/a", branch).keys() == {path.name for path in folder.iterdir()} | THEIRS
    assert all(hub.files("me/a", branch)[name] == name.encode() for name in THEIRS)


def test_modules_are_only_deleted_if_they_are_known_to_be_ours(hub, tmp_path):
    """An adapter over a model; and code of which a part is missing, so that nobody knows whose the
    rest is.
    """
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# x\n")
    (tmp_path / "adapter_config.json").write_text("{}")
    files = {"modeling_hyenadna.py": b"from .filters import f\n", "mine.py": b"", "config.json": b"{}"}
    hub.create("me/whole", private=True, files=files | {"filters.py": b""})
    push(tmp_path, "me/whole")
    assert hub.files("me/whole").keys() == {"README.md", "adapter_config.json", "mine.py"}
    hub.create("me/part", private=True, files=files)
    push(tmp_path, "me/part")
    assert hub.files("me/part").keys() == {
        "README.md",
        "adapter_config.json",
        "mine.py",
        "modeling_hyenadna.py",
    }


def test_revisions_and_pull_requests(exported, hub):
    _, folder = exported
    push(folder, "me/a")
    before = dict(hub.files("me/a"))
    (folder / "notes.md").write_text("new")
    try:
        for _ in range(2):  # a branch that is made, and one that is there
            push(folder, "me/a", revision="v2", message="Second")
            assert "notes.md" in hub.files("me/a", "v2") and hub.files("me/a") == before
        report = push(folder, "me/a", pull_request=True)
    finally:
        (folder / "notes.md").unlink()
    assert f"see {hub.url}/me/a/discussions/1" in report
    assert hub.repos["me/a"]["pull_requests"][0].keys() == {"notes.md"} and hub.files("me/a") == before
    with pytest.raises(CheckpointError, match="leave out revision, or pull_request"):
        push(folder, "me/a", pull_request=True, revision="v2")


def test_pushing_the_same_again_changes_nothing(exported, hub):
    _, folder = exported
    push(folder, "me/a")
    hub.requests.clear()
    for pull_request in (False, True):
        assert "there was nothing to commit" in push(folder, "me/a", pull_request=pull_request)
    assert len(hub.repos["me/a"]["branches"]["main"]) == 1
    assert not [request for request in hub.requests if "PUT" in request or "/commit/" in request]


# ----------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("where", "status", "times"),
    [
        (UPLOAD, CUT, 1),
        (UPLOAD, CUT, 8),
        (UPLOAD, 500, 1),
        (UPLOAD, 503, 7),
        (COMMIT, CUT, 1),
        (COMMIT, CUT_AFTER, 1),
        (COMMIT, CUT_AFTER, 3),
        (COMMIT, 500, 2),
        (COMMIT, 429, 1),
        (CREATE, 500, 1),
        ("POST .*/preupload/", 429, 2),
        ("POST .*/objects/batch", 502, 1),
    ],
)
def test_what_passes_by_itself_is_tried_again(exported, hub, where, status, times, capsys):
    _, folder = exported
    hub.fail(where, status, times, Retry_After="7")
    push(folder, "me/a")
    history = hub.repos["me/a"]["branches"]["main"]
    assert len(history) == 1 and history[0]["files"].keys() == {path.name for path in folder.iterdir()}
    assert history[0]["files"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert hub.slept and sum(hub.slept) < 300
    if (where, status) == (COMMIT, 429):
        assert hub.slept == [7] and "too many requests" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "status", "message"),
    [
        (UPLOAD, CUT, "the connection failed"),
        (UPLOAD, 403, "may not write to me/a"),
        (UPLOAD, 500, "the Hub has a fault"),
        (COMMIT, CUT, "the connection failed"),
        (COMMIT, 401, "hf auth login"),
        (COMMIT, 403, "may not write to me/a"),
        (COMMIT, 409, "somebody else changed the repository"),
        (COMMIT, 412, "somebody else changed the repository"),
        (COMMIT, 413, "larger than the Hub takes"),
        (COMMIT, 429, "too many requests"),
        (COMMIT, 500, "the Hub has a fault"),
        (CREATE, 500, "the Hub has a fault"),
        ("GET /api/models/me/a", 500, "the Hub has a fault"),
        ("POST .*/preupload/", 404, "not there"),
    ],
)
def test_what_does_not_pass_is_said_and_leaves_nothing_half_published(
    exported, hub, where, status, message, capsys
):
    _, folder = exported
    hub.create("me/a", private=True, files={"README.md": b"the old card", "config.json": b"{}"})
    hub.fail(where, status, 1000)
    assert cli.main(["push", str(folder), "me/a"]) == 1
    error = capsys.readouterr().err
    assert (
        message in error
        and "nothing was published" in error
        and "Traceback" not in error
        and TOKEN not in error
    )
    assert hub.files("me/a") == {"README.md": b"the old card", "config.json": b"{}"}
    if status in (401, 403, 404, 409, 412, 413):
        assert not hub.slept  # trying again would not help

    hub.faults.clear()  # and afterwards nothing stands in the way
    push(folder, "me/a")
    assert hub.files("me/a").keys() == {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("pull_request", [False, True])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("earlier", [0, 2])
def test_an_answer_that_was_lost_after_the_commit(exported, hub, pull_request, times, earlier):
    """The commit is found, not made again; also if it was the last try."""
    _, folder = exported
    hub.create("me/a", private=True, files={"adapter_config.json": b"{}", "README.md": b"old"})
    hub.fail(COMMIT, 500, earlier)
    hub.fail(COMMIT, CUT_AFTER, times)
    report = push(folder, "me/a", pull_request=pull_request)
    repo = hub.repos["me/a"]
    branch = "refs/pr/1" if pull_request else "main"
    assert "pushed to me/a" in report and len(repo["branches"][branch]) == 2
    assert len(repo["pull_requests"]) == pull_request and hub.files("me/a", branch).keys() == {
        path.name for path in folder.iterdir()
    }
    made = "discussions/1" if pull_request else f"commit/{repo['branches']['main'][-1]['oid']}"
    assert f"see {hub.url}/me/a/{made}" in report


def test_what_is_not_known_is_not_said(exported, hub, monkeypatch):
    """Nobody answers after the commit: neither success nor "nothing was published" would be true."""
    hub.fail(COMMIT, CUT_AFTER, 1)
    commit = HfApi.create_commit

    def and_then_silence(*args, **options):
        hub.fail("GET ", 503, 1000)
        return commit(*args, **options)

    monkeypatch.setattr(HfApi, "create_commit", and_then_silence)
    with pytest.raises(
        PushError, match=rf"whether it was published is not known: .*; see {hub.url}/me/a"
    ) as error:
        push(exported[1], "me/a")
    assert "nothing was published" not in str(error.value) and len(hub.repos["me/a"]["branches"]["main"]) == 1


def test_somebody_elses_commit_is_not_taken_for_ours(exported, hub, monkeypatch):
    _, folder = exported
    push(folder, "me/a")
    (folder / "notes.md").write_text("new")
    commit = HfApi.create_commit

    def and_somebody_else(*args, **options):
        hub.commit(hub.repos["me/a"], "main", {"theirs.txt": b"x"})
        return commit(*args, **options)

    monkeypatch.setattr(HfApi, "create_commit", and_somebody_else)
    try:
        with pytest.raises(PushError, match="nothing was published: somebody else changed the repository"):
            push(folder, "me/a")
    finally:
        (folder / "notes.md").unlink()
    assert "notes.md" not in hub.files("me/a") and "theirs.txt" in hub.files("me/a")


@pytest.mark.parametrize(
    ("when", "change"),
    [
        ("verify", lambda path: path.unlink()),
        ("verify", lambda path: path.write_bytes(b"other")),
        ("upload", lambda path: path.unlink()),
    ],
)
def test_files_that_change_while_they_are_sent(exported, hub, monkeypatch, tmp_path, when, change):
    folder = copied(exported[1], tmp_path)
    if when == "verify":
        monkeypatch.setattr(push_module, "verify", lambda folder: change(folder / "model.safetensors"))
    else:
        preupload = HfApi.preupload_lfs_files

        def late(*args, **options):
            change(folder / "model.safetensors")
            return preupload(*args, **options)

        monkeypatch.setattr(HfApi, "preupload_lfs_files", late)
    with pytest.raises(PushError, match=r"model.safetensors changed or vanished .* nothing was published"):
        push(folder, "me/a")
    assert not hub.files("me/a") and not hub.slept


def test_an_upload_that_goes_on_sends_each_file_once(exported, hub):
    hub.fail(COMMIT, 500, 2)
    push(exported[1], "me/a")
    sent = [request for request in hub.requests if request.startswith("PUT")]
    assert len(sent) == len(set(sent)) == 2  # the weights and the picture


def test_without_a_token_offline_and_in_a_foreign_space(exported, hub, monkeypatch, tmp_path):
    _, folder = exported
    with pytest.raises(PushError, match="may not write to lab/a"):
        push(folder, "lab/a")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PushError, match="hf auth login"):
        push(folder, "me/a")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PushError, match="hf auth login"):
        push(folder, "me/a")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        push(folder, "me/a")
    assert not hub.repos


def test_no_server_at_all(exported, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PushError, match="the connection failed"):
        push(exported[1], "me/a")
    assert hub.slept


# ---------------------------------------------------------------------------------- what is refused


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "README.md").unlink(), "was not made by `hyenadna export`"),
        (lambda f: (f / "modeling_hyenadna.py").unlink(), "was not made by `hyenadna export`"),
        (lambda f: (f / "optimizer.pt").write_bytes(b""), "may be a pickle"),
        (
            lambda f: (f / "notes.md").write_text(f"token: {TOKEN}"),
            r"notes.md holds what looks like an access token",
        ),
        (lambda f: (f / "README.md").write_text("---\na: [\n---\n# x"), "is not a valid model card"),
    ],
)
def test_folders_that_are_not_pushed(exported, hub, change, message, tmp_path):
    folder = copied(exported[1], tmp_path)
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        push(folder, "me/a")
    assert not hub.requests


def test_hidden_files_stay_at_home(exported, tmp_path):
    folder = copied(exported[1], tmp_path)
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("[remote]")
    (folder / ".env").write_text("SECRET=1")
    assert {path.name for path in files_to_push(folder)} == {path.name for path in exported[1].iterdir()}


def test_names_and_places(exported, hub, tmp_path, capsys):
    for name in ("a/b/c", "me/a b", "-x"):
        with pytest.raises(CheckpointError, match="no name of a repository"):
            push(exported[1], name)
    assert cli.main(["push", str(tmp_path / "none"), "me/a"]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert not hub.requests


def test_a_card_that_the_hub_does_not_accept(exported, hub):
    hub.fail("POST /api/validate-yaml", 400, 9)
    with pytest.raises(PushError, match="nothing was published"):
        push(exported[1], "me/a")
    assert not hub.files("me/a")


def test_a_folder_that_does_not_verify_is_not_pushed(exported, hub, monkeypatch, tmp_path):
    def wrong(folder):
        raise CheckpointError("AutoModel computes other outputs")

    monkeypatch.setattr(push_module, "verify", wrong)
    with pytest.raises(CheckpointError, match="computes other outputs"):
        push(exported[1], "me/a")
    assert not hub.requests


def test_loading_needs_no_hub(exported, hub):
    model, folder = exported
    again = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(again(random_ids(1, 20)).logits, model(random_ids(1, 20)).logits)
    assert not hub.requests


# ------------------------------------------------------------------------- links, code, other kinds


@pytest.mark.parametrize(
    "target", ["key", "keys", "../copy-of-key", "nothing-there", "link.txt", "copy/.env"]
)
@pytest.mark.parametrize("name", ["link.txt", "figure.png", "assets/link.json"])
def test_links_out_of_the_folder_are_not_followed(exported, hub, target, name, tmp_path):
    folder = copied(exported[1], tmp_path)
    (tmp_path / "keys").mkdir()
    for path in (tmp_path / "key", tmp_path / "keys/key", tmp_path.parent / "copy-of-key", folder / ".env"):
        path.write_text("a private thing")
    (folder / "assets").mkdir()
    (folder / name).symlink_to(folder / name if target == "link.txt" else tmp_path / target)
    with pytest.raises(
        CheckpointError, match=rf"{name} is a link to something that does not belong to the folder"
    ):
        push(folder, "me/a")
    assert not hub.requests


def test_a_link_inside_the_folder_is_a_copy(exported, hub, tmp_path):
    folder = copied(exported[1], tmp_path)
    (folder / "README.txt").symlink_to("README.md")
    (tmp_path / "linked").symlink_to(folder)  # the folder itself may be one
    push(tmp_path / "linked", "me/a")
    assert hub.files("me/a")["README.txt"] == (folder / "README.md").read_bytes()


def test_a_link_that_takes_the_place_of_a_file(exported, hub, monkeypatch, tmp_path):
    folder = copied(exported[1], tmp_path)
    (tmp_path / "key").write_bytes((folder / "config.json").read_bytes())

    def replaced(folder) -> None:
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to(tmp_path / "key")

    monkeypatch.setattr(push_module, "verify", replaced)
    with pytest.raises(PushError, match=r"config.json changed or vanished"):
        push(folder, "me/a")


@pytest.mark.parametrize(
    "name", ["modeling_hyenadna.py", "implicit_filter.py", "evil.py", "EVIL.PY", "a/long_convolution.py"]
)
def test_foreign_python_is_run_only_if_it_is_trusted(exported, hub, monkeypatch, name, tmp_path):
    folder = copied(exported[1], tmp_path)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    before = path.read_text() if path.exists() else ""
    path.write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n" + before)
    monkeypatch.setattr(push_module, "verify", verify)  # the real one, which runs the folder
    report = push(folder, "me/a", dry_run=True)
    assert f"it would be refused without --trust_code: not this package's own are {name}" in report
    hub.requests.clear()
    with pytest.raises(
        CheckpointError, match=rf"not this package's own: {re.escape(name)}\. .*Nothing was run"
    ):
        push(folder, "me/a")
    assert not (tmp_path / "it-ran").exists() and not hub.requests
    if name == "modeling_hyenadna.py":  # the test can fail, and the answer is asked for once
        push(folder, "me/a", trust_code=True)
        assert (tmp_path / "it-ran").exists() and hub.files("me/a")[name] == path.read_bytes()


def test_the_python_of_an_exported_folder_is_our_own(exported):
    files = {path.name: path for path in exported[1].iterdir()}
    assert contents.foreign_code(files) == []
    assert {name for name in files if name.endswith(".py")} == set(contents.own_code())


def test_no_setting_gets_into_the_python_that_is_run(exported, tmp_path, monkeypatch):
    """`verify` runs the snippet of the card, which is made of the folder's configuration."""
    folder = copied(exported[1], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    mark = tmp_path / "it-ran"
    for name, value in (
        ("architectures", f"HyenaDNAModel\nopen({str(mark)!r}, 'w')\n#"),
        ("problem_type", "x\nexit()"),
    ):
        changed = config | {name: [value] if name == "architectures" else value}
        (folder / "config.json").write_text(json.dumps(changed))
        with contextlib.suppress(CheckpointError):
            verify(folder)
        assert not mark.exists()


def test_the_hub_ignores_files(exported, hub):
    """What its .gitignore names is dropped by the client without a word; the push must not be
    called a success.
    """
    _, folder = exported
    hub.create("me/a", private=True, files={".gitignore": b"*.safetensors tokenizer.json"})
    for _ in range(2):  # also if there is nothing left to commit
        with pytest.raises(
            PushError, match=r"did not take model.safetensors, tokenizer.json, .* \.gitignore"
        ):
            push(folder, "me/a")
    hub.commit(hub.repos["me/a"], "main", {".gitignore": None})
    assert "pushed to me/a" in push(folder, "me/a") and "model.safetensors" in hub.files("me/a")
    hub.commit(hub.repos["me/a"], "main", {".gitignore": b"*.png", "confusion_matrix.png": None})
    with pytest.raises(PushError, match=r"did not take confusion_matrix.png, .*"):
        push(folder, "me/a", pull_request=True)


def test_a_commit_that_cannot_be_compared(exported, hub, monkeypatch):
    commit = HfApi.create_commit

    def and_then_silence(*args, **options):
        made = commit(*args, **options)
        hub.fail("GET /api/models/me/a/revision/", 503, 1000)
        return made

    monkeypatch.setattr(HfApi, "create_commit", and_then_silence)
    with pytest.raises(
        PushError, match=rf"whether the commit holds every file is not known: look at {hub.url}/me/a"
    ):
        push(exported[1], "me/a")


def pickled(protocol: int) -> bytes:
    return pickle.dumps({"callback": os.system}, protocol)


def saved(content, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def of_numpy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


PICKLES = {
    "a.PKL": b"",
    "model.joblib": b"",
    "rows.npy": b"",
    "training_args.bin": b"",
    **{f"optimizer-{protocol}": pickled(protocol) for protocol in range(6)},
    "weights.safetensors": pickled(4),
    "notes.txt": pickled(0),
    "notes.md": pickled(2),
    "figure.png": pickled(5),
    "archive": saved({"a": torch.zeros(2)}),
    "config.yaml": saved({"a": torch.zeros(2)}),
    "old": saved({"a": torch.zeros(2)}, _use_new_zipfile_serialization=False),
    "objects": of_numpy(np.array([{}], dtype=object)),
    "cut.zip": b"PK\x03\x04",
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("include", [(), ("*",)])
def test_pickles_of_any_name(exported, hub, name, include, tmp_path):
    folder = copied(exported[1], tmp_path)
    (folder / name).write_bytes(PICKLES[name])
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} may be a pickle"):
        push(folder, "me/a", include=include)
    assert not hub.requests


SECRETS = {
    "the Hub": TOKEN,
    "an organisation": "api_org_" + "AbCdEfGh" * 5,
    "OAuth": "hf_oauth_" + "AbCdEfGh" * 5,
    "a web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "GitHub": "ghp_" + "AbCdEfGh" * 5,
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "any form, in the environment": "correct horse battery staple",
}
PLACES = {
    "notes.md": lambda secret: f"my token is {secret}.".encode(),
    "model.py": lambda secret: f"TOKEN = '{secret}'".encode(),
    "settings.json": lambda secret: json.dumps({"hub_token": secret}).encode(),
    "escaped.json": lambda secret: b'{"a": "' + "".join(f"\\u{ord(c):04x}" for c in secret).encode() + b'"}',
    "figure.png": lambda secret: b"\x89PNG\r\n\x1a\n" + secret.encode(),
    "data.csv": lambda secret: secret.encode("utf-16"),
    "other": lambda secret: secret.encode("utf-32-be"),
    "metadata.safetensors": lambda secret: save({"a": torch.zeros(2)}, metadata={"note": secret}),
    "names.safetensors": lambda secret: save({secret: torch.zeros(2)}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_of_any_form_in_any_place(exported, hub, place, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_API_KEY", SECRETS["any form, in the environment"])
    folder = copied(exported[1], tmp_path)
    (folder / place).write_bytes(PLACES[place](SECRETS[kind]))
    assert cli.main(["push", str(folder), "me/a", "--include", place]) == 1
    error = capsys.readouterr().err
    assert f"{place} holds what looks like a" in error and "take it out" in error
    assert SECRETS[kind] not in error and not hub.requests


def test_a_secret_as_the_name_of_a_file(exported, hub, tmp_path, capsys):
    folder = copied(exported[1], tmp_path)
    (folder / f"{TOKEN}.md").write_text("x")
    assert cli.main(["push", str(folder), "me/a"]) == 1
    error = capsys.readouterr().err
    assert "holds what looks like an access token of the Hub; rename the file" in error and TOKEN not in error


def test_a_secret_across_two_pieces_of_a_large_file(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_PIECE", 100)
    folder = copied(exported[1], tmp_path)
    (folder / "notes.md").write_text("x " * 45 + TOKEN + " x" * 50)
    with pytest.raises(CheckpointError, match=r"notes.md holds what looks like an access token"):
        files_to_push(folder)


OTHER_KINDS = {
    "predictions.csv": b"id,label\n",
    "patients.tsv": b"a\tb\n",
    "genome.fa": b">a\nACGT\n",
    "notes": b"x",
    "run.log": b"x",
    "image.png": b"<svg/>",
    "table.parquet": b"PAR1",
    "archive.tar.gz": b"\x1f\x8b\x08",
    "notes.txt": b"\xff\xfe\x00",
    "numbers": of_numpy(np.zeros(3)),
}


def test_what_a_model_repository_does_not_hold_is_named_and_stays(exported, hub, tmp_path, capsys):
    folder = copied(exported[1], tmp_path)
    for name, content in OTHER_KINDS.items():
        (folder / name).write_bytes(content)
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("x")
    for options in (["--dry_run"], []):
        assert cli.main(["push", str(folder), "me/a", *options]) == 0
        out = capsys.readouterr().out
        for name in OTHER_KINDS:
            assert f"left out       {name}: not of a kind that a model repository holds\n" in out, name
        assert "left out       .git: hidden\n" in out and "--include NAME" in out and ".git/config" not in out
    ours = {path.name for path in exported[1].iterdir()}
    assert hub.files("me/a").keys() == ours
    assert cli.main(["push", str(folder), "me/a", "--include", "notes", "--include", "*.csv"]) == 0
    assert hub.files("me/a").keys() == ours | {"notes", "predictions.csv"}
    with pytest.raises(CheckpointError, match=r"--include \*\.zip: no file in .* has such a name"):
        push(folder, "me/a", include=["*.zip"])


def test_licences_texts_and_pictures_are_sent(exported, tmp_path):
    folder = copied(exported[1], tmp_path)
    ours = {
        "LICENSE": b"x",
        "NOTICE.txt": b"x",
        "CITATION.cff": b"x: y",
        "a.jpg": b"\xff\xd8\xff\xe0",
        "a.yaml": b"a: 1",
    }
    for name, content in ours.items():
        (folder / name).write_bytes(content)
    assert {path.name for path in files_to_push(folder)} == {
        path.name for path in exported[1].iterdir()
    } | set(ours)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"x", "is no complete safetensors file"),
        ("config.json", b"{", "is no JSON"),
        ("config.json", b"[" * 100_000, "is no JSON"),
    ],
)
def test_damaged_files_are_not_sent(exported, hub, name, content, message, tmp_path):
    folder = copied(exported[1], tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        push(folder, "me/a")
    assert not hub.requests


# ---------------------------------------------------------------------------- answers that are none


ANSWERS = {
    "null": b"null",
    "a list": b"[]",
    "nothing": b"{}",
    "a page": b"<html>Log in</html>",
    "bytes": b"\xff\xfe",
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    "where",
    [
        CREATE,
        "GET /api/models/me/a$",
        "GET /api/models/me/a/revision",
        "GET /api/models/me/a/refs",
        "POST .*/preupload/",
        "POST .*/objects/batch",
        COMMIT,
        "POST .*/branch/",
        "POST /api/validate-yaml",
    ],
)
def test_answers_that_are_not_of_the_hub(exported, hub, where, answer, capsys):
    """A proxy, or the login page of a network, says 200 to everything."""
    hub.create("me/a", private=True, files={"README.md": b"old"})
    hub.fail(where, ANSWERS[answer], 1000)
    options = ["--pull_request"] if "refs" in where else ["--revision", "v2"] if "branch/" in where else []
    code = cli.main(["push", str(exported[1]), "me/a", *options])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if code:
        assert "push" in error and "does not accept the card" not in error
    else:  # an answer that the client does not read: then the files are really there
        branch = "v2" if "branch/" in where else "refs/pr/1" if "refs" in where else "main"
        assert hub.files("me/a", branch).keys() == {path.name for path in exported[1].iterdir()}


@pytest.mark.parametrize("answer", ["null", "a page"])
def test_a_login_page_is_called_one(exported, hub, answer):
    hub.fail(CREATE, ANSWERS[answer], 9)
    with pytest.raises(
        PushError, match=r"nothing was published: this is not an answer of the Hub.*login page"
    ):
        push(exported[1], "me/a")
    assert not hub.slept
    hub.fail("GET /api/models/me/a", ANSWERS[answer], 9)
    assert "not an answer of the Hub" in push(exported[1], "me/a", dry_run=True)


@pytest.mark.parametrize(
    "kind", ["the Hub", "an organisation", "a web token", "any form, in the environment"]
)
def test_a_token_that_the_hub_repeats_is_not_shown(exported, hub, kind, monkeypatch, capsys):
    """Whatever its form: the user's own token is known, and need not look like one."""
    secret = SECRETS[kind].replace(" ", "-")
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setattr(Hub, "refusal", f"the token {secret} and {secret} may not do this", raising=False)
    for status in (401, 429):
        hub.fail(CREATE, status, 9)
        with pytest.raises(PushError) as error:
            push(exported[1], "me/a")
        printed = "".join(traceback.format_exception(error.value)) + capsys.readouterr().err
        assert secret not in printed and "may not do this" in str(error.value)
        hub.faults.clear()
