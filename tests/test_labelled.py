"""Reading, checking and splitting labelled DNA."""

import gzip
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hyenadna.errors import InputError
from hyenadna.genomics import sources
from hyenadna.genomics.fasta import read_fasta
from hyenadna.genomics.labelled import count_table, load_splice_junctions, read_labelled_data
from hyenadna.genomics.letters import reverse_complement, strand_free


def random_sequences(n: int, length: int = 24, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), length)) for _ in range(n)]


SEQUENCES = random_sequences(40)
LABELS = ["enhancer" if i % 4 else "background" for i in range(40)]  # 30 and 10


def rows_of(data, part: str) -> list[tuple]:
    rows = data.parts[part]
    return [(row["row"], row["sequence"], data.label_names[row["label"]]) for row in rows]


def expected_rows() -> list[tuple]:
    return list(zip(range(40), SEQUENCES, LABELS, strict=True))


def all_rows(data) -> list[tuple]:
    return sorted(row for part in data.parts for row in rows_of(data, part))


def table() -> pd.DataFrame:
    return pd.DataFrame({"sequence": SEQUENCES, "label": LABELS})


def fasta(rows, header) -> str:
    return "".join(
        f">{header.format(i=i, label=label)}\n{s[:10]}\n{s[10:]}\n" for i, (s, label) in enumerate(rows)
    )


# -------------------------------------------------------------------------------------- DNA strings


def test_reverse_complement_by_hand():
    assert reverse_complement("AACGTN") == "NACGTT"
    assert reverse_complement("aacGRy") == "rYCgtt"  # case is kept, R pairs with Y
    assert reverse_complement("BDHVKMSW") == "WSKMBDHV"
    assert reverse_complement(reverse_complement("ACGTRYSWKMBDHVNacgt")) == "ACGTRYSWKMBDHVNacgt"


def test_both_strands_and_both_cases_have_one_spelling():
    assert strand_free("aaCG") == strand_free("CGTT") == strand_free("CGUU") == "AACG"
    assert strand_free("AACG") != strand_free("AACC")


# ------------------------------------------------------------------------------------- every source


def write_csv(folder: Path):
    table().to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def write_tsv_gz(folder: Path):
    table().to_csv(folder / "x.tsv.gz", index=False, sep="\t")
    return folder / "x.tsv.gz"


def write_parquet(folder: Path):
    table().to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


def write_fasta(folder: Path):
    (folder / "x.fa").write_text(fasta(zip(SEQUENCES, LABELS, strict=True), "s{i} {label}"))
    return folder / "x.fa"


def write_fasta_pipe_gz(folder: Path):
    text = fasta(zip(SEQUENCES, LABELS, strict=True), "s{i}|{label}")
    (folder / "x.fasta.gz").write_bytes(gzip.compress(text.encode()))
    return folder / "x.fasta.gz"


def write_fasta_key(folder: Path):
    text = fasta(zip(SEQUENCES, LABELS, strict=True), "s{i} chr1 + label={label}")
    (folder / "x.fna").write_text(text)
    return str(folder / "x.fna")


def make_dataset(folder: Path):
    return Dataset.from_pandas(table())


def make_dataset_with_class_names(folder: Path):
    # the names of the source are not sorted: its indices must not be taken over
    names = ["enhancer", "background"]
    features = Features(sequence=Value("string"), label=ClassLabel(names=names))
    return Dataset.from_dict(
        {"sequence": SEQUENCES, "label": [names.index(v) for v in LABELS]}, features=features
    )


@pytest.mark.parametrize(
    "make",
    [
        write_csv,
        write_tsv_gz,
        write_parquet,
        write_fasta,
        write_fasta_pipe_gz,
        write_fasta_key,
        make_dataset,
        make_dataset_with_class_names,
    ],
)
def test_every_source_gives_the_same_rows(make, tmp_path):
    data = read_labelled_data(make(tmp_path))
    assert data.label_names == ["background", "enhancer"]
    assert data.problem_type == "single_label_classification"
    assert list(data.parts) == ["train", "validation"]
    assert all_rows(data) == expected_rows()


def test_folder_per_class_of_fasta_and_of_text_files(tmp_path):
    for label in set(LABELS):
        (tmp_path / label).mkdir()
        own = [(s, v) for s, v in zip(SEQUENCES, LABELS, strict=True) if v == label]
        (tmp_path / label / "a.fa").write_text(fasta(own[:5], "same_name_in_every_class_{i}"))
        for i, (sequence, _) in enumerate(own[5:]):
            (tmp_path / label / f"{i}.txt").write_text(sequence + "\n")
    data = read_labelled_data(tmp_path)
    got = {(sequence, label) for _, sequence, label in all_rows(data)}
    assert got == set(zip(SEQUENCES, LABELS, strict=True))


def test_folder_with_parts_and_no_own_split(tmp_path):
    for name, rows in {"train": slice(0, 20), "dev": slice(20, 30), "test": slice(30, 40)}.items():
        table()[rows].to_csv(tmp_path / f"{name}.csv", index=False)
    data = read_labelled_data(tmp_path)
    assert {part: len(rows) for part, rows in data.parts.items()} == {
        "train": 20,
        "validation": 10,
        "test": 10,
    }
    assert rows_of(data, "test") == [(i, SEQUENCES[30 + i], LABELS[30 + i]) for i in range(10)]


def test_parts_that_are_folders_of_classes(tmp_path):
    for part, rows in {"train": range(0, 30), "test": range(30, 40)}.items():
        for i in rows:
            folder = tmp_path / part / LABELS[i]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.txt").write_text(SEQUENCES[i])
    data = read_labelled_data(tmp_path)
    assert {s for _, s, _ in rows_of(data, "test")} == set(SEQUENCES[30:])
    assert len(data.parts["train"]) + len(data.parts["validation"]) == 30


def test_separate_validation_and_test_files(tmp_path):
    for name, rows in {"a": slice(0, 20), "b": slice(20, 30), "c": slice(30, 40)}.items():
        table()[rows].to_csv(tmp_path / f"{name}.csv", index=False)
    data = read_labelled_data(tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c.csv")
    assert [len(data.parts[part]) for part in ("train", "validation", "test")] == [20, 10, 10]


def test_hub_id(monkeypatch):
    asked = []

    def fake_load_dataset(name, configuration):
        asked.append((name, configuration))
        return DatasetDict(train=Dataset.from_pandas(table()))

    monkeypatch.setattr(sources, "load_dataset", fake_load_dataset)
    assert all_rows(read_labelled_data("someone/promoters")) == expected_rows()
    assert all_rows(read_labelled_data("someone/tasks:promoters")) == expected_rows()
    assert asked == [("someone/promoters", None), ("someone/tasks", "promoters")]

    def failing_load_dataset(name, configuration):
        raise ConnectionError("no network here")

    monkeypatch.setattr(sources, "load_dataset", failing_load_dataset)
    with pytest.raises(
        InputError, match=r"someone/promoters.*no such file.*ConnectionError: no network here"
    ):
        read_labelled_data("someone/promoters")


def test_other_column_names_ids_and_lower_case(tmp_path):
    renamed = pd.DataFrame(
        {"name": [f"n{i}" for i in range(40)], "dna": [s.lower() for s in SEQUENCES], "y": LABELS}
    )
    renamed.to_csv(tmp_path / "x.csv", index=False)
    data = read_labelled_data(
        tmp_path / "x.csv", sequence_column="dna", label_columns=["y"], id_column="name"
    )
    assert [(row, s.upper(), label) for row, s, label in all_rows(data)] == expected_rows()
    # soft masking is the tokenizer's business
    assert all(s.islower() for _, s, _ in all_rows(data))
    assert all(row["id"] == f"n{row['row']}" for part in data.parts for row in data.parts[part])


def test_numbers_as_labels_sort_as_numbers_and_words_that_pandas_reads_as_missing_stay(tmp_path):
    # 8 .. 11
    numbers = pd.DataFrame({"sequence": SEQUENCES, "label": [str(i % 4 + 8) for i in range(40)]})
    numbers.to_csv(tmp_path / "n.csv", index=False)
    assert read_labelled_data(tmp_path / "n.csv").label_names == ["8", "9", "10", "11"]
    assert read_labelled_data(Dataset.from_pandas(numbers.astype({"label": float}))).label_names == [
        "8",
        "9",
        "10",
        "11",
    ]
    words = pd.DataFrame(
        {"sequence": [*SEQUENCES[:-1], "NAN"], "label": ["NA" if i % 2 else "HA" for i in range(40)]}
    )
    words.to_csv(tmp_path / "w.csv", index=False)
    data = read_labelled_data(tmp_path / "w.csv")
    assert data.label_names == ["HA", "NA"]
    assert all_rows(data)[-1] == (39, "NAN", "NA")


def test_fasta_lines_of_any_length(tmp_path):
    (tmp_path / "x.fa").write_text(">a 1\nAC\n\nACGTAC\nA\n>b 2\nGG\n>c 3\n")
    assert read_fasta(tmp_path / "x.fa") == [("a 1", "ACACGTACA"), ("b 2", "GG"), ("c 3", "")]
    assert [path.name for path in tmp_path.iterdir()] == ["x.fa"]  # no index beside the user's file


def test_regression_and_both_forms_of_multi_label(tmp_path):
    values = np.linspace(-1, 1, 40)
    pd.DataFrame({"sequence": SEQUENCES, "label": values}).to_csv(tmp_path / "r.csv", index=False)
    data = read_labelled_data(tmp_path / "r.csv", problem_type="regression")
    got = {row["row"]: row["label"] for part in data.parts for row in data.parts[part]}
    np.testing.assert_allclose([got[i] for i in range(40)], values, rtol=1e-6)

    bits = np.array([[i % 2, i % 3 == 0] for i in range(40)], dtype=int)
    pd.DataFrame({"sequence": SEQUENCES, "H3": bits[:, 0], "H4": bits[:, 1]}).to_csv(
        tmp_path / "m.csv", index=False
    )
    columns = read_labelled_data(tmp_path / "m.csv", label_columns=["H3", "H4"])
    assert columns.label_names == ["H3", "H4"]
    lists = read_labelled_data(
        Dataset.from_dict({"sequence": SEQUENCES, "label": bits.tolist()}),
        problem_type="multi_label_classification",
    )
    for data in (columns, lists):
        assert data.problem_type == "multi_label_classification"
        got = {row["row"]: row["label"] for part in data.parts for row in data.parts[part]}
        assert [got[i] for i in range(40)] == bits.tolist()


def test_numbers_and_words_of_the_same_labels_agree(tmp_path):
    """Whole numbers as text, integers, floats and booleans name the same classes."""
    bits = [i % 2 for i in range(40)]
    for labels in ([str(b) for b in bits], bits, [float(b) for b in bits], [bool(b) for b in bits]):
        data = read_labelled_data(Dataset.from_dict({"sequence": SEQUENCES, "label": labels}))
        assert data.label_names == ["0", "1"]
        got = {row["row"]: row["label"] for part in data.parts for row in data.parts[part]}
        assert [got[i] for i in range(40)] == bits
    pd.DataFrame({"sequence": SEQUENCES, "label": [f" {b} " for b in bits]}).to_csv(
        tmp_path / "x.csv", index=False
    )
    assert read_labelled_data(tmp_path / "x.csv").label_names == ["0", "1"]


def test_parts_of_a_dataset_dict_in_any_order_and_under_any_usual_name():
    rows = Dataset.from_pandas(table())
    source = DatasetDict(
        test=rows.select(range(30, 40)), valid=rows.select(range(20, 30)), train=rows.select(range(20))
    )
    data = read_labelled_data(source)
    assert list(data.parts) == ["train", "validation", "test"]
    assert rows_of(data, "validation") == [(i, SEQUENCES[20 + i], LABELS[20 + i]) for i in range(10)]


def test_count_table_of_multi_label_and_regression():
    bits = [[i % 2, i % 4 == 0] for i in range(40)]
    source = Dataset.from_dict({"sequence": SEQUENCES, "label": np.array(bits, dtype=int).tolist()})
    with pytest.warns(UserWarning, match="4 of the 4 validation sequences are in the train part"):
        several = read_labelled_data(
            source, source.select(range(4)), problem_type="multi_label_classification"
        )
    lines = [line.split() for line in count_table(several).splitlines()]
    assert lines[1] == ["0", "20", "(50.0%)", "2", "(50.0%)"]
    assert lines[2] == ["1", "10", "(25.0%)", "1", "(25.0%)"]
    numbers = Dataset.from_dict({"sequence": SEQUENCES, "label": np.arange(40.0)})
    text = count_table(read_labelled_data(numbers, problem_type="regression"))
    assert [line.split() for line in text.splitlines()] == [
        ["label", "train", "validation"],
        ["all", "36", "4"],
    ]


# ---------------------------------------------------------------------------------------- the split


def test_split_is_stratified_seeded_and_keeps_double_strands_together():
    base = random_sequences(100, seed=3)
    sequences = [*base, *(reverse_complement(s).lower() for s in base), *base]
    labels = ["a" if i % 4 else "b" for i in range(100)] * 3  # 75 % and 25 % of the groups
    source = Dataset.from_dict({"sequence": sequences, "label": labels})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no leak to warn about
        data = read_labelled_data(source, validation_fraction=0.2, seed=1)
        again = read_labelled_data(source, validation_fraction=0.2, seed=1)
        other = read_labelled_data(source, validation_fraction=0.2, seed=2)
    outside, inside = (
        {strand_free(s) for _, s, _ in rows_of(data, part)} for part in ("validation", "train")
    )
    assert len(outside) == 20
    assert not outside & inside
    assert Counter(label for _, _, label in rows_of(data, "validation")) == {"a": 45, "b": 15}
    assert rows_of(data, "validation") == rows_of(again, "validation") != rows_of(other, "validation")
    assert [row for row, _, _ in rows_of(data, "train")] == sorted(
        row for row, _, _ in rows_of(data, "train")
    )


def test_the_only_sequence_of_a_class_stays_in_training():
    labels = ["rare", *(["a", "b"] * 20)[:39]]
    data = read_labelled_data(Dataset.from_dict({"sequence": SEQUENCES, "label": labels}))
    assert "rare" in {label for _, _, label in rows_of(data, "train")}
    assert "rare" not in {label for _, _, label in rows_of(data, "validation")}


def test_too_few_rows_to_split():
    source = Dataset.from_dict({"sequence": ["ACGT", "AAAA"], "label": ["a", "b"]})
    with pytest.raises(InputError, match=r"2 different sequences of 2 classes.*validation_data"):
        read_labelled_data(source)


def test_leaks_and_disagreeing_twins_are_counted(tmp_path):
    train = Dataset.from_dict({"sequence": SEQUENCES[:30], "label": LABELS[:30]})
    leaked = [SEQUENCES[0], reverse_complement(SEQUENCES[1]), SEQUENCES[2].lower(), *SEQUENCES[33:]]
    test = Dataset.from_dict({"sequence": leaked, "label": LABELS[30:]})
    with pytest.warns(UserWarning, match="3 of the 10 validation sequences are in the train part"):
        read_labelled_data(train, validation_data=test)
    twins = Dataset.from_dict({"sequence": [*SEQUENCES, SEQUENCES[0]], "label": [*LABELS, "enhancer"]})
    with pytest.warns(UserWarning, match="1 sequences are in the train part more than once.*first is row 0"):
        read_labelled_data(
            twins, validation_data=train.select(range(20, 30)).map(lambda row: {"sequence": "A" * 9})
        )


def test_count_table_shows_the_imbalance():
    text = count_table(read_labelled_data(Dataset.from_pandas(table()), validation_fraction=0.25))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["label", "train", "validation"]
    background, enhancer = lines[1], lines[2]
    assert background[0] == "background" and int(background[1]) + int(background[3]) == 10
    assert enhancer[0] == "enhancer" and int(enhancer[1]) + int(enhancer[3]) == 30
    assert lines[3] == ["all", "30", "10"]
    ratio = int(enhancer[1]) / int(background[1])
    assert lines[4][-1] == f"{ratio:.1f}"


# ---------------------------------------------------------------------------------------- bad input


def frame(**changes) -> pd.DataFrame:
    """A good table with some cells replaced: `frame(sequence={3: ""})`."""
    content = pd.DataFrame(
        {"id": [f"r{i}" for i in range(40)], "sequence": SEQUENCES, "label": LABELS}, dtype=object
    )
    for column, cells in changes.items():
        for row, value in cells.items():
            content.at[row, column] = value
    return content


BAD_TABLES = {
    "empty sequence": (frame(sequence={3: ""}), "sequence of row 3 is empty"),
    "a letter that is none": (frame(sequence={4: "ACG-T"}), "sequence of row 4 holds '-' at position 3"),
    "protein": (frame(sequence={5: "MKLVE"}), "sequence of row 5 holds 'L' at position 2"),
    "empty label": (frame(label={6: ""}), "label of row 6 is missing"),
    "NaN label": (frame(label={7: "NaN"}), "label of row 7 is missing"),
    "duplicate ids": (frame(id={9: "r2"}), r"id 'r2' is in rows \[2, 9\]"),
    "one class only": (frame(label=dict.fromkeys(range(40), "x")), "every row has the label 'x'"),
    "no rows": (frame().iloc[:0], "has no rows"),
    "missing sequence column": (
        frame().rename(columns={"sequence": "seq"}),
        r"no column 'sequence'; it has \['id', 'seq'",
    ),
    "missing label column": (frame().drop(columns="label"), "no column 'label'.*label_column"),
    "numbers as classes": (
        frame(label={i: i / 7 for i in range(40)}),
        "40 different labels in 40 rows.*regression",
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_refused_with_file_row_and_value(name, tmp_path):
    content, message = BAD_TABLES[name]
    path = tmp_path / "bad.csv"
    content.to_csv(path, index=False)
    with pytest.raises(InputError, match=f"bad.csv.*{message}"):
        read_labelled_data(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize("value", [None, 7, 1.5, float("nan"), ["A"], b"ACGT"])
def test_sequences_that_are_no_text(value, tmp_path):
    content = pd.DataFrame({"sequence": [value, value], "label": ["a", "b"]})
    with pytest.raises(InputError, match=r"sequence of row 0 is .*not text"):
        read_labelled_data(Dataset.from_pandas(content))


def test_labels_that_no_training_row_has(tmp_path):
    train, test = frame(), frame(label={31: "promoter"}).iloc[30:]
    train.to_csv(tmp_path / "train.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)
    message = r"test.csv: row 1 has the label 'promoter'.*known labels are \['background', 'enhancer'\]"
    with pytest.raises(InputError, match=message):
        read_labelled_data(tmp_path / "train.csv", test_data=tmp_path / "test.csv")


def test_hidden_labels_of_the_hub():
    features = Features(sequence=Value("string"), label=ClassLabel(names=["a", "b"]))
    source = Dataset.from_dict({"sequence": SEQUENCES[:4], "label": [0, 1, 0, 1]}, features=features)
    hidden = Dataset.from_dict({"sequence": SEQUENCES[4:6], "label": [0, -1]}, features=features)
    with pytest.raises(InputError, match="label of row 1 is missing"):
        read_labelled_data(source, validation_data=hidden)


def test_an_infinite_label_is_a_class_of_its_own():
    data = Dataset.from_dict({"sequence": SEQUENCES[:6], "label": [0.0, 1.0, float("inf")] * 2})
    assert read_labelled_data(data, validation_data=data.select([2])).label_names == ["0", "1", "inf"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"\xff\xfe\x00\x01", "cannot be read as csv"),
        ("x.csv", b"sequence,label\nACGT,a,b\nACGG,b,a\n", "cannot be read as csv"),
        ("x.csv.gz", b"not gzip", "cannot be read as csv.gz"),
        ("x.parquet", b"not parquet", "cannot be read as parquet"),
        ("x.fa", b"ACGT\n>a b\nACGT\n", "line 1 comes before the first header"),
        ("x.fa.gz", b"\x1f\x8bnot", "cannot be read"),
        ("x.fa", b">a b c\nACGT\n", "no label in the header '>a b c'"),
        ("x.fa", b">a\nACGT\n", "no label in the header '>a'"),
        ("x.fa", b">a x\nAC\n>b y\n\n>c x\nGG\n", "sequence of row 1 is empty"),
        ("x.fa", b">a x\nAC\n>a y\nGG\n", "id 'a' is in rows"),
        ("x.xlsx", b"", "unknown kind of file"),
    ],
)
def test_unreadable_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        read_labelled_data(tmp_path / name)


def test_sources_that_do_not_exist_or_hold_nothing(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        read_labelled_data(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="no such file or folder"):
        read_labelled_data("./nothing/of/this")
    with pytest.raises(InputError, match="expected train/dev/test files"):
        read_labelled_data(tmp_path)
    with pytest.raises(InputError, match="must be a path"):
        read_labelled_data(["ACGT"])
    with pytest.raises(InputError, match=r"parts with the names \['extra'\]"):
        read_labelled_data(DatasetDict(extra=Dataset.from_pandas(table())))
    with pytest.raises(InputError, match="no training part"):
        read_labelled_data(DatasetDict(test=Dataset.from_pandas(table())))
    with pytest.raises(InputError, match="must be one part"):
        both = DatasetDict(train=Dataset.from_pandas(table()), test=Dataset.from_pandas(table()))
        read_labelled_data(Dataset.from_pandas(table()), test_data=both)


def test_a_part_that_stands_there_twice(tmp_path):
    for name in ("dev.csv", "validation.csv", "train.csv"):
        table().to_csv(tmp_path / name, index=False)
    with pytest.raises(InputError, match="holds the validation part twice"):
        read_labelled_data(tmp_path)


def test_bad_numbers_and_multi_labels():
    def read(labels, **settings):
        return read_labelled_data(Dataset.from_dict({"sequence": SEQUENCES[:3], **labels}), **settings)

    with pytest.raises(InputError, match="label of row 1 is 'high', not a finite number"):
        read({"label": ["1", "high", "2"]}, problem_type="regression")
    with pytest.raises(InputError, match="label of row 2 is nan"):
        read({"label": [1.0, 2.0, float("nan")]}, problem_type="regression")
    with pytest.raises(InputError, match="label of row 0 is inf"):
        read({"label": [float("inf"), 2.0, 1.0]}, problem_type="regression")
    with pytest.raises(InputError, match=r"label 1 of row 2 is 3.0; a multi-label is 0 or 1"):
        read({"a": [0, 1, 0], "b": [1, 1, 3]}, label_columns=["a", "b"])
    with pytest.raises(InputError, match=r"row 1 .*equally long"):
        read({"label": [[0, 1], [1], [1, 1]]}, problem_type="multi_label_classification")
    with pytest.raises(InputError, match="different numbers of labels"):
        short = Dataset.from_dict({"sequence": SEQUENCES[3:4], "label": [[1]]})
        read({"label": [[0, 1]] * 3}, problem_type="multi_label_classification", validation_data=short)


def test_bad_settings():
    source = Dataset.from_pandas(table())
    with pytest.raises(InputError, match="problem_type is 'ranking'"):
        read_labelled_data(source, problem_type="ranking")
    with pytest.raises(InputError, match=r"validation_fraction is 1.5"):
        read_labelled_data(source, validation_fraction=1.5)
    with pytest.raises(InputError, match="takes one label column, got 2"):
        read_labelled_data(source, label_columns=["a", "b"], problem_type="regression")


# --------------------------------------------------------------------------------- splice junctions


def test_splice_junctions_are_what_their_description_says():
    data = load_splice_junctions()
    names = data["train"].features["label"].names
    counts = {part: Counter(names[label] for label in rows["label"]) for part, rows in data.items()}
    assert counts["train"] == {"EI": 543, "IE": 538, "N": 1322}
    assert counts["test"] == {"EI": 136, "IE": 134, "N": 331}
    sequences = {part: rows["sequence"][:] for part, rows in data.items()}
    everything = sequences["train"] + sequences["test"]
    assert len(set(everything)) == 3004 and {len(s) for s in everything} == {60}
    assert sum(bool(set(s) - set("ACGT")) for s in everything) == 15
    assert len(set(data["train"]["id"]) | set(data["test"]["id"])) == 3004

    def stretches(rows):
        windows = {s[i : i + 30] for s in rows for i in range(31)}
        return {window for window in windows if "N" * 10 not in window}

    seen, held_out = stretches(sequences["train"]), stretches(sequences["test"])
    assert not held_out & (seen | {reverse_complement(window) for window in seen})


def test_splice_junctions_have_the_biology_in_the_middle():
    rows = load_splice_junctions()["train"]
    donors = [row["sequence"] for row in rows if row["label"] == 0]
    acceptors = [row["sequence"] for row in rows if row["label"] == 1]
    assert np.mean([s[30:32] == "GT" for s in donors]) > 0.97  # the intron begins with GT
    assert np.mean([s[28:30] == "AG" for s in acceptors]) > 0.97  # and ends with AG
