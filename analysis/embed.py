"""Embeddings of sequences, a classifier on them, their picture: `hyenadna embed --model CHECKPOINT --data genes.fa`.

    hyenadna embed --model pretrained --data promoters.csv --output_dir embeddings
    hyenadna embed --model pretrained --gtf genes.gtf.gz --fasta hg38.fa --classifier boosted_trees   # genes by biotype
    hyenadna embed biotypes.yaml --model pretrained --data transcripts.fa --picture tsne              # the paper's
    accelerate launch -m hyenadna embed --model pretrained --data promoters.csv              # several devices

An embedding is the mean, the last or the maximum of a layer's output over the positions of a sequence. What is longer
than `--chunk` (by default what the model reads) is cut into chunks of that length, whose embeddings are averaged, each
by its length, as for the paper's biotypes (arXiv 2306.15794). The output folder gets `embeddings.parquet` (or `.npz`);
with `--classifier` also its cross-validated F1 in `metrics.json` (rows of the same gene, or of the same DNA on either
strand, are in one fold), and with `--picture` a map of two dimensions in `embeddings.png` and `embeddings.html`, one
file that needs no network.

    from hyenadna.analysis.embed import embed
    embed(model, ["ACGTTG", "GGCA"], pooling="mean")          # (2, d_model), float32; the model stays as it was
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hyenadna import HyenaDNAModel
from hyenadna.errors import InputError
from hyenadna.genomics.fasta import SequenceFile
from hyenadna.genomics.genes import GeneSequences, read_genes
from hyenadna.genomics.labels import check_sequences, label_text
from hyenadna.genomics.letters import SOFT_MASKED, VOCABULARY, encode
from hyenadna.genomics.sources import has_labels, read_parts
from hyenadna.genomics.splits import dna_keys
from hyenadna.inputs_hyenadna import pool
from hyenadna.training.runs.files import write_json, write_whole
from hyenadna.training.runs.folder import (
    METRICS_FILE,
    SETTINGS_FILE,
    check_output_folder,
    hardware,
    versions,
)
from hyenadna.training.runs.models import load_checkpoint
from hyenadna.training.runs.pictures import write_confusion_matrix
from hyenadna.training.runs.settings import parse_settings, setting

from .embedding_map import METHODS, check_map, draw_map, map_to_plane, write_html
from .score import read_sequences

POOLINGS, CLASSIFIERS = ("mean", "last", "max"), ("logistic", "boosted_trees")
_SHARD = 2**22  # bases between two files of unfinished work
# Settings on which the vectors of an unfinished run depend; the others may change.
_OF_VECTORS = ("model", "pooling", "layer", "chunk", "data_sha256")


@dataclass
class EmbedArguments:
    """Settings of `hyenadna embed`."""

    model: str | None = setting(None, "Checkpoint: a folder or an id on the Hub.")
    data: str | None = setting(None, "csv, tsv, parquet or FASTA file, or folder, with labels or without.")
    gtf: str | None = setting(None, "GTF or GFF file, in place of data: its genes, labelled by biotype.")
    fasta: str | None = setting(None, "Genome of the genes.")
    feature: str = setting("gene", "Feature of the GTF or GFF file.")
    biotypes: list[str] = field(default_factory=list, metadata={"help": "Biotypes to use; by default all."})
    min_rows: int = setting(10, "For classifier and picture: leave out classes with fewer rows.")
    max_rows: int | None = setting(None, "Draw so many rows of each class at most.")
    sequence_column: str = setting("sequence", "Column with the sequences.")
    label_column: str = setting("label", "Column with the labels, if it is there.")
    id_column: str = setting("id", "Column with names of the rows, if it is there.")
    pooling: str = setting("mean", f"{', '.join(POOLINGS)}, over the positions of a sequence or chunk.")
    layer: int = setting(-1, "0: the embeddings of the letters, i: block i; -1: the last, after the final norm.")
    chunk: int | None = setting(None, "Bases to read at a time; by default as many as the model reads.")
    batch_bases: int = setting(2**16, "Bases in one batch on each device, padding included.")
    output_format: str = setting("parquet", "parquet or npz.")
    classifier: str | None = setting(None, "Classifier to cross-validate: logistic or boosted_trees.")
    folds: int = setting(5, "Folds of the cross-validation.")
    picture: str | None = setting(None, "Map of two dimensions: tsne, pca, or umap if it is installed.")
    seed: int = setting(0, "Of the folds, the draw and the map.")
    use_cpu: bool = setting(False, "Leave a GPU alone.")
    resume: bool = setting(False, "Go on with an interrupted run in output_dir.")
    output_dir: str = setting("hyenadna-embeddings", "Folder for everything that the run writes.")

    def __post_init__(self):
        for name, known in (("pooling", POOLINGS), ("output_format", ("parquet", "npz"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}")
        for name, known in (("classifier", CLASSIFIERS), ("picture", METHODS)):
            if getattr(self, name) not in (None, *known):
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}")
        if self.model is None or (self.data is None) == (self.gtf is None):
            raise InputError("embed needs a checkpoint (model), and sequences: either data, or gtf and fasta")
        if self.gtf is not None and self.fasta is None:
            raise InputError("the genes of a GTF file need their genome: fasta")
        if self.batch_bases < 1 or self.folds < 2 or self.min_rows < 1 or (self.chunk is not None and self.chunk < 1):
            raise InputError("batch_bases, chunk and min_rows must be at least 1, and folds at least 2")


# ---------------------------------------------------------------------------------------------- embeddings


def chunks_of(lengths: Sequence[int], chunk: int) -> np.ndarray:
    """Cut sequences into pieces `(n, 3)`: sequence, start, end. All of a sequence are as equal in length as can be.

    A last piece of a few bases would have a say of its own in a maximum or in a last position.
    """
    rows = []
    for i, length in enumerate(lengths):
        pieces = -(-length // chunk)
        edges = np.arange(pieces + 1) * length // pieces
        rows += [(i, start, end) for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def batches_of(pieces: np.ndarray, batch_bases: int, wanted: np.ndarray | None = None) -> list[np.ndarray]:
    """Return the numbers of pieces of similar length, the longest first, in batches of at most `batch_bases` bases."""
    sizes, batches = pieces[:, 2] - pieces[:, 1], []
    order = np.argsort(-sizes, kind="stable")
    order = order if wanted is None else order[wanted[order]]
    while len(order):
        count = max(1, batch_bases // int(sizes[order[0]]))
        batches.append(order[:count])
        order = order[count:]
    return batches


@torch.inference_mode()
def _pooled(
    model: PreTrainedModel, sequences: Sequence[str], batches: Iterable[np.ndarray], pieces: np.ndarray, how: dict
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the numbers of pieces and their embeddings, float32 `(pieces, d_model)`, batch by batch."""
    backbone, layer = model.base_model, how["layer"]
    inner = layer not in (-1, model.config.n_layer)
    for numbers in batches:
        sizes = torch.from_numpy(pieces[numbers, 2] - pieces[numbers, 1])
        ids = torch.full((len(numbers), int(sizes.max())), VOCABULARY["[PAD]"])
        for k, (sequence, start, end) in enumerate(pieces[numbers].tolist()):
            letters = encode(sequences[sequence][start:end]) % SOFT_MASKED
            ids[k, : end - start] = torch.from_numpy(letters.astype(np.int64))
        mask = torch.arange(ids.shape[1]) < sizes[:, None]
        ids, mask = ids.to(model.device), mask.to(model.device)
        outputs = backbone(input_ids=ids, attention_mask=mask.long(), output_hidden_states=inner)
        states = outputs.hidden_states[layer] if inner else outputs.last_hidden_state
        yield numbers, pool(states, mask, how["pooling"]).float().cpu().numpy()


def embed(
    model: PreTrainedModel,
    sequences: Sequence[str],
    *,
    pooling: str = "mean",
    layer: int = -1,
    chunk: int | None = None,
    batch_bases: int = 2**16,
    progress: bool = False,
) -> np.ndarray:
    """Return an embedding of each sequence, float32 `(sequences, d_model)`.

    Args:
        model: Any HyenaDNA model, with a head or without; it is left as it was.
        sequences: Of IUPAC letters, none empty.
        pooling: `"mean"`, `"last"` or `"max"` over the positions.
        layer: 0: the embeddings of the letters; i: block i; -1 or `n_layer`: the last, after the final norm.
        chunk: Bases to read at a time, by default `max_seq_len`; the embeddings of the chunks of a longer sequence are
            averaged, each weighted by its length.
        batch_bases: Bases in one batch, padding included.
        progress: Show a progress bar.

    Raises:
        InputError: A sequence is empty or has other letters, or a setting does not fit the model.
    """
    if isinstance(sequences, str):
        raise InputError("sequences is one text; embed takes a list of them: [text]")
    sequences = list(sequences)  # a column of a table counts by its index, which may have another order
    lengths = [len(sequence) for sequence in sequences]
    _check(model.config, lengths, pooling, layer, chunk)
    pieces = chunks_of(lengths, chunk or model.config.max_seq_len)
    vectors = np.zeros((len(pieces), model.config.d_model), dtype=np.float32)
    modes = [(module, module.training) for module in model.modules()]  # parts may be frozen in another mode
    model.eval()
    try:
        with tqdm(total=sum(lengths), unit="base", unit_scale=True, disable=not progress) as bar:
            batches = batches_of(pieces, batch_bases)
            for numbers, found in _pooled(model, sequences, batches, pieces, {"layer": layer, "pooling": pooling}):
                vectors[numbers] = found
                bar.update(int((pieces[numbers, 2] - pieces[numbers, 1]).sum()))
    finally:
        for module, training in modes:
            module.training = training
    return average(vectors, pieces, len(lengths))


def _check(config, lengths: Sequence[int], pooling: str, layer: int, chunk: int | None) -> None:
    if pooling not in POOLINGS:
        raise InputError(f"pooling is {pooling!r}; use one of {', '.join(POOLINGS)}")
    if not -1 <= layer <= config.n_layer:
        raise InputError(f"layer is {layer}; the model has {config.n_layer} blocks: 0 to {config.n_layer}, or -1")
    if chunk is not None and not 1 <= chunk <= config.max_seq_len:
        raise InputError(f"chunk is {chunk:,}; the model reads 1 to max_seq_len={config.max_seq_len:,} bases at a time")
    if not len(lengths) or min(lengths) == 0:
        raise InputError(f"sequence {list(lengths).index(0)} is empty" if len(lengths) else "there are no sequences")


def average(vectors: np.ndarray, pieces: np.ndarray, count: int) -> np.ndarray:
    """Average the embeddings of the pieces of each sequence, weighted by their lengths, float32 `(count, d)`."""
    sizes = (pieces[:, 2] - pieces[:, 1]).astype(np.float64)
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, pieces[:, 0], vectors * sizes[:, None])
    return (sums / np.bincount(pieces[:, 0], sizes, minlength=count)[:, None]).astype(np.float32)


# ---------------------------------------------------------------------------------------------- the command


def read_rows(args: EmbedArguments) -> tuple[list[str], Sequence[str], list[int], list[str] | None]:
    """Return ids, sequences, their lengths, and labels if there are any; rare and unwanted classes are left out.

    Raises:
        InputError: The file or folder cannot be read, or nothing of it is left.
    """
    if args.gtf is not None:
        genome = SequenceFile(args.fasta)
        genes = read_genes(args.gtf, genome, args.feature)
        known = sorted({gene.biotype for gene in genes})
        unknown = sorted(set(args.biotypes) - set(known))
        if unknown:
            raise InputError(f"{args.gtf} has no biotype {unknown}; it has {known}")
        genes = [gene for gene in genes if gene.biotype in args.biotypes or not args.biotypes]
        labels = [gene.biotype for gene in genes]
        kept = _kept(labels, args)
        genes, labels = [genes[i] for i in kept], [labels[i] for i in kept]
        names, lengths = [gene.name for gene in genes], [gene.end - gene.start for gene in genes]
        for gene in genes:
            letters = genome.read(genome.number[gene.chromosome], gene.start, gene.end)
            genome.check_letters(genome.number[gene.chromosome], gene.start, letters)
        return names, GeneSequences(genes, genome), lengths, labels
    if not has_labels(args.data, args.label_column):
        names, sequences = read_sequences(args.data, args.sequence_column, args.id_column)
        labels = None
    else:
        columns = (args.sequence_column, (args.label_column,), args.id_column)
        tables, labels = list(read_parts(args.data, columns).values()), []
        for table in tables:
            check_sequences(table.drop(columns="id", errors="ignore"))  # an id may come back
            labels += [label_text(value, row, table) for row, value in enumerate(table["label"])]
        table = pd.concat(tables, ignore_index=True)
        names = table["id"].tolist() if "id" in table else list(map(str, range(len(table))))
        sequences = table["sequence"].tolist()
        kept = _kept(labels, args)
        names, sequences, labels = ([column[i] for i in kept] for column in (names, sequences, labels))
    for i, sequence in enumerate(sequences):
        try:
            encode(sequence)
        except InputError as error:
            raise InputError(f"{args.data}: {names[i]}: {error}") from error
    return names, sequences, [len(sequence) for sequence in sequences], labels


def _kept(labels: list[str], args: EmbedArguments) -> list[int]:
    """Return the rows of the frequent classes, at most `max_rows` of each, in order."""
    labels, rng, kept, rare = np.array(labels), np.random.default_rng(args.seed), [], []
    min_rows = args.min_rows if args.classifier or args.picture else 1
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        if len(rows) < min_rows:
            rare.append(f"{name} ({len(rows)})")
        elif args.max_rows is not None and len(rows) > args.max_rows:
            kept.extend(rng.choice(rows, args.max_rows, replace=False).tolist())
        else:
            kept.extend(rows.tolist())
    if rare:
        more = f" and {len(rare) - 20} more" * (len(rare) > 20)
        print(f"fewer than min_rows={min_rows} rows, and left out: {', '.join(rare[:20])}{more}")
    if not kept:
        raise InputError(f"no class has min_rows={args.min_rows} rows or more")
    return sorted(kept)


def groups_of(sequences: Sequence[str]) -> np.ndarray:
    """Number the rows so that those of the same double-stranded DNA, or of the same gene, have the same number."""
    n, keys = len(sequences), [dna_keys(sequences[i] for i in range(len(sequences)))]
    if isinstance(sequences, GeneSequences):
        keys.append([gene.gene for gene in sequences.genes])
    rows, nodes, size = [], [], n  # a graph: each row and what it shares with others
    for of in keys:
        codes = pd.factorize(np.array(of, dtype=object))[0]
        rows.append(np.arange(n))
        nodes.append(size + codes)
        size += codes.max() + 1
    rows, nodes = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, nodes)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n]


def check_classes(labels: Sequence[str], groups: np.ndarray, folds: int) -> None:
    """Raise `InputError` if there is one class, or one has fewer rows (of a group, one counts) than there are folds."""
    names, counts = np.unique(np.unique(np.column_stack([labels, groups]), axis=0)[:, 0], return_counts=True)
    if len(names) < 2 or counts.min() < folds:
        found = dict(zip(names.tolist(), counts.tolist(), strict=True))
        raise InputError(
            f"a classifier needs two classes and {folds} rows of each (folds), those of the same gene or DNA counted "
            f"once, but there are {found}"
        )


def classify(
    vectors: np.ndarray, labels: Sequence[str], args: EmbedArguments, groups: np.ndarray | None = None
) -> tuple[dict, np.ndarray]:
    """Cross-validate a classifier; return `accuracy`, `f1_weighted`, `f1_macro`, and the predicted labels.

    Args:
        vectors: Embeddings `(rows, d)`.
        labels: Of the rows.
        args: All settings.
        groups: Numbers of the rows; those with the same number are in one fold. See `groups_of`.

    Raises:
        InputError: See `check_classes`.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    check_classes(labels, groups, args.folds)
    if args.classifier == "logistic":
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    else:
        model = HistGradientBoostingClassifier(random_state=args.seed)
    shared = len(np.unique(groups)) < len(groups)
    kind = StratifiedGroupKFold if shared else StratifiedKFold
    folds = kind(args.folds, shuffle=True, random_state=args.seed)
    folds = folds.split(vectors, labels, groups if shared else None)
    predicted = cross_val_predict(model, vectors, labels, cv=list(folds))
    metrics = {"accuracy": float(accuracy_score(labels, predicted))}
    for average_ in ("weighted", "macro"):
        metrics[f"f1_{average_}"] = float(f1_score(labels, predicted, average=average_, zero_division=0))
    return metrics, predicted


def run(args: EmbedArguments) -> np.ndarray:
    """Embed, classify and draw what the settings name; return the embeddings `(rows, d_model)`.

    Every process writes what it has found into the output folder now and then, from where an interrupted run goes on.

    Raises:
        InputError: The data, the checkpoint or the output folder cannot be used; nothing was written then.
    """
    start, state = time.monotonic(), PartialState(cpu=args.use_cpu)
    output, unfinished = Path(args.output_dir), Path(args.output_dir, ".unfinished")
    ids, sequences, lengths, labels = read_rows(args)
    if (args.classifier or args.picture) and labels is None:
        raise InputError(f"{args.data} has no labels ({args.label_column}), which classifier and picture need")
    if args.classifier:  # before the work, not behind it
        groups = groups_of(sequences)
        check_classes(labels, groups, args.folds)
    if args.picture:
        check_map(args.picture, len(ids))
    model, config = load_checkpoint(HyenaDNAModel, args.model, {})
    _check(config, lengths, args.pooling, args.layer, args.chunk)
    pieces = chunks_of(lengths, args.chunk or config.max_seq_len)
    settings = {
        f.name: getattr(args, f.name) for f in fields(args) if f.name not in ("resume", "use_cpu", "output_dir")
    }
    settings["data_sha256"] = _digest(sequences)
    settings["rows_sha256"] = _digest([f"{name}\t{label}" for name, label in zip(ids, labels or ids, strict=True)])
    if state.is_main_process:
        _check_folder(output, settings, args.resume)
    if args.resume and (output / METRICS_FILE).exists():
        print(f"{output} holds this run, and it is finished: nothing to do")
        return _read(output, args.output_format)
    if state.is_main_process:
        unfinished.mkdir(parents=True, exist_ok=True)
        write_json(output / SETTINGS_FILE, settings)
    state.wait_for_everyone()
    vectors, done = np.zeros((len(pieces), config.d_model), dtype=np.float32), np.zeros(len(pieces), dtype=bool)

    def take(shards: Iterable[Path]) -> None:
        for path in shards:
            with np.load(path) as shard:
                vectors[shard["numbers"]], done[shard["numbers"]] = shard["vectors"], True

    take(unfinished.glob("[!.]*.npz"))
    batches = batches_of(pieces, args.batch_bases, ~done)[state.process_index :: state.num_processes]
    total = int(sum((pieces[numbers, 2] - pieces[numbers, 1]).sum() for numbers in batches))
    bar = tqdm(total=total, unit="base", unit_scale=True, disable=not state.is_main_process)
    shard, bases = [], 0
    how = {"layer": args.layer, "pooling": args.pooling}
    for k, (numbers, found) in enumerate(_pooled(model.eval().to(state.device), sequences, batches, pieces, how)):
        shard.append((numbers, found))
        size = int((pieces[numbers, 2] - pieces[numbers, 1]).sum())
        bar.update(size)
        bases += size
        if bases >= _SHARD or k == len(batches) - 1:
            both = {
                name: np.concatenate(of)
                for name, of in zip(("numbers", "vectors"), zip(*shard, strict=True), strict=True)
            }
            path = unfinished / f"{state.process_index}-{numbers[0]}.npz"
            write_whole(path, lambda temporary, both=both: np.savez(temporary, **both))
            shard, bases = [], 0
    bar.close()
    state.wait_for_everyone()
    if not state.is_main_process:
        return vectors
    take(unfinished.glob("[!.]*.npz"))
    embeddings = average(vectors, pieces, len(lengths))
    _write(output, ids, lengths, labels, embeddings, args.output_format)
    result = {
        "task": "biotypes" if args.gtf else Path(args.data).stem,
        "rows": {"cross-validation": len(ids)},
        "metrics": {},
    }
    result |= {"hardware": hardware(state.device, state.num_processes), "versions": versions(), "settings": settings}
    if args.picture:
        title = f"{Path(args.model).name}, {args.pooling} of layer {args.layer}, {args.picture}"
        plane = map_to_plane(embeddings, args.picture, args.seed)
        draw_map(output / "embeddings.png", plane, labels, title)
        write_html(output / "embeddings.html", plane, labels, ids, lengths, title)
    if args.classifier:
        metrics, predicted = classify(embeddings, labels, args, groups)
        names = sorted(set(labels))
        index = {name: i for i, name in enumerate(names)}
        both = [np.array([index[name] for name in of]) for of in (labels, predicted)]
        write_confusion_matrix(output / "confusion_matrix.png", *both, names)
        result |= {"metrics": {"cross-validation": metrics}, "label_names": names}
        majority = {"metrics": {"cross-validation": _majority(labels)}, "seconds": 0.0}
        result["baselines"] = {"most frequent class": majority}
        print("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    result["train_seconds"] = round(time.monotonic() - start, 1)
    write_json(output / METRICS_FILE, result)
    shutil.rmtree(unfinished)
    print(f"{len(ids):,} embeddings of {config.d_model} numbers are in {output}")
    return embeddings


def _majority(labels: Sequence[str]) -> dict[str, float]:
    names, counts = np.unique(labels, return_counts=True)
    guess = [names[counts.argmax()]] * len(labels)
    f1 = {f"f1_{of}": float(f1_score(labels, guess, average=of, zero_division=0)) for of in ("weighted", "macro")}
    return {"accuracy": float(counts.max() / counts.sum()), **f1}


def _digest(sequences: Sequence[str]) -> str:
    content = hashlib.sha256()
    for i in range(len(sequences)):
        content.update(sequences[i].encode() + b"\n")
    return content.hexdigest()


def _check_folder(output: Path, settings: dict, resume: bool) -> None:
    check_output_folder(output, settings, resume, ("model", "data", "gtf", "fasta"))
    if (output / ".unfinished").is_dir() and (output / SETTINGS_FILE).exists():
        if not resume:
            raise InputError(f"output_dir {str(output)!r} holds an interrupted run; go on with it by --resume")
        earlier = json.loads((output / SETTINGS_FILE).read_text())
        changed = [n for n in json.loads(json.dumps(settings)) if earlier.get(n) != settings[n] and n in _OF_VECTORS]
        if changed:
            raise InputError(
                f"output_dir {str(output)!r} holds an interrupted run with another {changed}; choose another"
            )


def _write(output: Path, ids, lengths, labels, embeddings: np.ndarray, kind: str) -> None:
    columns = {"id": ids, "length": lengths, **({} if labels is None else {"label": labels})}
    if kind == "npz":
        arrays = {name: np.array(of) for name, of in columns.items()}
        write_whole(output / "embeddings.npz", lambda path: np.savez(path, **arrays, embedding=embeddings))
        return
    table = pd.DataFrame({**columns, "embedding": list(embeddings)})
    write_whole(output / "embeddings.parquet", lambda path: table.to_parquet(path, index=False))


def _read(output: Path, kind: str) -> np.ndarray:
    if kind == "npz":
        with np.load(output / "embeddings.npz") as content:
            return content["embedding"]
    return np.stack(pd.read_parquet(output / "embeddings.parquet")["embedding"])


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna embed` with these arguments (default: those of the command line)."""
    run(parse_settings(EmbedArguments, "embed", "Embeddings of sequences, and what they tell.", argv))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
