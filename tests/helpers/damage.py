"""Every kind of file that a command reads, every way in which it may be damaged, and what has to
be said.

A new kind of file, reader or damage is one line in `READERS` or `DAMAGES`. `tests/test_damage.py`
runs the whole table, `tests/campaigns/damage.py` damages at random for as long as one likes.
"""

import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import re
import resource
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pysam

from hyenadna import HyenaDNAForSequenceClassification, HyenaDNATokenizer
from hyenadna.training import cli
from hyenadna.training.runs.adapters import add_lora
from hyenadna.training.runs.models import load_checkpoint

from ..conftest import random_model
from .checkpoints import METRICS
from .genomes import random_dna, write_fasta
from .rights import ordinary_user

# ------------------------------------------------------------------------------------ whole files

CHROMOSOMES = {"1": random_dna(600, 1), "2": random_dna(400, 2)}
ROWS = 30
SEQUENCES = [random_dna(24, seed) for seed in range(ROWS)]
LABELS = ["enhancer" if i % 3 else "background" for i in range(ROWS)]
TINY = "--d_model 8 --n_layer 1 --max_seq_len 66"
SAVE = "--save_strategy steps --save_steps 1 --eval_strategy steps --eval_steps 1"
QUICK = "--use_cpu --disable_tqdm True --max_steps 1 --per_device_train_batch_size 8"


def write_whole_files(folder: Path) -> Path:
    """Write one file of each kind, and the models and runs, into a new folder."""
    folder.mkdir(parents=True)
    _write_genome(folder)
    _write_rows(folder)
    _write_models(folder)
    _write_runs(folder)
    return folder


def _write_genome(folder: Path) -> None:
    text = write_fasta(folder / "g.fa", CHROMOSOMES, width=50).read_bytes()
    (folder / "g.fa.gz").write_bytes(gzip.compress(text))
    _bgzip(folder / "g.fa.bgz", text)

    bed = "".join(f"1\t{i * 50}\t{i * 50 + 40}\tclass{i % 2}\n" for i in range(12)) + "2\t0\t200\tclass0\n"
    (folder / "x.bed").write_text(bed)
    attributes = 'gene_id "{}"; gene_name "{}"; gene_type "{}";'
    genes = ""
    for i in range(20):
        note = attributes.format(i, i, "lncRNA" if i % 2 else "protein_coding")
        genes += f"1\tx\tgene\t{i * 25 + 1}\t{i * 25 + 20}\t.\t+\t.\t{note}\n"
    (folder / "x.gtf").write_text(genes)
    (folder / "x.gtf.gz").write_bytes(gzip.compress(genes.encode()))

    records = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    for position in range(100, 500, 10):
        ref = CHROMOSOMES["1"][position - 1]
        alt = "ACGT"["ACGT".index(ref) - 1]
        records += f"1\t{position}\trs{position}\t{ref}\t{alt}\t.\tPASS\tAF=0.5;AC={position**2}\n"
    (folder / "v.vcf").write_text(records)
    (folder / "v.vcf.gz").write_bytes(gzip.compress(records.encode()))
    _bgzip(folder / "v.vcf.bgz", records.encode())


def _bgzip(path: Path, content: bytes) -> None:
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(content)


def _write_rows(folder: Path) -> None:
    table = pd.DataFrame({"id": [f"r{i}" for i in range(ROWS)], "sequence": SEQUENCES, "label": LABELS})
    table.to_csv(folder / "rows.csv", index=False)
    table.to_csv(folder / "rows.csv.gz", index=False)
    table.to_csv(folder / "rows.tsv", index=False, sep="\t")
    table.to_parquet(folder / "rows.parquet", index=False, write_page_checksum=True)
    (folder / "rows.txt").write_text("".join(f"{sequence}\n" for sequence in SEQUENCES))
    labelled = "".join(f">r{i} label={LABELS[i]}\n{SEQUENCES[i]}\n" for i in range(ROWS))
    (folder / "rows.fa").write_text(labelled)
    (folder / "rows.fa.gz").write_bytes(gzip.compress(labelled.encode()))
    (folder / "parts").mkdir()
    for i, part in enumerate(("train", "valid", "test")):
        table[i * 10 : i * 10 + 10].to_csv(folder / "parts" / f"{part}.csv", index=False)
    for label in ("background", "enhancer"):
        (folder / "classes" / "train" / label).mkdir(parents=True)
        chosen = [i for i in range(ROWS) if LABELS[i] == label]
        text = "".join(f">r{i}\n{SEQUENCES[i]}\n" for i in chosen)
        (folder / "classes" / "train" / label / "x.fa").write_text(text)
    (folder / "species").mkdir()
    for name in ("mouse", "yeast"):
        (folder / "species" / name).mkdir()
        write_fasta(folder / "species" / name / "g.fa", CHROMOSOMES, width=50)
    _write_tracks(folder / "tracks")


def _write_tracks(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "valid", "test"):
        rows = [["1", start, start + 20, *rng.integers(0, 2, 2)] for start in range(0, 300, 10)]
        table = pd.DataFrame(rows, columns=["chromosome", "start", "end", "CTCF", "DNase"])
        table.to_csv(folder / f"{part}.csv", index=False)


def _write_models(folder: Path) -> None:
    model = random_model(n_layer=1, d_model=8, max_seq_len=1026)
    for name, size in (("model", "1GB"), ("shards", "2KB")):
        model.save_pretrained(folder / name, max_shard_size=size)
        HyenaDNATokenizer().save_pretrained(folder / name)
    settings = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    classifier, _ = load_checkpoint(
        HyenaDNAForSequenceClassification, str(folder / "model"), settings, new="score."
    )
    adapted = add_lora(classifier, 2)
    adapted.save_pretrained(folder / "adapter")
    classifier.config.save_pretrained(folder / "adapter")


def _write_runs(folder: Path) -> None:
    """A finished run, as `report` and `export` read it, and an interrupted one to be resumed."""
    (folder / "report").mkdir()
    (folder / "report" / "metrics.json").write_text(json.dumps(METRICS))
    settings = {"learning_rate": 6e-4, "d_model": 8, "n_layer": 1, "max_seq_len": 66, "max_steps": 1}
    text = "".join(f"{name}: {value}\n" for name, value in settings.items())
    (folder / "s.yaml").write_text(text + "use_cpu: true\n")
    for name, command in (
        ("run", f"finetune --data {{w}}/rows.csv {TINY} {QUICK} {SAVE}"),
        ("embedded", "embed --model {w}/model --data {w}/rows.csv --use_cpu"),
        ("variants", "variants --model {w}/model --vcf {w}/v.vcf --fasta {w}/g.fa --window 40"),
    ):
        outcome = run(f"{command} --output_dir {{w}}/{name}", folder, folder / "none")
        assert outcome.code == 0, outcome
    (folder / "export").mkdir()
    for path in (folder / "run").iterdir():
        if path.is_file():
            shutil.copy(path, folder / "export")


# --------------------------------------------------------------------------------------- damages


def _insert(content: bytes, piece: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + piece + content[middle:]


def flip(content: bytes, part: float = 0.5) -> bytes:
    """Flip all bits of 40 bytes, in the middle or at another part of the length."""
    start = max(0, int(len(content) * part) - 20)
    piece = bytes(255 - byte for byte in content[start : start + 40])
    return content[:start] + piece + content[start + 40 :]


def _random(content: bytes) -> bytes:
    return np.random.default_rng(7).bytes(max(len(content), 100))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {  # a new damage is one line
    "empty": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "flipped": flip,
    "flipped early": lambda content: flip(content, 0.1),
    "random": _random,
    "PNG": lambda content: b"\x89PNG\r\n\x1a\n" + content[8:],
    "gzip magic": lambda content: b"\x1f\x8b\x08\x00" + content[4:],
    "not UTF-8": lambda content: _insert(content, b"\xff\xfe\xfa"),
    "NUL": lambda content: _insert(content, b"\0\0\0\0"),
    "one line": lambda content: b"A" * 300_000,
    "deep JSON": lambda content: b"[" * 100_000 + b"]" * 100_000,
}
JSON_DAMAGES: dict[str, Callable[[bytes], bytes]] = {  # of files that hold JSON
    "a list": lambda content: b"[1, 2]",
    "a number": lambda content: b"3",
    "null": lambda content: b"null",
    "nothing": lambda content: b"{}",
}


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


PLACES: dict[str, Callable[[Path], None]] = {  # damages of the place, not of the content
    "a folder": _folder,
    "not readable": lambda path: path.chmod(0),
    "missing": lambda path: path.unlink(),
    "a link to itself": _loop,
}


def damage(path: Path, name: str) -> None:
    """Damage a file in the way of this name."""
    if name in PLACES:
        PLACES[name](path)
    else:
        path.write_bytes({**DAMAGES, **JSON_DAMAGES}[name](path.read_bytes()))


def damages_of(file: str) -> list[str]:
    """The names of the damages that concern a file of this name."""
    names = [*DAMAGES, *PLACES]
    return [*names, *JSON_DAMAGES] if file.endswith(".json") else names


# --------------------------------------------------------------------------------------- readers


class Reader(NamedTuple):
    """A file, and a command that reads it.

    Attributes:
        file: Its name in the folder of whole files.
        command: Its words; `{w}` is the folder of files, `{out}` what is written.
        readable: Damages after which the content is still a right one, or nobody can tell. Each
            other damage has to be refused.
    """

    file: str
    command: str
    readable: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.command.split()[0]} {self.file}"

    @property
    def trains(self) -> bool:
        """Whether the command takes seconds where it is not refused."""
        return self.command.startswith(("finetune", "pretrain", "species", "chromatin", "export"))


SCORE = "score --model {w}/model --output {w}/s.tsv --data {w}/"
PRETRAIN = f"pretrain {TINY} {QUICK} --window 64 --markov_order 0 --output_dir {{out}} --data {{w}}/"
FINETUNE = f"finetune {TINY} {QUICK} --output_dir {{out}} --data {{w}}/"
TUNE = f"finetune {QUICK} --output_dir {{out}} --data {{w}}/rows.csv --model {{w}}/{{m}}"
RESUME = f"finetune --resume {TINY} {QUICK} {SAVE} --output_dir {{w}}/run --data {{w}}/rows.csv"
EMBED = "embed --model {w}/model --use_cpu --output_dir {out} "
RE_EMBED = "embed --resume --model {w}/model --data {w}/rows.csv --use_cpu --output_dir {w}/embedded"
VARIANTS = "variants --model {w}/model --window 40 --output_dir {out} --fasta {w}/"
PREDICT = "predict --model {w}/run --output {w}/p.csv "
SPECIES = f"species {TINY} {QUICK} --window 50 --windows_per_epoch 16 --test_windows 4 --output_dir {{out}} "
CHROMATIN = f"chromatin {TINY} {QUICK} --window 60 --fasta {{w}}/g.fa --output_dir {{out}} --data {{w}}/"
MODEL_COMMANDS = (
    "score --output {w}/s.tsv --data {w}/rows.csv --model {w}/{m}",
    "embed --use_cpu --output_dir {out} --data {w}/rows.csv --model {w}/{m}",
    TUNE,
    "convert {w}/{m} {out}",
)

# Text of fewer lines is text; what is left of it is read. Gzip has its magic number already. Arrow
# looks at the magic number at the end of parquet, and the middle of a file as small as ours is what
# pandas notes about its index. Weights have no checksum. Without one of its files a tokenizer has
# the published vocabulary, and without metrics a card has none.
CUT = ("cut in half",)
PACKED = ("gzip magic",)
FOOTER = ("gzip magic", "flipped")
WEIGHTS = ("flipped",)
GONE = ("a folder", "missing", "a link to itself")


def _of_models(file: str, readable: tuple[str, ...] = ()) -> list[Reader]:
    folder = file.partition("/")[0]
    return [Reader(file, command.replace("{m}", folder), readable) for command in MODEL_COMMANDS]


READERS = [  # a new reader is one line
    # FASTA, text and tables
    Reader("g.fa", SCORE + "g.fa", CUT),
    Reader("g.fa.gz", SCORE + "g.fa.gz", PACKED),
    Reader("g.fa.bgz", SCORE + "g.fa.bgz"),
    Reader("rows.csv", SCORE + "rows.csv", CUT),
    Reader("rows.csv.gz", SCORE + "rows.csv.gz"),
    Reader("rows.parquet", SCORE + "rows.parquet", FOOTER),
    Reader("rows.txt", SCORE + "rows.txt", CUT),
    Reader("rows.csv", PREDICT + "--data {w}/rows.csv", CUT),
    Reader("g.fa", PREDICT + "--window 40 --fasta {w}/g.fa", CUT),
    Reader("g.fa.bgz", PREDICT + "--window 40 --fasta {w}/g.fa.bgz"),
    Reader("x.bed", PREDICT + "--window 40 --fasta {w}/g.fa --regions {w}/x.bed", CUT),
    Reader("run/config.json", PREDICT + "--data {w}/rows.csv"),
    Reader("run/model.safetensors", PREDICT + "--data {w}/rows.csv", (*WEIGHTS, "flipped early")),
    Reader("g.fa", PRETRAIN + "g.fa", CUT),
    Reader("g.fa.bgz", PRETRAIN + "g.fa.bgz"),
    Reader("rows.csv", PRETRAIN + "rows.csv", CUT),
    Reader("x.bed", PRETRAIN + "g.fa --bed {w}/x.bed", CUT),
    Reader("rows.csv", FINETUNE + "rows.csv", CUT),
    Reader("rows.csv.gz", FINETUNE + "rows.csv.gz"),
    Reader("rows.tsv", FINETUNE + "rows.tsv", CUT),
    Reader("rows.parquet", FINETUNE + "rows.parquet", FOOTER),
    Reader("rows.fa", FINETUNE + "rows.fa"),
    Reader("rows.fa.gz", FINETUNE + "rows.fa.gz", PACKED),
    Reader("parts/valid.csv", FINETUNE + "parts", ("missing",)),
    Reader("classes/train/enhancer/x.fa", FINETUNE + "classes"),
    Reader("rows.csv", EMBED + "--data {w}/rows.csv", CUT),
    Reader("rows.parquet", EMBED + "--data {w}/rows.parquet", FOOTER),
    Reader("rows.fa", EMBED + "--data {w}/rows.fa"),
    Reader("x.gtf", EMBED + "--fasta {w}/g.fa --gtf {w}/x.gtf"),
    Reader("x.gtf.gz", EMBED + "--fasta {w}/g.fa --gtf {w}/x.gtf.gz", PACKED),
    Reader("species/yeast/g.fa", SPECIES + "--data {w}/species", CUT),
    Reader("tracks/valid.csv", CHROMATIN + "tracks"),
    # variants
    Reader("v.vcf", VARIANTS + "g.fa --vcf {w}/v.vcf"),
    Reader("v.vcf.gz", VARIANTS + "g.fa --vcf {w}/v.vcf.gz", PACKED),
    Reader("v.vcf.bgz", VARIANTS + "g.fa --vcf {w}/v.vcf.bgz"),
    Reader("g.fa", VARIANTS + "g.fa --vcf {w}/v.vcf", CUT),
    Reader("g.fa.bgz", VARIANTS + "g.fa.bgz --vcf {w}/v.vcf"),
    Reader("g.fa", VARIANTS + "g.fa --mutagenesis 1:10-12", CUT),
    # models and adapters
    *_of_models("model/config.json"),
    *_of_models("model/model.safetensors", WEIGHTS),
    *_of_models("shards/model.safetensors.index.json"),
    *_of_models("shards/model-00001-of-00004.safetensors", WEIGHTS),
    Reader("model/tokenizer.json", TUNE.replace("{m}", "model"), GONE),
    Reader("model/tokenizer_config.json", TUNE.replace("{m}", "model"), (*GONE, "nothing")),
    Reader("export/config.json", "export {w}/export {out}"),
    Reader("export/model.safetensors", "export {w}/export {out}", (*WEIGHTS, "flipped early")),
    Reader("export/tokenizer.json", "export {w}/export {out}", GONE),
    Reader("export/tokenizer_config.json", "export {w}/export {out}", (*GONE, "nothing")),
    Reader("export/metrics.json", "export {w}/export {out}", (*GONE, "nothing")),
    Reader("adapter/adapter_config.json", "export {w}/adapter {out} --base_model me/base"),
    Reader("adapter/adapter_model.safetensors", "export {w}/adapter {out} --base_model me/base"),
    Reader("adapter/config.json", "export {w}/adapter {out} --base_model me/base", GONE),
    # runs and settings
    Reader("report/metrics.json", "report {w}/report --output_dir {out}"),
    Reader("s.yaml", "finetune {w}/s.yaml --data {w}/rows.csv --output_dir {out}", CUT),
    Reader("run/run_settings.json", RESUME),
    Reader("run/metrics.json", RESUME, ("missing", "a link to itself")),
    Reader("embedded/run_settings.json", RE_EMBED),
    Reader("embedded/embeddings.parquet", RE_EMBED, PACKED),
    Reader("variants/run_settings.json", VARIANTS.replace("{out}", "{w}/variants") + "g.fa --vcf {w}/v.vcf"),
]


# --------------------------------------------------------------------------------------- outcomes


class Outcome(NamedTuple):
    """What a command did."""

    code: int | None  # None after an exception
    error: str  # what went to stderr, and the traceback of an exception


def run(command: str, folder: Path, out: Path) -> Outcome:
    """Run a command in this process, in a folder, as an ordinary user."""
    words = [word.format(w=".", out=out) for word in command.split()]
    printed = io.StringIO()
    errors = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        ordinary_user(),
    ):
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = error.code
        except Exception:
            return Outcome(None, errors.getvalue() + traceback.format_exc())
    return Outcome(code, errors.getvalue())


def digest_of(folder: Path) -> dict[str, str]:
    """The content of every file in a folder, hidden ones too, but indexes of FASTA, which are made
    where they are missing. Links count as what they name.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            digests[path.relative_to(folder).as_posix()] = os.readlink(path)
        elif path.is_file() and path.suffix != ".fai":
            digests[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def half_written(digests: dict[str, str]) -> list[str]:
    """The files and folders under the names that they have until they are complete."""
    return [name for name in digests if re.search(r"\.\d+\.unfinished|\.hyenadna-", name)]


def complaint(outcome: Outcome, command: str, *names: str) -> str | None:
    """What is wrong with the way in which a command failed; None if it is right.

    Args:
        outcome: What it did.
        command: Its words.
        names: One of them has to be in the message: the file, or the folder.
    """
    if outcome.code is None:
        return "a traceback"
    if outcome.code != 1:
        return f"exit status {outcome.code}"
    lines = [
        line
        for line in outcome.error.splitlines()
        if line.startswith(f"hyenadna {command.split()[0]}: error: ")
    ]
    if len(lines) != 1 or outcome.error.splitlines()[-1] != lines[0]:
        return "not one line of error, the last"
    if "Traceback" in outcome.error:
        return "a traceback"
    if len(lines[0]) > 2100:
        return f"{len(lines[0])} characters"
    if not any(name in lines[0] for name in names):
        return "the file is not named"
    return None


# --------------------------------------------------------------------------------------- writing


COMMANDS = [  # a new command is one line
    "score --model {w}/model --data {w}/rows.csv --output {out}.tsv",
    "predict --model {w}/run --data {w}/rows.csv --output {out}.csv",
    "predict --model {w}/run --fasta {w}/g.fa --window 40 --output {out}.bedgraph",
    "embed --model {w}/model --use_cpu --data {w}/rows.csv --output_dir {out}",
    "variants --model {w}/model --window 40 --fasta {w}/g.fa --vcf {w}/v.vcf.bgz --output_dir {out}",
    "variants --model {w}/model --window 40 --fasta {w}/g.fa --mutagenesis 1:10-12 --output_dir {out}",
    "convert {w}/model {out}",
    "convert --to hf {w}/model {out}",
    "export {w}/export {out}",
    "report {w}/report --output_dir {out}",
    FINETUNE + "rows.csv",
    PRETRAIN + "g.fa",
    SPECIES + "--data {w}/species",
    CHROMATIN + "tracks",
    f"benchmark --data {{w}}/parts {TINY} {QUICK} --baselines False --output_dir {{out}}",
    f"soft-prompt --model {{w}}/model {QUICK} --data {{w}}/rows.csv --output_dir {{out}}",
    "few-shot --model {w}/model --use_cpu --data {w}/rows.csv --tuning_steps 1 --repeats 1 --samples 2 "
    "--shots 1 --output_dir {out}",
    f"adapter-study --model {{w}}/model {QUICK} --data {{w}}/rows.csv --output_dir {{out}}",
    "demo --output_dir {out}",
]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: every writer gets an error, as on a full disk (POSIX).

    Python ignores the signal that would end the process, so the error is EFBIG. It would also meet
    pytest's own files, into which Transformers logs.
    """
    logging.raiseExceptions = False
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        logging.raiseExceptions = True
