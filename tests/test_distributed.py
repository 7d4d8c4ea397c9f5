"""Two processes do what one does with two accumulated batches; the files for accelerate and SLURM
are right.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.training.cli import leave_together
from hyenadna.training.pretrain import PretrainArguments, main
from hyenadna.training.runs.settings import parse_settings

from .helpers.genomes import make_genome

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FSDP2 = Path(__file__).parent / "fsdp2_pretrain.py"
# 9 steps an epoch; in the last of them there are two windows left for four rows, all of them on the
# first process.
FLAGS = (
    "--d_model 8 --n_layer 2 --max_seq_len 34 --embed_dropout 0 --markov_order 1 --max_steps 10 "
    "--logging_steps 1"
)
FLAGS += (
    " --learning_rate 0.01 --eval_steps 5 --length_warmup_steps 4 --length_warmup_stages 8 16 "
    "--use_cpu --seed 3"
)
FLAGS += " --min_window 5 --soft_masked 0.5"
FLAGS += " --validation 2:0-200 --test 2:200-420 --disable_tqdm True --per_device_train_batch_size 2"
LAUNCHERS = {
    # `--cpu` in the place of `--multi_gpu` would run one process without a word.
    "ddp": "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--mixed_precision no "
    "--dynamo_backend no --main_process_port 0 -m hyenadna.training.pretrain",
    "fsdp2": f"-m torch.distributed.run --standalone --nproc_per_node 2 {FSDP2}",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def launch(launcher: str, *flags: str) -> subprocess.Popen:
    command = [sys.executable, *LAUNCHERS[launcher].split(), *FLAGS.split(), "--ddp_backend", "gloo", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The folder of a run in this process, with two accumulated batches."""
    folder = tmp_path_factory.mktemp("distributed")
    make_genome(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    flags = (
        f"--gradient_accumulation_steps 2 --save_strategy no --data {folder}/g.fa --output_dir {folder}/one"
    )
    main([*FLAGS.split(), *flags.split()])
    torch.set_num_threads(threads)
    return folder


def check_equal(one: Path, two: Path) -> None:
    """Losses and gradient norms of every step to 1e-5, tokens exactly, final weights to 1e-4."""
    first, second = (json.loads((f / "trainer_state.json").read_text())["log_history"] for f in (one, two))
    assert [line["step"] for line in second] == [line["step"] for line in first]
    compared = 0
    for a, b in zip(first, second, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "eval_loss", "validation_loss", "test_loss"):
            assert (name in a) == (name in b)
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=1e-5), (a["step"], name)
                compared += 1
        assert a["num_input_tokens_seen"] == b["num_input_tokens_seen"]
    assert compared == 3 * 10 + 2 + 2
    weights, other = (load_file(f / "model.safetensors") for f in (one, two))
    assert weights.keys() == other.keys()
    for name in weights:
        torch.testing.assert_close(other[name], weights[name], rtol=1e-4, atol=1e-4)


def test_ddp_terminated_and_resumed_equals_one_process(one):
    """SIGTERM comes to the launcher, as from SLURM; both processes save at the same step and leave."""
    flags = [f"--data={one}/g.fa", f"--output_dir={one}/ddp", "--save_steps=3"]
    run = launch("ddp", *flags)
    deadline = time.monotonic() + 240
    while not list((one / "ddp").glob("checkpoint-*")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    printed, _ = run.communicate(timeout=240)
    assert run.returncode, printed
    saved = {int(path.name.split("-")[1]): path for path in (one / "ddp").glob("checkpoint-*")}
    assert saved and max(saved) < 10, printed
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in saved[max(saved)].iterdir()}
    run = launch("ddp", *flags, "--resume")
    printed, _ = run.communicate(timeout=240)
    assert run.returncode == 0, printed
    metrics = json.loads((one / "ddp" / "metrics.json").read_text())
    assert metrics["processes"] == 2 and metrics["resumed_from"] == f"checkpoint-{max(saved)}"
    check_equal(one / "one", one / "ddp")


def test_fsdp2_equals_one_process(one):
    run = launch("fsdp2", f"--data={one}/g.fa", f"--output_dir={one}/fsdp2", "--save_strategy=no")
    printed, _ = run.communicate(timeout=240)
    assert run.returncode == 0, printed
    held = {
        rank: (int(own), int(whole))
        for rank, own, whole in re.findall(r"rank (\d) holds (\d+) of (\d+)", printed)
    }
    assert set(held) == {"0", "1"} and all(0 < own < 0.7 * whole for own, whole in held.values())
    assert sum(own for own, _ in held.values()) == held["0"][1]
    assert json.loads((one / "fsdp2" / "metrics.json").read_text())["processes"] == 2
    check_equal(one / "one", one / "fsdp2")


def test_there_is_no_buffer_to_broadcast():
    assert not list(HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8)).buffers())
    assert PretrainArguments(output_dir="x", use_cpu=True).ddp_find_unused_parameters is False


# ---------------------------------------------------------------------------------- files that ship


@pytest.mark.parametrize("name", ["accelerate_ddp.yaml", "accelerate_fsdp2.yaml"])
def test_configurations_of_accelerate(name, monkeypatch):
    for key in [key for key in os.environ if key.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(key)
    path = DOCS / name
    config = load_config_from_file(str(path)).to_dict()
    assert yaml.safe_load(path.read_text()).items() <= config.items()  # it knows every key
    arguments = [
        "--config_file",
        str(path),
        "--num_processes",
        "8",
        "-m",
        "hyenadna",
        "pretrain",
        "--x",
    ]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert args.num_processes == 8 and args.num_machines == 1
    env = prepare_multi_gpu_env(args)
    if "ddp" in name:
        assert args.multi_gpu and not args.use_fsdp
    else:
        assert args.use_fsdp and env["FSDP_VERSION"] == "2" and env["ACCELERATE_USE_FSDP"] == "true"
        assert env["FSDP_TRANSFORMER_CLS_TO_WRAP"] == HyenaDNAForCausalLM._no_split_modules[0]
        assert env["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"


def test_slurm_script():
    script = DOCS / "pretrain.slurm"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "#SBATCH --signal=TERM@" in text and "accelerate_ddp.yaml" in text
    launched = text[text.index("accelerate launch") :].split("-m hyenadna pretrain ")
    options = re.sub(
        r'"\$MASTER"', "node1", re.sub(r'"\$(SLURM_NNODES|GPUS|SLURM_PROCID)"', "2", launched[0])
    )
    options = options.replace("\\", " ").split()[2:]
    launch_command_parser().parse_args([*options, "x"])
    flags = launched[1].replace("\\", " ").split("\n\n")[0].rstrip("'\n ").split()
    args = parse_settings(PretrainArguments, "pretrain", "", [*flags, "--use_cpu"])
    assert args.resume and args.bf16


def test_a_command_ends_its_group_of_processes():
    """A process that ends with its group open sometimes aborts, and the launcher then kills the
    others.
    """
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    leave_together()
    assert not torch.distributed.is_initialized()
    leave_together()  # without a group there is nothing to do
