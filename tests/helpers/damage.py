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
import os
import shutil
import traceback
from collections.abc import Callable
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
        records += f"1\t{position}\trs{position}\t{ref}\t{alt}\t.\tPASS\tAF=0.5\n"
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
    table.to_parquet(folder / "rows.parquet", index=False)
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
    lines = [f"{name}: {value}" for name, value in (("learning_rate", 6e-4), ("d_model", 8), ("n_layer", 1))]
    (folder / "s.yaml").write_text(
        "\n".join([*lines, "max_seq_len: 66", "use_cpu: true", "max_steps: 1"]) + "\n"
    )
    for name, command in (
        (
            "run",
            f"finetune --data {{w}}/rows.csv {TINY} {QUICK} --save_strategy steps --save_steps 1 --eval_strategy steps --eval_steps 1",
        ),
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


def flip(content: bytes) -> bytes:
    """Other bits in 40 bytes of the middle."""
    middle = max(0, len(content) // 2 - 20)
    piece = bytes(255 - byte for byte in content[middle : middle + 40])
    return content[:middle] + piece + content[middle + 40 :]


def _random(content: bytes) -> bytes:
    return np.random.default_rng(7).bytes(max(len(content), 100))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {  # a new damage is one line
    "empty": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "flipped": flip,
    "random": _random,
    "PNG": lambda content: b"\x89PNG\r\n\x1a\n" + content[8:],
    "gzip magic": lambda content: b"\x1f\x8b\x08\x00" + content[4:],
    "not UTF-8": lambda content: _insert(content, b"\xff\xfe\xfa"),
    "NUL": lambda content: _insert(content, b"\0\0\0\0"),
    "one line": lambda content: b"A" * 300_000,
    "deep JSON": lambda content: b"[" * 100_000 + b"]" * 100_000,
    "a JSON list": lambda content: b"[1, 2]",
    "a JSON number": lambda content: b"3",
    "JSON null": lambda content: b"null",
    "JSON of nothing": lambda content: b"{}",
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
        path.write_bytes(DAMAGES[name](path.read_bytes()))


# --------------------------------------------------------------------------------------- readers


class Reader(NamedTuple):
    """A file, and a command that reads it; `{w}` is the folder of files, `{out}` what is written."""

    file: str
    command: str
    # Damages after which the content is still a right one, or which do not concern this file.
    readable: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.command.split()[0]} {self.file}"


SCORE = "score --model {w}/model --output {w}/s.tsv --data {w}/"
PRETRAIN = f"pretrain {TINY} {QUICK} --window 64 --markov_order 0 --output_dir {{out}} --data {{w}}/"
FINETUNE = f"finetune {TINY} {QUICK} --output_dir {{out}} --data {{w}}/"
EMBED = "embed --model {w}/model --use_cpu --output_dir {out} --data {w}/"
VARIANTS = "variants --model {w}/model --window 40 --output_dir {out}"

# A command that makes one line of a text fewer or other, but valid, cannot know it.
CUT = ("cut in half",)

READERS = [  # a new reader is one line
    # FASTA, text and tables
    Reader("g.fa", SCORE + "g.fa"),
    Reader("g.fa.gz", SCORE + "g.fa.gz"),
    Reader("g.fa.bgz", SCORE + "g.fa.bgz"),
    Reader("rows.csv", SCORE + "rows.csv"),
    Reader("rows.csv.gz", SCORE + "rows.csv.gz"),
    Reader("rows.parquet", SCORE + "rows.parquet"),
    Reader("rows.txt", SCORE + "rows.txt"),
    Reader("g.fa", PRETRAIN + "g.fa"),
    Reader("g.fa.bgz", PRETRAIN + "g.fa.bgz"),
    Reader("rows.csv", PRETRAIN + "rows.csv"),
    Reader("x.bed", PRETRAIN + "g.fa --bed {w}/x.bed"),
    Reader("rows.csv", FINETUNE + "rows.csv"),
    Reader("rows.csv.gz", FINETUNE + "rows.csv.gz"),
    Reader("rows.tsv", FINETUNE + "rows.tsv"),
    Reader("rows.parquet", FINETUNE + "rows.parquet"),
    Reader("rows.fa", FINETUNE + "rows.fa"),
    Reader("rows.fa.gz", FINETUNE + "rows.fa.gz"),
    Reader("parts/valid.csv", FINETUNE + "parts"),
    Reader("classes/train/enhancer/x.fa", FINETUNE + "classes"),
    Reader("rows.csv", EMBED + "rows.csv"),
    Reader("rows.parquet", EMBED + "rows.parquet"),
    Reader("rows.fa", EMBED + "rows.fa"),
    Reader("x.gtf", EMBED.removesuffix(" --data {w}/") + " --gtf {w}/x.gtf --fasta {w}/g.fa"),
    Reader("x.gtf.gz", EMBED.removesuffix(" --data {w}/") + " --gtf {w}/x.gtf.gz --fasta {w}/g.fa"),
    Reader(
        "species/yeast/g.fa",
        f"species {TINY} {QUICK} --window 50 --windows_per_epoch 16 --test_windows 4 --output_dir {{out}} --data {{w}}/species",
    ),
    Reader(
        "tracks/valid.csv",
        f"chromatin {TINY} {QUICK} --window 60 --fasta {{w}}/g.fa --output_dir {{out}} --data {{w}}/tracks",
    ),
    # variants
    Reader("v.vcf", VARIANTS + " --vcf {w}/v.vcf --fasta {w}/g.fa"),
    Reader("v.vcf.gz", VARIANTS + " --vcf {w}/v.vcf.gz --fasta {w}/g.fa"),
    Reader("v.vcf.bgz", VARIANTS + " --vcf {w}/v.vcf.bgz --fasta {w}/g.fa"),
    Reader("g.fa", VARIANTS + " --vcf {w}/v.vcf --fasta {w}/g.fa"),
    Reader("g.fa.bgz", VARIANTS + " --vcf {w}/v.vcf --fasta {w}/g.fa.bgz"),
    Reader("g.fa", VARIANTS + " --mutagenesis 1:10-12 --fasta {w}/g.fa"),
    # models
    *[
        Reader(f"{folder}/{file}", command.format(m=folder, w="{w}", out="{out}"))
        for command in (
            "score --model {w}/{m} --output {w}/s.tsv --data {w}/g.fa",
            "embed --model {w}/{m} --use_cpu --output_dir {out} --data {w}/rows.csv",
            f"finetune --model {{w}}/{{m}} {QUICK} --output_dir {{out}} --data {{w}}/rows.csv",
            "convert {w}/{m} {out}",
        )
        for folder, file in (
            ("model", "config.json"),
            ("model", "model.safetensors"),
            ("shards", "model.safetensors.index.json"),
            ("shards", "model-00001-of-00004.safetensors"),
        )
    ],
    Reader(
        "model/tokenizer.json",
        f"finetune --model {{w}}/model {QUICK} --output_dir {{out}} --data {{w}}/rows.csv",
    ),
    Reader(
        "model/tokenizer_config.json",
        f"finetune --model {{w}}/model {QUICK} --output_dir {{out}} --data {{w}}/rows.csv",
    ),
    Reader("model/generation_config.json", "score --model {w}/model --output {w}/s.tsv --data {w}/g.fa"),
    *[
        Reader(f"export/{file}", "export {w}/export {out}")
        for file in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "metrics.json",
        )
    ],
    *[
        Reader(f"adapter/{file}", "export {w}/adapter {out} --base_model me/base")
        for file in ("adapter_config.json", "adapter_model.safetensors", "config.json")
    ],
    # runs and settings
    Reader("report/metrics.json", "report {w}/report --output_dir {out}"),
    Reader("s.yaml", "finetune {w}/s.yaml --data {w}/rows.csv --output_dir {out}"),
    Reader(
        "run/run_settings.json",
        f"finetune --resume {TINY} {QUICK} --save_strategy steps --save_steps 1 --eval_strategy steps --eval_steps 1 --output_dir {{w}}/run --data {{w}}/rows.csv",
    ),
    Reader(
        "run/metrics.json",
        f"finetune --resume {TINY} {QUICK} --save_strategy steps --save_steps 1 --eval_strategy steps --eval_steps 1 --output_dir {{w}}/run --data {{w}}/rows.csv",
    ),
    Reader(
        "embedded/run_settings.json",
        "embed --resume --model {w}/model --data {w}/rows.csv --use_cpu --output_dir {w}/embedded",
    ),
    Reader(
        "embedded/embeddings.parquet",
        "embed --resume --model {w}/model --data {w}/rows.csv --use_cpu --output_dir {w}/embedded",
    ),
    Reader(
        "variants/run_settings.json",
        "variants --model {w}/model --vcf {w}/v.vcf --fasta {w}/g.fa --window 40 --output_dir {w}/variants",
    ),
]


# --------------------------------------------------------------------------------------- outcomes


class Outcome(NamedTuple):
    """What a command did."""

    code: int | None  # None after an exception
    error: str  # what went to stderr, and the traceback of an exception


def run(command: str, folder: Path, out: Path) -> Outcome:
    """Run a command in this process as an ordinary user."""
    words = [word.format(w=folder, out=out) for word in command.split()]
    printed = io.StringIO()
    errors = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors), ordinary_user():
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = error.code
        except Exception:
            return Outcome(None, errors.getvalue() + traceback.format_exc())
    return Outcome(code, errors.getvalue())


def digest_of(folder: Path) -> dict[str, str]:
    """The content of every file in a folder, hidden ones too; links count as what they name."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            digests[path.relative_to(folder).as_posix()] = os.readlink(path)
        elif path.is_file():
            digests[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def complaint(outcome: Outcome, command: str, file: Path) -> str | None:
    """What is wrong with the way in which a command refused a file; None if it is right."""
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
    if len(lines[0]) > 1500:
        return f"{len(lines[0])} characters"
    if file.name not in lines[0] and str(file.parent) not in lines[0]:
        return "the file is not named"
    return None
