"""Damage files at random, and read them by the commands: `python -m tests.campaigns.damage`.

    python -m tests.campaigns.damage --seconds 600 --seed 1
    python -m tests.campaigns.damage --seconds 3600 --seed 2 --only variants --work /big/disk

A case is a line of the table of readers in `tests/helpers/damage.py` and up to three random changes
of its file: of bytes, of lines and cells, or of values where it holds JSON. Packed text is also
changed inside and packed again. A command may succeed or refuse. What counts as a failure:

- a traceback, or an error of more than one line;
- a refused file, and yet something was written or changed;
- a case of more than a minute, or half-written files;
- scores of other sequences than a plain reading of FASTA or text finds.

Every tenth case is a command of the other table on a disk that fills up: no file may grow beyond a
random size.

The files of each failure are kept in the folder `--work`, with what the command said.
"""

import argparse
import gzip
import json
import random
import resource
import shutil
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pysam
from transformers.utils import logging

from ..helpers.damage import (
    COMMANDS,
    READERS,
    Outcome,
    Reader,
    complaint,
    digest_of,
    file_size_limit,
    half_written,
    run,
    write_whole_files,
)

LONGEST = 60  # seconds that a case may take

ODD_TEXTS = [  # what is put into cells and between bytes
    "", " ", "\0", "\r", "\x0b", "\x85", "\u2028", "\ufeff", "\t", ",", '"', "'", ">", "#", "\\", "%s", "{}",
    "$^{2$", "<!--<script>", "=1+1", "-1", "0", "1e999", "nan", "inf", "NA", "null",
    "9" * 5000, "x" * 200_000,
    str(2**31), str(2**63), "\u0663", "0x10", "1_000", "../x", "/", ".", "chr1", "END=5", "<DEL>", "*",
]  # fmt: skip
ODD_VALUES = [
    None, True, 0, -1, 1.5, 1e308, 10**30, float("nan"), "", "x", "9" * 5000, [], [1], [[[]]], {}, {"a": 1},
    {"a": {"b": []}}, "../x", "$^{2$",
]  # fmt: skip


# ------------------------------------------------------------------------------------------ changes


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, remove, double or insert some bytes."""
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice((1, 2, 8, 40, 500)))
    piece = content[start:end]
    return rng.choice(
        (
            content[:start] + bytes(byte ^ (1 << rng.randrange(8)) for byte in piece) + content[end:],
            content[:start],
            content[start:],
            content[:start] + content[end:],
            content[:end] + piece + content[end:],
            content[:start] + rng.randbytes(len(piece)) + content[end:],
            content[:start] + rng.choice(ODD_TEXTS).encode() + content[end:],
        )
    )


def change_lines(content: bytes, rng: random.Random) -> bytes:
    """Remove, double, swap or join lines, or change a cell of one."""
    lines = content.split(b"\n")
    i = rng.randrange(len(lines))
    j = rng.randrange(len(lines))
    separator = b"\t" if b"\t" in content else b","
    cells = lines[i].split(separator)
    kind = rng.randrange(6)
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(j, lines[i])
    elif kind == 2:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 3:
        lines[i] += rng.choice((b"\r", separator, b" ", b""))
    elif kind == 4:
        del cells[rng.randrange(len(cells))]
        lines[i] = separator.join(cells)
    else:
        cells[rng.randrange(len(cells))] = rng.choice(ODD_TEXTS).encode()
        lines[i] = separator.join(cells)
    return b"\n".join(lines)


def change_json(content: bytes, rng: random.Random) -> bytes:
    """Change or remove a value somewhere inside."""
    root = {"": json.loads(content)}
    holder = root
    key: str | int = ""
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    if key != "" and rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(ODD_VALUES)
    return json.dumps(root[""]).encode()


def repack(change: Callable, path: Path, rng: random.Random) -> None:
    """Change the text inside a packed file."""
    content = change(gzip.decompress(path.read_bytes()), rng)
    if path.suffix == ".bgz":
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(content)
    else:
        path.write_bytes(gzip.compress(content))


def damage_at_random(path: Path, rng: random.Random) -> None:
    """Change a file once; one that was changed before may be none of its kind any more."""
    change = rng.choice((change_bytes, change_lines))
    is_packed = path.suffix in (".gz", ".bgz")
    try:
        if path.suffix == ".json" and rng.random() < 0.8:
            path.write_bytes(change_json(path.read_bytes(), rng))
        elif is_packed and rng.random() < 0.6:
            repack(change, path, rng)
        elif is_packed or path.suffix in (".parquet", ".safetensors"):
            path.write_bytes(change_bytes(path.read_bytes(), rng))
        else:
            path.write_bytes(change(path.read_bytes(), rng))
    except (ValueError, OSError, EOFError, ArithmeticError, RecursionError, zlib.error):
        path.write_bytes(change_bytes(path.read_bytes(), rng))


# ----------------------------------------------------------------------------------------- outcomes


def plain_sequences(path: Path) -> list[tuple[str, str]] | None:
    """Read FASTA or one sequence a line in the most obvious way; None of other files."""
    if path.suffix not in (".fa", ".txt"):
        return None
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    if path.suffix == ".txt":
        return [(str(i), line.strip()) for i, line in enumerate(lines[: -1 if not lines[-1] else None])]
    records: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith(">"):
            records.append(((line[1:].split() or [""])[0], ""))
        elif records:
            records[-1] = (records[-1][0], records[-1][1] + line)
    return records


def wrong_scores(files: Path, reader: Reader) -> str | None:
    """Compare the table of `score` with a plain reading."""
    expected = plain_sequences(files / reader.file)
    if expected is None:
        return None
    table = pd.read_csv(files / "s.tsv", sep="\t", dtype={"id": str}, keep_default_na=False)
    found = list(zip(table["id"].str.removeprefix("'"), table["length"], strict=True))
    if found != [(name, len(sequence)) for name, sequence in expected]:
        return "other sequences than in the file"
    return None


def failure(reader: Reader, files: Path, before: dict, outcome: Outcome, seconds: float) -> str | None:
    """What is wrong with what a command did to a damaged file; None if nothing is."""
    after = digest_of(files)
    if seconds > LONGEST:
        return f"{seconds:.0f} seconds"
    if half_written(after):
        return "half-written files"
    if outcome.code == 0:
        is_score = reader.command.startswith("score") and "model" not in reader.file
        return wrong_scores(files, reader) if is_score else None
    if reader not in READERS:
        return complaint(outcome, reader.command, "")  # some files may be whole
    if not reader.trains and after != before:
        return "something was written"
    return complaint(outcome, reader.command, "")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="text that the name of a reader holds, as `variants v.vcf`"
    )
    parser.add_argument("--work", help="folder for files and failures; by default a temporary one")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    work = Path(args.work or tempfile.mkdtemp(prefix="damage-"))
    whole = work / "whole"
    if not whole.exists():
        write_whole_files(whole)

    # Where a command goes on after the damage, a case takes seconds: fewer of them.
    readers = [reader for reader in READERS if args.only in reader.id]
    weights = [1 if reader.trains else 40 for reader in readers]
    rng = random.Random(args.seed)
    full_disks = [Reader("model/config.json", command) for command in COMMANDS if args.only in command]
    end = time.monotonic() + args.seconds
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    while time.monotonic() < end:
        reader = rng.choices(readers, weights)[0]
        limit = resource.RLIM_INFINITY
        if full_disks and rng.random() < 0.1:
            reader = rng.choice(full_disks)
            limit = int(10 ** rng.uniform(0, 5))
        files = work / "files"
        shutil.rmtree(files, ignore_errors=True)
        shutil.copytree(whole, files, symlinks=True)
        for _ in range(rng.randint(1, 3) if limit == resource.RLIM_INFINITY else 0):
            damage_at_random(files / reader.file, rng)
        before = digest_of(files)
        start = time.monotonic()
        with file_size_limit(limit):
            outcome = run(reader.command, files, files / "out")
        what = failure(reader, files, before, outcome, time.monotonic() - start)
        number = sum(counts.values())
        counts["succeeded" if outcome.code == 0 else "refused"] += 1
        if what is not None:
            last = outcome.error.strip().splitlines()[-1:]
            failures[f"{reader.id}: {what}: {last}"[:400]] += 1
            kept = work / "failures" / f"{args.seed}-{number}"
            shutil.copytree(files, kept, symlinks=True, dirs_exist_ok=True)
            (kept / "WHAT").write_text(f"{reader.command}\n{what}\n{outcome.code}\n{outcome.error}")
            print(f"{number}: {reader.id}: {what}: {last}"[:400], flush=True)

    shutil.rmtree(work / "files", ignore_errors=True)
    print(f"seed {args.seed}: {dict(counts)}, {sum(failures.values())} failures")
    for text, count in failures.most_common():
        print(f"{count:>5} {text}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
