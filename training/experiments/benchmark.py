"""The paper's classification benchmarks, or your own data: `hyenadna benchmark`.

    hyenadna benchmark --suite genomic-benchmarks --output_dir gb  # from the Hub, 8 sets
    hyenadna benchmark --suite nucleotide-transformer --tasks H3 H4 --model pretrained  # 2 of 18
    hyenadna benchmark --suite gue --tasks human_tf_0 mouse_3  # 2 of 28
    hyenadna benchmark --suite genomic-benchmarks --data_dir .genomic_benchmarks  # a local copy
    hyenadna benchmark --data promoters.csv --seeds 0 1 2 --output_dir mine  # your own set
    hyenadna benchmark genomic_benchmarks.yaml --model pretrained --output_dir gb --resume  # go on
    accelerate launch -m hyenadna benchmark --suite genomic-benchmarks  # on several devices

For each set, seed and fold there is a run of `hyenadna finetune` in its own folder, and simple
baselines on the same rows. `report.md` and `report.png` compare them with the paper's figures. The
recipe `genomic_benchmarks.yaml` has the paper's settings. Without `--suite` and `--data`, the
built-in splice junctions are used.

The validation part is split off the training rows. The test rows are read once, at the end; the
published code validated on them.

A local copy of a suite has a folder for each set, which holds one of these:

- `train` and `test`, each with a folder of text files for each class, as the package
  genomic_benchmarks writes them;
- `train` and `test`, each with a table of coordinates for each class (`positive.csv.gz` with the
  columns region, start, end, strand; 0-based, half-open). This needs `--fasta`;
- FASTA, csv or parquet files, or a clone of the Hub's repository (`train.parquet` beside
  `train.fna`, `data/train-00000-of-00001.parquet`).
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
from datasets import Dataset, DatasetDict, load_dataset

from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile
from hyenadna.genomics.files import part_of_file, read_table, reading
from hyenadna.genomics.intervals import check_interval, whole_numbers
from hyenadna.genomics.labelled import SINGLE_LABEL, LabelledData, load_splice_junctions
from hyenadna.genomics.letters import reverse_complement
from hyenadna.training.finetune import FinetuneArguments, finetune
from hyenadna.training.runs.baselines import fit_baselines
from hyenadna.training.runs.files import write_json
from hyenadna.training.runs.folder import (
    METRICS_FILE,
    SETTINGS_FILE,
    check_output_folder,
    hardware,
    one_writer,
    versions,
)
from hyenadna.training.runs.models import SCRATCH, SHIPPED
from hyenadna.training.runs.settings import SHOWN_OF_TRAINING, names_of, parse_settings, say_next, setting
from hyenadna.training.runs.supervised import classifier_for_trainer, read_data, settings_of

from .report import SETS, write_report

SUITES = ("genomic-benchmarks", "nucleotide-transformer", "gue")
SPLICE = "splice_junctions"


@dataclass
class BenchmarkArguments(FinetuneArguments):
    """Settings of `hyenadna benchmark`, and those of its runs (`hyenadna finetune`)."""

    SHOWN: ClassVar = {
        "the sets": ("suite", "tasks", "data_dir", "fasta", "data", "seeds", "cross_validation"),
        "the model": ("model", "lora_rank", "strands"),
        "training": (*SHOWN_OF_TRAINING, "patience", "baselines"),
        "the run": ("output_dir", "resume"),
    }
    EXAMPLE: ClassVar = "hyenadna benchmark genomic_benchmarks.yaml --tasks human_nontata_promoters"
    NEXT: ClassVar = {
        "hyenadna report {output_dir} OTHER_RUNS --output_dir report": "this beside other runs",
    }

    suite: str | None = setting(None, f"Published sets: {', '.join(SUITES)}.")
    tasks: list[str] = setting([], "Sets of the suite; by default all.")
    data_dir: str | None = setting(
        None, "Local copy of the suite, a folder for each set; by default the Hub."
    )
    fasta: str | None = setting(None, "Genome (FASTA), for sets that are given by their coordinates.")
    seeds: list[int] = setting([0], "A run for each of these, in place of seed.")
    cross_validation: int = setting(
        0, "A run for each of that many folds of the training rows; 0: one split."
    )
    output_dir: str = setting(
        "hyenadna-benchmark", "Folder for everything that the benchmark writes.", decides=False
    )

    def __post_init__(self):
        # A set that is too long for the checkpoint in the package starts from scratch, unless that
        # checkpoint was asked for by name.
        self.chose_model = self.model is not None
        super().__post_init__()
        if self.suite is not None and self.suite not in SUITES:
            raise InputError(f"suite is {self.suite!r}; use one of {', '.join(SUITES)}")
        if self.suite is None and (self.tasks or self.data_dir):
            raise InputError("tasks and data_dir belong to a suite; your own set is --data FILE_OR_FOLDER")
        if self.suite is not None and (self.data or self.validation_data or self.test_data):
            raise InputError(
                "a suite brings its own data: leave out data, validation_data and test_data. For a local "
                "copy of the suite there is data_dir"
            )
        if not self.seeds or min(self.seeds) < 0:
            raise InputError(f"seeds is {self.seeds}; give at least one, and none below 0")
        if self.cross_validation < 0 or self.cross_validation == 1:
            raise InputError(f"cross_validation is {self.cross_validation}; use 0 or at least 2 folds")
        # `fold` and `folds` come with the rows, and choose one fold for a single run.
        if self.folds is not None:
            raise InputError(
                "a benchmark goes through all folds itself: use cross_validation, not folds and fold"
            )
        known = list(SETS["task"][SETS["suite"] == self.suite])
        unknown = [task for task in self.tasks if task not in known]
        if unknown:
            raise InputError(f"tasks: {self.suite} has no set {unknown}; it has {known}")


def planned_tasks(args: BenchmarkArguments) -> list[str]:
    """Return the names of the sets, in the order of the suite."""
    if args.suite is None:
        if args.task:
            return [args.task]
        if args.data:
            return [Path(args.data).resolve().name.partition(".")[0]]
        return [SPLICE]
    known = list(SETS["task"][SETS["suite"] == args.suite])
    return [task for task in known if task in args.tasks or not args.tasks]


def load_task(args: BenchmarkArguments, task: str) -> str | DatasetDict:
    """Return the data of a set: a path for `read_labelled_data`, or a `DatasetDict`.

    Raises:
        InputError: There is no such folder, or it cannot be loaded from the Hub.
    """
    if args.suite is None:
        return args.data or load_splice_junctions()
    row = SETS[SETS["task"] == task].iloc[0]
    if args.data_dir is None:
        return _from_hub(row)
    folder = Path(args.data_dir) / task
    if not folder.is_dir():
        raise InputError(
            f"data_dir: there is no folder {folder}; a local copy has one for each set of {args.suite}"
        )
    # Tables first: a clone of the Hub's repository may hold the same rows as FASTA too.
    for pattern in ("*.parquet", "data/*.parquet", "*.csv", "*.csv.gz"):
        if tables := sorted(folder.glob(pattern)):
            return _from_tables(folder, tables, row)
    tables = sorted(folder.glob("*/*.csv")) + sorted(folder.glob("*/*.csv.gz"))
    if tables:
        return _from_coordinates(folder, tables, args.fasta)
    return str(folder)


def _from_hub(row: pd.Series) -> DatasetDict:
    try:
        data = load_dataset(*row["hub"].split(":"))  # owner/name, or owner/name:configuration
    except Exception as error:  # the Hub client raises a dozen unrelated types
        raise InputError(
            f"{row['hub']} cannot be loaded from the Hub: {type(error).__name__}: {error}. If you have "
            "a local copy, give its folder: --data_dir"
        ) from error
    return _of_one_task(data, row)


def _from_tables(folder: Path, tables: list[Path], row: pd.Series) -> DatasetDict:
    parts = {}
    for path in tables:
        if part := part_of_file(path):
            parts.setdefault(part, []).append(read_table(path))
    if "train" not in parts:
        raise InputError(f"{folder} has no table of train; it has {[path.name for path in tables]}")
    # A part may be split over several files, `train-00000-of-00002.parquet` and so on.
    joined = {part: pd.concat(pieces, ignore_index=True) for part, pieces in parts.items()}
    datasets = {part: Dataset.from_pandas(table) for part, table in joined.items()}
    return _of_one_task(DatasetDict(datasets), row)


def _of_one_task(data: DatasetDict, row: pd.Series) -> DatasetDict:
    """Keep the rows of one set, and call its columns `sequence` and `label`."""
    # Some suites publish one table for all sets, with a column that tells them apart.
    if "task" in data["train"].column_names:
        data = data.filter(
            lambda tasks: [task == row["task"] for task in tasks], batched=True, input_columns="task"
        )
        if not len(data["train"]):
            raise InputError(f"{row['task']}: no row of its table has this name in the column `task`")
    # The suites call these columns differently; `benchmark_sets.csv` knows how.
    names = {row[f"{name}_column"]: name for name in ("sequence", "label")}
    return DatasetDict(
        {
            part: rows.rename_columns({k: v for k, v in names.items() if k in rows.column_names})
            for part, rows in data.items()
        }
    )


def _from_coordinates(folder: Path, tables: list[Path], fasta: str | None) -> DatasetDict:
    """Read tables of coordinates, `PART/CLASS.csv(.gz)`, and take their sequences from a genome."""
    if fasta is None:
        raise InputError(
            f"{tables[0]} and others hold coordinates: their sequences need the genome, --fasta FILE"
        )
    # The folder names the part, the file the class: `train/positive.csv.gz`.
    genome = SequenceFile(fasta)
    parts = {}
    for path in tables:
        label = path.name.partition(".")[0]
        rows = parts.setdefault(path.parent.name, {"sequence": [], "label": []})
        if label in rows["label"]:
            raise InputError(f"{path.parent} holds the class {label!r} twice; one of them is {path.name}")
        sequences = _sequences_of_table(path, genome)
        rows["sequence"] += sequences
        rows["label"] += [label] * len(sequences)
    return DatasetDict({part: Dataset.from_dict(rows) for part, rows in parts.items()})


def _sequences_of_table(path: Path, genome: SequenceFile) -> list[str]:
    """Return the sequences that a table lists: region, start, end (0-based, half-open), strand."""
    with reading(path):
        table = pd.read_csv(path, dtype={"region": str})
    missing = {"region", "start", "end", "strand"} - set(table)
    if missing:
        raise InputError(f"{path} has no column {sorted(missing)}; it has {list(table)}")

    regions = table["region"].fillna("")
    starts = whole_numbers(table, "start", path)
    ends = whole_numbers(table, "end", path)
    sequences = []
    for i, (region, start, end, strand) in enumerate(
        zip(regions, starts, ends, table["strand"], strict=True)
    ):
        where = f"{path}: row {i}"
        if strand not in ("+", "-", "."):
            raise InputError(f"{where}: the strand is {strand!r}; expected +, - or .")
        number = genome.find(region, where)
        check_interval(genome, number, start, end, where)
        sequence = genome.letters(number, start, end)
        if strand == "-":
            sequence = reverse_complement(sequence)
        sequences.append(sequence)
    return sequences


def _run_arguments(args: BenchmarkArguments, task: str, data, name: str, seed: int, fold: int | None):
    """Return the settings of one run: those of the benchmark with its own folder, seed and fold."""
    settings = {name: getattr(args, name) for name in names_of(FinetuneArguments)}
    settings |= {
        "task": task,
        "output_dir": str(Path(args.output_dir, task, name)),
        "seed": seed,
        "resume": True,
        "model": args.model or SCRATCH,
        "baselines": False,  # the benchmark fits more of them, once for all seeds
    }
    # A set from the Hub is passed as an object, and only a path is a setting.
    settings |= {"data": None, "fold": None, "folds": None}
    if isinstance(data, str):
        settings["data"] = data
    if fold is not None:
        settings |= {"fold": fold, "folds": args.cross_validation}
    by_default = args.model is None or (args.model == SHIPPED and not args.chose_model)
    if args.suite is not None and by_default and args.max_seq_len is None:
        longest = int(SETS.loc[SETS["task"] == task, "longest"].iloc[0])
        if longest > 1024:  # what a model from scratch, and the checkpoint in the package, reads
            settings |= {"model": SCRATCH, "max_seq_len": longest + 2}
    return FinetuneArguments(**settings)


def write_baselines(folder: Path, task: str, data: LabelledData, args: FinetuneArguments) -> None:
    """Fit the baselines on the rows of a run, unless `folder/metrics.json` exists already."""
    if (folder / METRICS_FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    results = fit_baselines(data)
    content = {
        "task": task,
        "baselines": results,
        "rows": {part: len(rows) for part, rows in data.parts.items()},
    }
    content |= {
        "hardware": hardware(args.device),
        "versions": versions(),
        "settings": settings_of(args, data),
    }
    write_json(folder / METRICS_FILE, content)


@one_writer
def benchmark(args: BenchmarkArguments) -> str:
    """Do every run that is not finished yet, and return the report as Markdown.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used.
    """
    output = Path(args.output_dir)
    is_main = args.process_index == 0
    tasks = planned_tasks(args)
    settings = {"benchmark": args.suite or tasks[0]}
    if is_main:
        _check_output(output, settings, args.resume)

    # Without cross-validation there is a single split: the fold None.
    folds = list(range(args.cross_validation)) or [None]
    sources = _check_every_task(args, tasks, folds[0])
    for task, seed, fold in itertools.product(tasks, args.seeds, folds):
        name = f"seed{seed}"
        if fold is not None:
            name += f"-fold{fold}"
        run = _run_arguments(args, task, sources[task], name, seed, fold)
        print(f"\n== {task}, {name} ==")
        labelled = _read_task(run, sources[task])
        if is_main:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / SETTINGS_FILE, settings)
            # Once for each fold: another seed has the same rows.
            if args.baselines and labelled.problem_type == SINGLE_LABEL and seed == args.seeds[0]:
                write_baselines(output / task / name.replace(f"seed{seed}", "baselines"), task, labelled, run)
        finetune(run, labelled)
        # After each run: a benchmark may take days, and may be stopped.
        if is_main:
            report = write_report([output], output)
    if not is_main:
        return ""
    print(f"\n{report}\nreport.md and report.png are in {output}")
    return report


def _check_output(output: Path, settings: dict, resume: bool) -> None:
    if not (output / SETTINGS_FILE).exists():
        check_output_folder(output, settings, resume=False)
    elif not resume:  # with --resume, each run checks its own folder
        raise InputError(
            f"output_dir {str(output)!r} holds a benchmark; choose another folder, or go on with --resume"
        )


def _check_every_task(
    args: BenchmarkArguments, tasks: list[str], fold: int | None
) -> dict[str, str | DatasetDict]:
    """Load and check every set before the first run, so that no error comes after hours of work."""
    sources = {}
    for task in tasks:
        sources[task] = load_task(args, task)
        run = _run_arguments(args, task, sources[task], "", args.seeds[0], fold)
        print(f"checking {task}")
        classifier_for_trainer(run, _read_task(run, sources[task]))
    return sources


def _read_task(run: FinetuneArguments, source: str | DatasetDict) -> LabelledData:
    if run.data is not None:  # which is the source
        return read_data(run)
    return read_data(run, source)


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna benchmark` with these arguments (default: those of the command line)."""
    args = parse_settings(BenchmarkArguments, "benchmark", "The paper's classification benchmarks.", argv)
    benchmark(args)
    say_next(args)


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
