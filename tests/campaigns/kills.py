"""Kill commands at random moments, run them again, and compare with runs that nobody killed.

    python -m tests.campaigns.kills --kills 30 --seed 1
    python -m tests.campaigns.kills --kills 200 --commands pretrain finetune_lora --work /big/disk

Each command first runs to its end. Then it is killed by SIGKILL, run again as a person would (with
`--resume` where there is such a flag), perhaps killed again, and let finish. Every file has to be
the same as without kills: bytes, or the values of tensors, and no file may be missing or left over.
Only what tells the time or the process may differ (`UNLIKE_KEY`, `UNLIKE_TEXT`).

A moment is of one of four kinds:

- `time`: anywhere in the run, even within one write;
- `file`: just before a file or folder is opened for writing, renamed or removed, anywhere;
- `late time`, `late file`: the same after the last checkpoint is complete, for recipes that train.

Every run is a fork of one process that has imported everything, so that a second is spent on the
work and not on imports. Its random generators are seeded anew: nothing may depend on them.
"""

import argparse
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.genomics.vcf import write_vcf
from hyenadna.training import cli

from ..helpers import checkpoints
from ..helpers.genomes import make_genome
from ..helpers.recipes import make_rows

KINDS = ("time", "file", "late time", "late file")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LONGEST = 600  # seconds that a run may take


@dataclass(frozen=True)
class Case:
    """A command to kill.

    Attributes:
        command: Its words after `hyenadna`.
        again: What is added to go on with it.
        refuses: What it says, with exit code 1, if the run that was killed had finished.
    """

    command: str
    again: str = ""
    refuses: str = ""


SHAPE = "--d_model 8 --n_layer 1 --max_seq_len 40"
TRAIN = "--use_cpu --per_device_train_batch_size 8 --learning_rate 0.01 --output_dir out"
FINETUNE = f"finetune --data inputs/rows.csv {TRAIN}"
CASES = {
    "finetune_epochs": Case(f"{FINETUNE} {SHAPE} --num_train_epochs 3", "--resume"),
    # 5 steps an epoch: checkpoints and the end lie inside of epochs
    "finetune_steps": Case(
        f"{FINETUNE} {SHAPE} --max_steps 8 --eval_strategy steps --eval_steps 3 --save_strategy steps"
        " --save_steps 3 --logging_strategy steps --logging_steps 1",
        "--resume",
    ),
    "finetune_lora": Case(
        f"{FINETUNE} --model inputs/model --lora_rank 2 --num_train_epochs 1.5", "--resume"
    ),
    "pretrain": Case(
        f"pretrain --data inputs/g.fa {TRAIN} --d_model 8 --n_layer 1 --max_seq_len 34 --max_steps 11"
        " --save_steps 4 --eval_steps 4 --logging_steps 2 --markov_order 2",
        "--resume",
    ),
    "embed": Case(
        "embed --model inputs/model --data inputs/rows.csv --use_cpu --batch_bases 100 --classifier logistic"
        " --picture pca --output_dir out",
        "--resume",
    ),
    "score": Case(
        "score --model inputs/model --data inputs/reads.fa --output scores.tsv --per_position bases.tsv"
        " --batch_bases 200 --device cpu"
    ),
    "predict": Case(
        "predict --model inputs/trained --data inputs/reads.fa --output predictions.csv --device cpu"
    ),
    "variants": Case(
        "variants --model inputs/model --fasta inputs/g.fa --vcf inputs/calls.vcf.gz --window 30 --device cpu"
        " --output_dir out"
    ),
    "mutagenesis": Case(
        "variants --model inputs/model --fasta inputs/g.fa --mutagenesis 1:100-125 --window 30 --device cpu"
        " --output_dir out"
    ),
    "benchmark": Case(
        f"benchmark --data inputs/rows.csv {TRAIN} {SHAPE} --seeds 0 1 --num_train_epochs 2", "--resume"
    ),
    "convert": Case("convert inputs/published out", refuses="exists and is not empty"),
    "export": Case("export inputs/trained out", refuses="exists and is not empty"),
    "report": Case("report inputs/trained --output_dir out"),
    "demo": Case("demo --output_dir out --epochs 0.1"),
}

# So that runs of a second have several parts and blocks.
SMALL = {
    "hyenadna.analysis.embedding": {"_BASES_PER_PART": 100},
    "hyenadna.analysis.sequences": {"_SEQUENCES_PER_BLOCK": 20},
    "hyenadna.analysis.variants": {"_RECORDS_PER_PART": 20},
}

# What tells the time: keys of JSON at any depth, and places in texts. `resumed_from` names the
# checkpoint, and `train_loss` is Trainer's mean over the steps of this process.
UNLIKE_KEY = re.compile(r".*(seconds|runtime|per_second).*|resumed_from|train_loss")
UNLIKE_TEXT = re.compile(r"(?m)\| [\d,]+( \([\d,]+ CPU\))? \|$|seconds +\d+ in all|in [\d,.]+ s\.")


# ------------------------------------------------------------------------------ inputs


def make_inputs(folder: Path) -> None:
    """Write everything that the commands read, all of it tiny."""
    folder.mkdir(parents=True)
    make_rows().to_pandas().to_csv(folder / "rows.csv", index=False)
    genome = "".join(make_genome(folder).read_text().split(">")[1].splitlines()[1:])
    rng = np.random.default_rng(0)
    reads = [f">read{i}\n{genome[start : start + 25]}\n" for i, start in enumerate(rng.integers(0, 250, 70))]
    (folder / "reads.fa").write_text("".join(reads))

    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for position in range(20, 270, 2):
        ref = genome[position - 1].upper()
        alt = "ACGT"[("ACGT".index(ref) + 1) % 4]
        lines.append(f"1\t{position}\trs{position}\t{ref}\t{alt}\t.\tPASS\tAC=1")
    write_vcf(folder / "calls.vcf.gz", lines)

    torch.manual_seed(0)
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=40))
    model.save_pretrained(folder / "model")
    checkpoints.write(folder / "published", checkpoints.lightning(model), checkpoints.nested(model))


# ------------------------------------------------------------------------------ runs


@dataclass
class Run:
    """What became of one run.

    Attributes:
        code: Exit code; minus the signal if one ended it.
        seconds: How long it took.
        trace: Its file operations, in order: seconds since its start, and what was done.
        said: What it printed.
    """

    code: int
    seconds: float
    trace: list[tuple[float, str]]
    said: str


def start(arguments: list[str], folder: Path, die_before: int | None = None) -> Run:
    """Run a command in a fork of this process, inside `folder`.

    Args:
        arguments: After `hyenadna`.
        folder: Where it runs; operations on files elsewhere do not count.
        die_before: The number of the operation, from 0, before which it kills itself.
    """
    return finish(*_fork(arguments, folder, die_before))


def _fork(arguments: list[str], folder: Path, die_before: int | None) -> tuple[int, Path, Path, float]:
    said = folder.parent / "said.txt"
    trace = folder.parent / "trace.txt"
    began = time.monotonic()
    child = os.fork()
    if child:
        return child, said, trace, began
    code = 70
    try:
        os.chdir(folder)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "wb", closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "wb", closefd=False), write_through=True)
        # All forks would begin with the state of this process.
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(int.from_bytes(os.urandom(4), "big"))
        torch.set_num_threads(1)
        for name, values in SMALL.items():
            for constant, value in values.items():
                setattr(sys.modules[name], constant, value)
        _watch(folder, os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), die_before, began)
        code = cli.main(arguments)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _watch(folder: Path, trace: int, die_before: int | None, began: float) -> None:
    """Note every operation on a file in `folder` of this process, and die before one of them."""
    process = os.getpid()
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        done = _operation(event, arguments, folder)
        if done is None or os.getpid() != process:  # workers inherit the hook
            return
        if count == die_before:
            os.kill(process, signal.SIGKILL)
        os.write(trace, f"{time.monotonic() - began:.4f}\t{done}\n".encode())
        count += 1

    sys.addaudithook(hook)


def _operation(event: str, arguments: tuple, folder: Path) -> str | None:
    """Return what an audit event does to a file in `folder`, as text; None if nothing."""
    if event == "open":
        path, mode, flags = arguments
        is_writing = bool(set(mode or "") & set("wax+")) or (mode is None and flags & WRITING)
        if not is_writing or isinstance(path, int):
            return None
        paths = [_inside(path, -1, folder)]
    elif event in ("os.remove", "os.rmdir"):
        paths = [_inside(arguments[0], arguments[1], folder)]
    elif event == "os.mkdir":
        paths = [_inside(arguments[0], arguments[2], folder)]
    elif event in ("os.rename", "os.link"):
        paths = [_inside(arguments[i], arguments[i + 2], folder) for i in range(2)]
    else:
        return None
    if None in paths:
        return None
    return " ".join([event.removeprefix("os."), *paths])


def _inside(path: str | bytes | os.PathLike, directory: int, folder: Path) -> str | None:
    """Return a path relative to `folder`; None if it lies elsewhere."""
    text = os.fsdecode(path)
    if directory != -1:  # `shutil.rmtree` names files by the folder that holds them
        text = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), text)
    text = os.path.abspath(text)
    if not text.startswith(f"{folder}{os.sep}"):
        return None
    return os.path.relpath(text, folder)


def finish(child: int, said: Path, trace: Path, began: float, kill_after: float = LONGEST) -> Run:
    """Wait for the end of a run, and kill it if it takes longer than `kill_after` seconds."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - began > kill_after:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.004)
    seconds = time.monotonic() - began
    lines = []
    if trace.exists():
        for line in trace.read_text().splitlines():
            moment, _, done = line.partition("\t")
            lines.append((float(moment), done))
        trace.unlink()
    return Run(os.waitstatus_to_exitcode(status), seconds, lines, said.read_text(errors="replace"))


# ------------------------------------------------------------------------------ comparison


def snapshot(folder: Path) -> dict[str, str]:
    """Return a digest of every file below `folder`, and of its folders, by their relative paths."""
    result = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        result[name] = "folder" if path.is_dir() else _digest(path)
    return result


def _digest(path: Path) -> str:
    content = hashlib.sha256()
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            content.update(json.dumps(file.metadata(), sort_keys=True).encode())
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                content.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    elif path.suffix == ".json":
        content.update(json.dumps(_timeless(json.loads(path.read_text()))).encode())
    elif path.suffix in (".md", ".txt"):
        content.update(UNLIKE_TEXT.sub("TIME", path.read_text()).encode())
    else:
        content.update(path.read_bytes())
    return content.hexdigest()


def _timeless(value: object) -> object:
    """Return the content of a JSON file without what tells the time."""
    if isinstance(value, dict):
        # The manifest of a checkpoint has a digest of this file, which tells the time of each step.
        return {
            key: _timeless(item)
            for key, item in value.items()
            if not UNLIKE_KEY.fullmatch(key) and key != "trainer_state.json"
        }
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return what is wrong with a folder, a text for each file: missing, left over, or other."""
    texts = [f"missing {name}" for name in expected if name not in found]
    texts += [f"left over {name}" for name in found if name not in expected]
    texts += [f"other {name}" for name in expected if name in found and expected[name] != found[name]]
    return texts


# ------------------------------------------------------------------------------ moments


@dataclass(frozen=True)
class Moment:
    """When to kill: before the file operation of this number, or after this many seconds."""

    kind: str
    operation: int | None = None
    seconds: float = LONGEST


def draw_moment(rng: np.random.Generator, whole: Run) -> Moment:
    """Draw a moment in a run that takes as long, and does the same to files, as `whole`."""
    last = last_checkpoint(whole.trace)
    kinds = KINDS if last is not None else KINDS[:2]
    kind = str(rng.choice(kinds))
    first_operation, first_second = 0, 0.0
    if kind.startswith("late"):
        first_operation, first_second = last + 1, whole.trace[last][0]
    if kind.endswith("file"):
        return Moment(kind, int(rng.integers(first_operation, len(whole.trace))))
    return Moment(kind, None, float(rng.uniform(first_second, whole.seconds)))


def before_last(whole: Run, pattern: str) -> Moment:
    """Return the moment before the last operation on a file that matches a regular expression."""
    numbers = [i for i, (_, done) in enumerate(whole.trace) if re.fullmatch(pattern, done)]
    return Moment("file", numbers[-1])


def last_checkpoint(trace: list[tuple[float, str]]) -> int | None:
    """Return the number of the operation that made the last checkpoint complete; None without."""
    numbers = [i for i, (_, done) in enumerate(trace) if re.search(r"checkpoint-\d+/manifest\.json$", done)]
    return numbers[-1] if numbers else None


# ------------------------------------------------------------------------------ the campaign


@dataclass
class Campaign:
    """Kills of commands, and what came of them.

    Attributes:
        work: An empty folder for everything.
        kills: How many there were so far.
        late: How many of them after the last checkpoint.
        failures: A line for each that changed something.
    """

    work: Path
    say: Callable[[str], None] = print
    kills: int = 0
    late: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The same paths for all runs: settings hold them.
        self.work = self.work.resolve()
        self.folder = self.work / "run"
        self.inputs = self.work / "inputs"
        self._whole: dict[str, tuple[Run, dict[str, str]]] = {}
        for name in cli.COMMANDS:
            __import__(cli.module_of(name))
        make_inputs(self.inputs)
        self._begin()
        trained = start(CASES["finetune_epochs"].command.split(), self.folder)
        assert trained.code == 0, trained.said
        shutil.copytree(self.folder / "out", self.inputs / "trained")

    def _begin(self) -> None:
        """Make the folder of the runs anew, with its own copy of the inputs."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        shutil.copytree(self.inputs, self.folder / "inputs")

    def whole(self, name: str) -> tuple[Run, dict[str, str]]:
        """Return the run of a command that nobody kills, and what it leaves."""
        if name not in self._whole:
            results = []
            for _ in range(2):
                self._begin()
                run = start(CASES[name].command.split(), self.folder)
                if run.code:
                    raise RuntimeError(f"{name} fails without a kill:\n{run.said}")
                results.append(snapshot(self.folder))
            # What differs between two of them would say nothing about kills.
            wrong = differences(*results)
            if wrong:
                raise RuntimeError(f"{name}: two runs that nobody kills differ: {wrong}")
            self._whole[name] = run, results[0]
            self.say(
                f"{name}: {run.seconds:.1f} s, {len(run.trace)} file operations, {len(results[0])} files"
            )
        return self._whole[name]

    def kill(self, name: str, moments: list[Moment]) -> None:
        """Kill a command at each of these moments, let it finish, and compare."""
        case = CASES[name]
        whole, expected = self.whole(name)
        self._begin()
        arguments = case.command.split()
        for moment in moments:
            child = _fork(arguments, self.folder, moment.operation)
            run = finish(*child, kill_after=moment.seconds)
            if run.code != -signal.SIGKILL:
                break
            self.kills += 1
            self.late += moment.kind.startswith("late")
            self.say(f"{self.kills:4} {name}, {self._describe(moment, run, whole)}")
            arguments = [*case.command.split(), *case.again.split()]
        else:
            run = start(arguments, self.folder)

        refused = run.code == 1 and case.refuses and case.refuses in run.said
        wrong = differences(expected, snapshot(self.folder))
        if run.code and not refused:
            wrong.insert(0, f"exit code {run.code}: {run.said.strip().splitlines()[-1:]}")
        if wrong:
            self.failures.append(f"{name} after kill {self.kills}: {'; '.join(wrong[:8])}")
            self.say(f"     DIFFERS: {'; '.join(wrong)}")
            kept = self.work / f"failed-{len(self.failures)}"
            self.folder.rename(kept)
            (kept / "said.txt").write_text(run.said)
        else:
            self.say("     equal" + (", it had finished" if refused else ""))

    def _describe(self, moment: Moment, run: Run, whole: Run) -> str:
        when = f"{moment.kind}, {run.seconds:.2f} of {whole.seconds:.2f} s"
        if moment.operation is not None:
            when = f"{moment.kind}, operation {moment.operation} of {len(whole.trace)}"
        last = f"after {run.trace[-1][1]!r}" if run.trace else "before anything was written"
        paths = [path for path in self.folder.iterdir() if path.name not in ("inputs", "out")]
        paths += self.folder.glob("out/*")
        names = sorted(path.relative_to(self.folder).as_posix() for path in paths)
        return f"{when}, {last}; there: {' '.join(names) or 'nothing'}"


def campaign(
    kills: int, seed: int, names: list[str], work: Path, say: Callable[[str], None] = print
) -> Campaign:
    """Kill the named commands in turn until there were that many kills."""
    result = Campaign(work, say)
    number = 0
    while result.kills < kills:
        name = names[number % len(names)]
        whole, _ = result.whole(name)
        rng = np.random.default_rng([seed, number])
        result.kill(name, [draw_moment(rng, whole) for _ in range(rng.integers(1, 4))])
        number += 1
    return result


def main(argv: list[str] | None = None) -> int:
    """Run a campaign; return 1 if a kill changed something."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=30, help="at least so many (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--commands", nargs="+", choices=list(CASES), default=list(CASES), help="by default all"
    )
    parser.add_argument("--work", type=Path, help="folder for the runs; kept if something differs")
    args = parser.parse_args(argv)
    if args.work is not None:
        args.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="kills-", dir=args.work))
    result = campaign(args.kills, args.seed, args.commands, work, lambda text: print(text, flush=True))
    print(f"{result.kills} kills, {result.late} of them after the last checkpoint")
    print(f"{len(result.failures)} results differ from those without kills")
    for failure in result.failures:
        print(f"  {failure}")
    if result.failures:
        print(f"The folders are in {work}")
        return 1
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
