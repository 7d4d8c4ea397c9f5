"""The pretraining recipe: what it measures, what it leaves, and that an interrupted run ends as a
whole one does.
"""

import errno
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, AutoTokenizer

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNATokenizer
from hyenadna.errors import InputError
from hyenadna.genomics.held_out import split_windows
from hyenadna.training import cli
from hyenadna.training.pretrain import PretrainArguments, PretrainTrainer, length_stages, pretrain
from hyenadna.training.runs.markov import MarkovModels, count_contexts
from hyenadna.training.runs.models import make_model
from hyenadna.training.runs.settings import parse_settings

from .helpers.genomes import make_genome, random_dna, write_fasta

TINY = {"d_model": 8, "n_layer": 1, "max_seq_len": 34}  # windows of 32 bases
QUICK = {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 4, "markov_order": 3}
SCHEDULE = {"max_steps": 30, "logging_steps": 5, "eval_steps": 10, "save_steps": 10, "learning_rate": 0.03}
SCHEDULE |= {"length_warmup_steps": 12, "length_warmup_stages": [8, 16], "reverse_complement": 0.5, "seed": 7}
HELD_OUT = {"validation": ["2:0-200"], "test": ["2:200-420"]}


def make_args(folder: Path, name: str, **changes) -> PretrainArguments:
    settings = {"data": [str(folder / "g.fa")], **TINY, **QUICK, **SCHEDULE, **HELD_OUT, **changes}
    return PretrainArguments(output_dir=str(folder / name), **settings)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """So small a model gains nothing by a second one, and loses much where other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One finished run that other tests look at: its folder and what it returned."""
    folder = tmp_path_factory.mktemp("pretrain")
    make_genome(folder)
    return folder, pretrain(make_args(folder, "whole"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def check_equal_weights(one: Path, other: Path) -> None:
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# --------------------------------------------------------------------------------- what it measures


def test_perplexity_is_that_of_the_saved_model_base_by_base(run):
    folder, result = run
    model = AutoModelForCausalLM.from_pretrained(folder / "whole").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "whole")
    dna = (folder / "g.fa").read_text().split(">2 a description\n")[1].replace("\n", "")
    for part, start, end in (("validation", 0, 200), ("test", 200, 420)):
        nats = []
        for i in range(start, end, 32):
            ids = tokenizer(dna[i : min(i + 32, end)], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                log_p = model(input_ids=ids).logits.log_softmax(dim=-1)
            nats += [-log_p[0, j - 1, ids[0, j]].item() for j in range(1, ids.shape[1] - 1)]
        measured = result.results["metrics"][part]
        assert measured["bases"] == len(nats)
        assert measured["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    assert result.results["metrics"]["validation"]["perplexity"] < 3.9  # it learns


def test_markov_models_are_fitted_on_the_training_windows_of_both_strands(run):
    folder, result = run
    text = (folder / "g.fa").read_text().split(">")
    one, two = ("".join(part.splitlines()[1:]).upper() for part in text[1:])
    cut = [one[i : i + 32] for i in range(0, 1000, 32)] + [two[i : i + 32] for i in range(420, 500, 32)]
    cut = [window for window in cut if set(window) != {"N"}]

    def counts(texts):
        rows = np.full((len(texts), 32), 9, dtype=np.uint8)
        for row, window in zip(rows, texts, strict=True):
            row[: len(window)] = ["ACGT".find(letter) % 10 for letter in window]
        return count_contexts([(rows, np.ones_like(rows, dtype=bool))], 3)

    strands = str.maketrans("ACGT", "TGCA")
    halves = [counts([t for w in cut[i::2] for t in (w, w[::-1].translate(strands))]) for i in range(2)]
    models = MarkovModels(*halves)
    markov = result.results["markov"]
    assert markov["strengths"] == models.strengths and len(markov["test"]["perplexity"]) == 4
    assert markov["training_bases"] == sum(half.targets for half in halves)
    for part, start, end in (("validation", 0, 200), ("test", 200, 420)):
        expected = models.perplexity(counts([two[i : min(i + 32, end)] for i in range(start, end, 32)]))
        assert markov[part]["perplexity"] == pytest.approx({str(k): value for k, value in expected.items()})
        assert markov[part]["bases"] == result.results["metrics"][part]["bases"]


def test_the_log_holds_perplexity_speed_length_and_markov(run):
    folder, result = run
    state = json.loads((folder / "whole" / "trainer_state.json").read_text())
    lines = [line for line in state["log_history"] if "loss" in line]
    # at steps 5, 10, ... ; stages of 6 steps
    assert [line["length"] for line in lines] == [8, 16, 32, 32, 32, 32]
    assert all(line["perplexity"] == pytest.approx(math.exp(line["loss"])) for line in lines)
    assert all(line["tokens_per_second"] > 0 for line in lines[1:])
    evaluations = [line for line in state["log_history"] if "eval_perplexity" in line]
    assert [line["step"] for line in evaluations] == [10, 20, 30]
    best = min(result.results["markov"]["eval"]["perplexity"].values())
    assert all(line["eval_markov_perplexity"] == best for line in evaluations)
    assert result.results["steps"] == 30 and result.results["tokens_per_second_per_process"] > 0


def test_tokens_per_step_stay_the_same_and_the_learning_rate_goes_on(run):
    folder, _ = run
    state = json.loads((folder / "whole" / "trainer_state.json").read_text())
    lines = [line for line in state["log_history"] if "loss" in line]
    seen = np.diff([0, *(line["num_input_tokens_seen"] for line in lines)])
    # five steps of four windows; a [SEP] for each piece, and shorter windows at the ends
    bases = 5 * 4 * 32
    assert all(0.8 * bases < tokens <= bases * 9 / 8 for tokens in seen)
    rates = [line["learning_rate"] for line in lines]
    assert (
        rates == sorted(rates, reverse=True)
        and rates[0] > 0.027
        and rates[-1] == pytest.approx(0.003, rel=0.2)
    )


def test_the_folder(run):
    folder, result = run
    names = {path.name for path in (folder / "whole").iterdir()}
    assert names == {
        "checkpoint-20",
        "checkpoint-30",
        "config.json",
        "generation_config.json",
        "markov.json",
    } | {
        "metrics.json",
        "model.safetensors",
        "run_settings.json",
        "tokenizer.json",
        "tokenizer_config.json",
    } | {"trainer_state.json"}
    metrics = json.loads((folder / "whole" / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(result.results))
    assert metrics["settings"]["test"] == ["2:200-420"] and metrics["resumed_from"] is None
    # finished: nothing to do
    assert pretrain(make_args(folder, "whole", resume=True)).results == metrics
    with pytest.raises(InputError, match="holds a finished run"):
        pretrain(make_args(folder, "whole"))


# -------------------------------------------------------------------------------------- interrupted


@pytest.fixture
def another_writer():
    """A function that lets another process lock a file, and returns that process, or None where it
    is locked.
    """
    code = (
        "from fcntl import *; import sys; f = open(sys.argv[1], 'a'); lockf(f, LOCK_EX | LOCK_NB); "
        "print(flush=True)"
    )
    started = []

    def start(lock: Path) -> subprocess.Popen | None:
        command = [sys.executable, "-S", "-c", f"{code}; sys.stdin.read()", str(lock)]
        started.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        )
        return started[-1] if started[-1].stdout.readline() else None

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_one_process_at_a_time_writes_into_a_folder(run, another_writer, monkeypatch, tmp_path):
    folder, result = run
    other = another_writer(folder / "whole" / ".lock")
    with pytest.raises(InputError, match=r"another process is writing into output_dir .*whole"):
        pretrain(make_args(folder, "whole", resume=True))
    other.kill()
    other.wait()
    assert pretrain(make_args(folder, "whole", resume=True)).results == json.loads(json.dumps(result.results))
    assert not (folder / "whole" / ".lock").exists()
    seen = []

    def look(*args):
        (lock,) = (tmp_path / "a" / "b").iterdir()
        seen.append(another_writer(lock))
        raise InputError("seen")

    monkeypatch.setattr("hyenadna.training.pretrain.make_model", look)
    for failure in (None, OSError(errno.ENOLCK, "no locks")):
        with monkeypatch.context() as patch, pytest.raises(InputError, match="seen"):
            if failure:
                patch.setattr("hyenadna.training.runs.outputs.fcntl.lockf", Mock(side_effect=failure))
            pretrain(make_args(folder, tmp_path / "a" / "b"))
    assert seen[0] is None and seen[1] is not None  # locked; without locks it goes on
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", ".lock"]


def test_sigterm_saves_and_leaves_and_the_rest_is_the_same(run, monkeypatch):
    folder, result = run
    step = PretrainTrainer.training_step

    def terminated(self, *args, **kwargs):
        if self.state.global_step == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(PretrainTrainer, "training_step", terminated)
        pretrain(make_args(folder, "terminated"))
    assert left.value.code == 143 and signal.getsignal(signal.SIGTERM) is handler
    assert (folder / "terminated" / "checkpoint-17").is_dir() and not (
        folder / "terminated" / "metrics.json"
    ).exists()
    with pytest.raises(InputError, match=r"holds another run: its seed is 7, now it is 8"):
        pretrain(make_args(folder, "terminated", resume=True, seed=8))
    for change in ({"optim": "adafactor"}, {"adam_beta1": 0.5}):
        with pytest.raises(InputError, match=f"holds another run: its {next(iter(change))} is "):
            pretrain(make_args(folder, "terminated", resume=True, **change))
    changed = write_fasta(folder / "changed.fa", {"1": "ACGT" * 250, "2": "ACGT" * 125})
    with pytest.raises(InputError, match="holds another run: its data file 0 changed since then"):
        pretrain(make_args(folder, "terminated", resume=True, data=[str(changed)]))
    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match="its validation windows changed since then"),
    ):
        patch.setattr(
            "hyenadna.training.pretrain.split_windows", lambda *a, **b: drop_one(split_windows(*a, **b))
        )
        pretrain(make_args(folder, "terminated", resume=True))
    again = pretrain(make_args(folder, "terminated", resume=True))
    assert again.results["resumed_from"] == "checkpoint-17"
    assert (
        again.results["metrics"] == result.results["metrics"]
        and again.results["markov"] == result.results["markov"]
    )
    assert again.results["tokens_seen"] == result.results["tokens_seen"]
    check_equal_weights(folder / "whole", folder / "terminated")


def drop_one(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**parts, "validation": parts["validation"][1:]}


PLACES = ("training_step", "log", "_save_checkpoint", "_save_rng_state", "_load_rng_state")


def train_until_killed(folder: Path, step: int | None, place: str) -> None:
    """In a process of its own: kill it when it comes to `place` from this step on."""
    torch.set_num_threads(1)
    original = getattr(PretrainTrainer, place)

    def killed(self, *args, **kwargs):
        if step is not None and self.state.global_step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    setattr(PretrainTrainer, place, killed)
    pretrain(make_args(folder, "killed", save_steps=4, resume=True))


def test_killed_three_times_and_resumed_equals_whole(run):
    """The steps and what it was doing then are random; the first kill comes in a stage of the
    warm-up.
    """
    folder, result = run
    rng = np.random.default_rng(int(os.environ.get("HYENADNA_KILL_SEED", "2")))
    steps = [rng.integers(1, 12), *sorted(rng.integers(4, 30, 2))]
    kills = [(int(step), str(rng.choice(PLACES[:4]))) for step in steps]
    context = multiprocessing.get_context("forkserver")  # imports once
    context.set_forkserver_preload(["hyenadna.training.pretrain"])
    for step, place in [*kills, (None, "log")]:
        child = context.Process(target=train_until_killed, args=(folder, step, place))
        child.start()
        child.join(240)
        assert child.exitcode == (0 if step is None else -signal.SIGKILL), (kills, step, place)
        assert (folder / "killed" / "metrics.json").exists() == (step is None)
    metrics = json.loads((folder / "killed" / "metrics.json").read_text())
    assert metrics["metrics"] == result.results["metrics"]
    assert metrics["tokens_seen"] == result.results["tokens_seen"]
    check_equal_weights(folder / "whole", folder / "killed")


@pytest.fixture
def limited():
    """A function after whose call no file can become longer than so many bytes: the write fails, as
    on a full disk.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_leaves_the_checkpoint_before(file, run, limited, monkeypatch, capsys):
    folder, _ = run
    size, save = (folder / "whole" / "checkpoint-20" / file).stat().st_size, PretrainTrainer._save_checkpoint
    name = f"full-{file}"

    def full(self, *args):
        if self.state.global_step == 20:
            limited(size - 1)
        return save(self, *args)

    with monkeypatch.context() as patch, pytest.raises((OSError, RuntimeError, SafetensorError)):
        patch.setattr(PretrainTrainer, "_save_checkpoint", full)
        pretrain(make_args(folder, name))
    limited(-1)
    printed = capsys.readouterr().out
    assert (
        "The checkpoint of step 20 cannot be written" in printed
        and "checkpoint-10; when there is space" in printed
    )
    left = {path.name for path in (folder / name).iterdir()}
    # what was half written takes no space
    assert left == {"checkpoint-10", "markov.json", "run_settings.json"}
    assert pretrain(make_args(folder, name, resume=True)).results["resumed_from"] == "checkpoint-10"
    check_equal_weights(folder / "whole", folder / name)


def test_workers_and_accumulation_change_nothing(run):
    folder, _ = run
    shape = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "dataloader_num_workers": 1}
    # a mask of another shape is another mask
    once = {"embed_dropout": 0.0, "max_steps": 8, "learning_rate": 1e-3}
    pretrain(make_args(folder, "plain", **once))
    pretrain(make_args(folder, "split", **once, **shape))
    one, other = weights_of(folder / "plain"), weights_of(folder / "split")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------- settings


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in history if "loss" in line]


@pytest.mark.parametrize(
    "switch, tolerance",
    [
        ({"bf16": True}, 0.02),
        ({"torch_compile": True, "torch_compile_backend": "eager"}, 1e-5),  # inductor takes minutes
        ({"activation_checkpointing": True}, 1e-6),
        ({"gradient_checkpointing": True}, 1e-6),  # its older name
    ],
)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_switches(switch, tolerance, run):
    """The same losses with them as without, in a few steps over two lengths; and a folder of the
    same weights.
    """
    folder, _ = run
    name = next(iter(switch))
    few = {
        "max_steps": 6,
        "logging_steps": 1,
        "length_warmup_steps": 3,
        "length_warmup_stages": [8],
        "eval_strategy": "no",
    }
    few |= {"learning_rate": 0.01, "embed_dropout": 0.0, "save_strategy": "no", "markov_order": 0}
    if not (folder / "usual").exists():
        pretrain(make_args(folder, "usual", **few))
    counters.clear()
    model = pretrain(make_args(folder, name, **few, **switch)).model
    usual, switched = losses(folder / "usual"), losses(folder / name)
    assert len(usual) == 6 and usual[-1] < usual[0] - 0.1
    assert switched == pytest.approx(usual, rel=tolerance)
    assert (switched != pytest.approx(usual, rel=1e-5)) == (name == "bf16")
    assert model.is_activation_checkpointing == name.endswith("_checkpointing")
    # one for each length
    assert (counters["stats"]["unique_graphs"] > 1) == (name == "torch_compile")
    assert weights_of(folder / name).keys() == weights_of(folder / "usual").keys()
    assert all(weight.dtype == torch.float32 for weight in weights_of(folder / name).values())


def test_soft_masked_bases_are_left_out_of_loss_and_counts(run):
    folder, _ = run
    args = make_args(
        folder, "masked", soft_masked="ignore", max_steps=2, validation=["1:576-672"], markov_order=1
    )
    masked = pretrain(args).results
    assert masked["metrics"]["validation"]["bases"] == 3 * 31 - sum(
        i % 32 != 576 % 32 for i in range(600, 640)
    )
    assert masked["markov"]["validation"]["bases"] == masked["metrics"]["validation"]["bases"]


@pytest.fixture
def mostly_soft_masked(tmp_path) -> Path:
    """Four training windows of 32, all of one step, of which the first half is in lower case; two
    to validate on.
    """
    dna = random_dna(6 * 32, 9)
    dna = "".join(dna[i : i + 16].lower() + dna[i + 16 : i + 32] for i in range(0, len(dna), 32))
    return write_fasta(tmp_path / "g.fa", {"1": dna})


ONE_STEP = {
    "max_steps": 1,
    "logging_steps": 1,
    "markov_order": 0,
    "embed_dropout": 0.0,
    "reverse_complement": 0.0,
}
ONE_STEP |= {"length_warmup_steps": 0, "length_warmup_stages": [], "validation": ["1:128-192"], "test": []}


@pytest.mark.parametrize("rows, accumulated", [(4, 1), (1, 4)])
def test_a_weight_of_soft_masked_bases_is_that_of_their_loss(rows, accumulated, mostly_soft_masked):
    folder = mostly_soft_masked.parent
    batch = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulated}
    args = make_args(folder, "weighted", soft_masked="0.25", **ONE_STEP, **batch)
    model, _ = make_model(HyenaDNAForCausalLM, args)
    tokenizer = HyenaDNATokenizer()
    dna = mostly_soft_masked.read_text().partition("\n")[2].replace("\n", "")
    total, weights = 0.0, 0.0
    for start in range(0, 128, 32):
        window = dna[start : start + 32]
        ids = tokenizer(window, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            log_p = model(input_ids=ids).logits.log_softmax(dim=-1)
        # the last one is [SEP]; the first base has no context
        for i, letter in enumerate(f"{window}S"):
            if i:
                weight = 0.25 if letter.islower() else 1.0
                total -= weight * log_p[0, i - 1, ids[0, i]].item()
                weights += weight

    result = pretrain(args)
    assert losses(folder / "weighted") == [pytest.approx(total / weights, rel=1e-5)]
    # all of them: the weight is of the training loss
    assert result.results["metrics"]["validation"]["bases"] == 2 * 31


@pytest.mark.parametrize("word, number", [("keep", "1"), ("ignore", "0.0")])
def test_the_words_for_soft_masked_are_the_weights_one_and_zero(word, number, mostly_soft_masked):
    folder = mostly_soft_masked.parent
    results = [
        pretrain(make_args(folder, soft, soft_masked=soft, **ONE_STEP)).results for soft in (word, number)
    ]
    check_equal_weights(folder / word, folder / number)
    assert results[0]["metrics"] == results[1]["metrics"]


def test_classes_and_random_lengths_are_resumed(run, monkeypatch):
    """Also: a class of twice the weight comes twice, and the log says how long the windows of a
    step were.
    """
    folder, _ = run
    (folder / "classes.bed").write_text("1\t0\t320\trare\n1\t320\t960\toften\n2\t420\t484\toften\n")
    chosen = {
        "bed": [str(folder / "classes.bed")],
        "bed_windows": "tile",
        "class_weights": ["often=2", "rare=0.5"],
    }
    chosen |= {"min_window": 8, "length_warmup_steps": 0, "length_warmup_stages": [], "soft_masked": "0.5"}
    chosen |= {"logging_steps": 1, "eval_strategy": "no", "markov_order": 0}
    whole = pretrain(make_args(folder, "classes", **chosen))
    history = json.loads((folder / "classes" / "trainer_state.json").read_text())["log_history"]
    lengths = [line["length"] for line in history if "loss" in line]
    assert set(lengths) == {8, 11, 16, 32} and len(lengths) == 30
    # 9 windows are rare (one is of N alone) and 22 are often: 4 + 44 an epoch, in 12 steps of 4.
    assert whole.results["windows"]["train"] == 31
    assert history[11]["epoch"] == 1.0

    args = make_args(folder, "classes_resumed", **chosen)
    save = PretrainTrainer._save_checkpoint

    def saved_and_stopped(self, *rest):
        save(self, *rest)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(PretrainTrainer, "_save_checkpoint", saved_and_stopped)
        pretrain(args)
    args = make_args(folder, "classes_resumed", resume=True, **chosen)
    assert pretrain(args).results["resumed_from"]
    check_equal_weights(folder / "classes", folder / "classes_resumed")


def test_from_a_checkpoint(run):
    folder, result = run
    shape = dict.fromkeys(TINY)
    args = make_args(
        folder, "continued", model=str(folder / "whole"), **shape, max_steps=1, learning_rate=1e-9
    )
    continued = pretrain(args).results["metrics"]
    assert continued["test"]["perplexity"] == pytest.approx(
        result.results["metrics"]["test"]["perplexity"], rel=1e-4
    )
    with pytest.raises(InputError, match=r"'d_model': 8.*checkpoint has its own"):
        pretrain(make_args(folder, "no", model=str(folder / "whole")))
    HyenaDNAForSequenceClassification(HyenaDNAConfig(**TINY)).save_pretrained(folder / "classifier")
    with pytest.raises(InputError, match=r"does not fit its config.json: missing .*lm_head.weight"):
        pretrain(make_args(folder, "no", model=str(folder / "classifier"), **shape))


def test_stages_of_the_length():
    assert length_stages(1024, 100, []) == [(0, 64), (25, 128), (50, 256), (75, 512), (100, 1024)]
    assert length_stages(1000, 10, [100, 999]) == [(0, 100), (5, 999), (10, 1000)]
    assert length_stages(1024, 0, []) == []
    for lengths in ([64, 64], [128, 64], [64, 1024], [0, 64]):
        with pytest.raises(InputError, match="they must increase and stay below the window of 1024"):
            length_stages(1024, 10, lengths)
    with pytest.raises(InputError, match=r"window of 64"):
        length_stages(64, 10, [])
    with pytest.raises(InputError, match="a warm-up of 3 steps is too short for the 4 lengths"):
        length_stages(1024, 3, [])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": []}, "no data: say --data"),
        (
            {"window": 34},
            r"window is 34 bases and \[SEP\], but max_seq_len of the model is 34; use a window of 33",
        ),
        ({"reverse_complement": 2}, "reverse_complement is 2"),
        ({"soft_masked": "drop"}, "soft_masked is 'drop'"),
        ({"soft_masked": "1.5"}, "soft_masked is '1.5'; use 'keep', 'ignore' or a weight between 0 and 1"),
        ({"soft_masked": "-0.1"}, "soft_masked is '-0.1'"),
        ({"soft_masked": "nan"}, "soft_masked is 'nan'"),
        ({"class_weights": ["exon=2"]}, "class_weights needs bed"),
        ({"class_weights": ["exon"]}, "class_weights has 'exon'; expected a class and a positive weight"),
        ({"class_weights": ["exon=0"]}, "class_weights has 'exon=0'"),
        ({"class_weights": ["exon=-1"]}, "class_weights has 'exon=-1'"),
        ({"class_weights": ["exon=inf"]}, "class_weights has 'exon=inf'"),
        ({"class_weights": ["=2"]}, "class_weights has '=2'"),
        ({"class_weights": ["exon=2", "exon=3"]}, "names the class 'exon' twice"),
        (
            {"class_weights": ["exom=2"], "bed": ["BED"]},
            r"is of the class 'exom'; the classes are \['exon'\]",
        ),
        ({"class_weights": ["exon=0.001"], "bed": ["BED"]}, "weight times class weight 0.001: none of them"),
        ({"min_window": 0}, "min_window is 0; it must be at least 1"),
        ({"min_window": 33}, "min_window is 33, longer than the window of 32 bases"),
        ({"weights": [1, 2]}, r"weights are \[1, 2\] for 1 files"),
        ({"weights": [0]}, r"weights are \[0\]"),
        ({"weights": [float("nan")]}, r"weights are \[nan\]"),
        ({"weights": [0.001]}, "training windows and weight 0.001: none of them"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end .* cannot be used here"),
        ({"save_strategy": "best", "eval_strategy": "steps"}, "save_strategy 'best' cannot be used here"),
        ({"markov_order": 11}, "markov_order is 11; it must lie between 0 and 10"),
        (
            {"soft_masked": "ignore", "validation": ["1:600-640"]},
            "the validation part is empty: .*upper-case",
        ),
        ({"eval_windows": 0}, "eval_windows is 0"),
        ({"length_warmup_steps": -1}, "length_warmup_steps is -1"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor cannot be used"),
        ({"d_model": 0}, "the model cannot be made"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"test": ["chr7"]}, "there is no sequence 'chr7'.*which has"),
        ({"include_num_input_tokens_seen": "no"}, "no speed to report"),
    ],
)
def test_settings_that_are_refused(changes, message, run):
    folder, _ = run
    (folder / "exons.bed").write_text("1\t0\t320\texon\n")
    if "bed" in changes:
        changes = {**changes, "bed": [str(folder / "exons.bed")]}
    with pytest.raises(InputError, match=message):
        pretrain(make_args(folder, "refused", **changes))
    assert not (folder / "refused").exists()


def test_command_line(capsys, tmp_path):
    assert "pretrain" in cli.usage()
    assert cli.main(["pretrain", "--data", str(tmp_path / "none.fa"), "--use_cpu"]) == 1
    assert "none.fa: there is no such file" in capsys.readouterr().err
    (tmp_path / "s.yaml").write_text(
        "data: [a.fa, b.fa]\nweights: [1, 0.5]\ntest: chr20\nlearning_rate: 1e-3\n"
    )
    args = parse_settings(PretrainArguments, "pretrain", "", [str(tmp_path / "s.yaml"), "--seed", "3"])
    assert args.data == ["a.fa", "b.fa"] and args.weights == [1.0, 0.5] and args.test == ["chr20"]
    assert args.learning_rate == 1e-3 and args.seed == 3 and args.save_total_limit == 2


def test_resumed_after_the_last_checkpoint_trains_no_further(run):
    """`--resume` took one step too many, with other weights, after a kill in the final evaluation
    (A2).
    """
    folder, _ = run
    settings = {"max_steps": 5, "save_steps": 5, "eval_strategy": "no", "markov_order": 0}
    whole = pretrain(make_args(folder, "at_the_end", **settings)).results
    weights = weights_of(folder / "at_the_end")
    (folder / "at_the_end" / "metrics.json").unlink()
    (folder / "at_the_end" / "model.safetensors").unlink()
    again = pretrain(make_args(folder, "at_the_end", **settings, resume=True)).results
    assert again["steps"] == whole["steps"] == 5 and again["resumed_from"] == "checkpoint-5"
    assert again["metrics"] == whole["metrics"] and again["tokens_seen"] == whole["tokens_seen"]
    resumed = weights_of(folder / "at_the_end")
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_the_last_good_checkpoint_is_kept_when_a_training_diverges(run, monkeypatch):
    """Weights with NaN were saved with exit status 0 (B4); now no checkpoint holds them."""
    folder, _ = run
    step = PretrainTrainer.training_step

    def diverging(self, *args, **kwargs):
        if self.state.global_step == 3:
            with torch.no_grad():
                self.model.lm_head.weight[0, 0] = float("nan")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PretrainTrainer, "training_step", diverging)
    settings = {
        "max_steps": 9,
        "save_steps": 1,
        "save_total_limit": 1,
        "eval_strategy": "no",
        "markov_order": 0,
    }
    message = (
        "step 6: the loss is nan, for the third time in a row. learning_rate is .*"
        r"\(the last checkpoint before that: .*checkpoint-3\)"
    )
    with pytest.raises(InputError, match=message):
        pretrain(make_args(folder, "diverged", **settings))
    assert [path.name for path in (folder / "diverged").glob("checkpoint-*")] == ["checkpoint-3"]
    monkeypatch.undo()
    assert (
        pretrain(make_args(folder, "diverged", **settings, resume=True)).results["resumed_from"]
        == "checkpoint-3"
    )


@pytest.mark.parametrize("file", ["scheduler.pt", "rng_state.pth", "config.json"])
def test_a_checkpoint_with_a_missing_file_is_passed_over(file, run):
    """Without its scheduler or random numbers a run went on to another result, without a word (B9)."""
    folder, _ = run
    settings = {"max_steps": 4, "save_steps": 2, "eval_strategy": "no", "markov_order": 0}
    name = f"without_{file}"
    whole = pretrain(make_args(folder, name, **settings)).results
    (folder / name / "metrics.json").unlink()
    (folder / name / "checkpoint-4" / file).unlink()
    again = pretrain(make_args(folder, name, **settings, resume=True)).results
    assert again["resumed_from"] == "checkpoint-2" and again["metrics"] == whole["metrics"]
