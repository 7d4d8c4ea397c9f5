import gzip
import math
import os
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from Bio.bgzf import BgzfWriter

from hyenadna import HyenaDNAForSequenceClassification, HyenaDNATokenizer
from hyenadna.analysis import variants
from hyenadna.errors import InputError
from hyenadna.genomics.fasta import open_genomes
from hyenadna.genomics.letters import reverse_complement
from hyenadna.genomics.vcf import check_vcf
from hyenadna.training import cli

from .conftest import locked_by_another_process, random_model

GENOME = "".join("ACGT"[i] for i in np.random.default_rng(0).integers(0, 4, 200))
GENOME = GENOME[:100] + "N" * 20 + GENOME[120:]
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
WINDOW = 40


def record(pos, ref, alt, chrom="20", info="."):
    return f"{chrom}\t{pos}\t.\t{ref}\t{alt}\t.\t.\t{info}\n"


def at(pos, size=1):
    """Letters of the genome from a position that counts from 1."""
    return GENOME[pos - 1 : pos - 1 + size]


def other(base):
    return {"A": "C", "C": "G", "G": "T", "T": "A"}[base]


@pytest.fixture(scope="module")
def model():
    return random_model(seed=5)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "g.fa").write_text(f">chr20\n{GENOME}\n")
    return tmp_path


def run(folder, content=None, *flags, name="v.vcf"):
    if content is not None:
        data = content.encode("latin-1")
        (folder / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        flags = ("--vcf", folder / name, *flags)
    flags = ["--model", folder / "model", "--fasta", folder / "g.fa", "--output_dir", folder / "out", *flags]
    return cli.main(["variants", *map(str, flags), "--window", str(WINDOW)])


def table(folder):
    return pd.read_csv(
        folder / "out/variants.tsv", sep="\t", keep_default_na=False, na_values={"llr": ["nan"]}
    )


def total(model, sequence):
    ids = HyenaDNATokenizer()(sequence, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        p = model(ids).logits[0].log_softmax(-1)
    return sum(p[i - 1, ids[0, i]].item() for i in range(1, len(sequence)) if sequence[i] != "N")


def by_hand(model, pos, ref, alt):
    """Two full passes on each strand, of windows cut here."""
    around = WINDOW - max(len(ref), len(alt))
    start = max(0, pos - 1 - around // 2)
    end = min(len(GENOME), pos - 1 + len(ref) + around - around // 2)
    a = GENOME[start:end]
    b = GENOME[start : pos - 1] + alt + GENOME[pos - 1 + len(ref) : end]
    forward = total(model, b) - total(model, a)
    return (forward + total(model, reverse_complement(b)) - total(model, reverse_complement(a))) / 2


def test_every_kind_of_allele_is_scored_as_by_hand(folder, model):
    cases = [
        (50, at(50), other(at(50))),  # a single base
        (60, at(60, 3), "".join(map(other, at(60, 3)))),  # several
        (70, at(70), at(70) + "ACGT"),  # an insertion
        (80, at(80, 4), at(80)),  # a deletion
        (1, at(1), other(at(1))),  # at the ends of the chromosome
        (200, at(200), other(at(200))),
        (98, at(98), other(at(98))),  # with N in the window
    ]
    lines = [record(*case) for case in cases]
    both = [other(at(90)), at(90) + "TT"]
    lines.append(record(90, at(90), ",".join(both), chrom="chr20"))
    lines.append(record(50, at(50).lower(), other(at(50)).lower(), info="AF=0.5"))
    assert run(folder, HEADER + "".join(lines), name="v.vcf.gz") == 0
    scores = table(folder)
    cases += [(90, at(90), alt) for alt in both] + [cases[0]]
    assert len(scores) == len(cases) and (scores["skip"] == "").all()
    expected = [by_hand(model, *case) for case in cases]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(scores["llr"], expected, atol=1e-5)
    mean = scores[["llr_forward", "llr_reverse"]].astype(float).mean(axis=1)
    np.testing.assert_allclose(scores["llr"], mean, atol=1e-6)
    assert (scores["distance"].astype(float) > 0).all()

    lines = gzip.decompress((folder / "out/variants.vcf.gz").read_bytes()).decode().splitlines()
    assert sum(line.startswith("##INFO=<ID=HYENA_") for line in lines) == 3
    records = [line.split("\t") for line in lines if line[0] != "#"]
    llr, distance = ([f"{value:.6g}" for value in scores[name].astype(float)] for name in ("llr", "distance"))
    assert records[-2][7] == f"HYENA_LLR={llr[7]},{llr[8]};HYENA_DISTANCE={distance[7]},{distance[8]}"
    assert records[-1][7] == f"AF=0.5;HYENA_LLR={llr[9]};HYENA_DISTANCE={distance[9]}"
    assert not (folder / "out/parts").exists()


def test_what_cannot_be_scored_says_why(folder, capsys):
    cases = {
        record(50, other(at(50)), at(50)): f"REF_mismatch_fasta_has_{at(50)}",
        record(105, "A", "C"): "REF_is_N_in_fasta",
        record(50, at(50), "<DEL>"): "symbolic_allele",
        record(50, at(50), "*"): "spanning_deletion",
        record(50, at(50), "A]chr20:70]"): "breakend",
        record(50, at(50), "."): "no_alternative",
        record(50, at(50), at(50) + "R"): "letters_other_than_ACGT",
        record(199, at(199, 2) + "A", "A"): "outside_of_contig",
        record(0, "A", "C"): "outside_of_contig",
        record(50, at(50), at(50) + "A" * 60): "longer_than_window",
        record(50, "A", "C", chrom="21"): "contig_not_in_fasta",
    }
    good = record(30, at(30), f"{other(at(30))},<DEL>")  # behind the others: the file is not sorted
    assert run(folder, HEADER + "".join(cases) + good) == 0
    scores = table(folder)
    assert scores["skip"].tolist() == [*cases.values(), "", "symbolic_allele"]
    assert scores["llr"].notna().tolist() == [False] * len(cases) + [True, False]
    out = capsys.readouterr().out
    assert "1 of 13 alleles scored" in out and "skipped 2: symbolic_allele" in out and "REF_mismatch" in out
    first, *_, last = [
        line for line in (folder / "out/variants.vcf").read_text().splitlines() if line[0] != "#"
    ]
    assert first.split("\t")[7] == f"HYENA_SKIP=REF_mismatch_fasta_has_{at(50)}"
    llr, distance = (f"{float(scores[name][11]):.6g}" for name in ("llr", "distance"))
    assert f"HYENA_LLR={llr},.;HYENA_DISTANCE={distance},.;HYENA_SKIP=.,symbolic_allele" in last


def between_good_parts():
    good = record(30, at(30), other(at(30)))
    return HEADER + good + record(31, "A", "<DEL>") * 511 + good


@pytest.mark.parametrize("flags", [(), ("--share_prefix",)])
@pytest.mark.parametrize(
    ("content", "skipped", "scored"),
    [
        # a whole file of one record
        (HEADER + record(5, "A", "C", chrom="chrM"), ["contig_not_in_fasta"], 0),
        # records 256 to 511 are the second part
        (between_good_parts(), ["symbolic_allele"] * 511, 2),
        (HEADER, [], 0),
    ],
)
def test_a_part_without_any_scorable_allele(folder, flags, content, skipped, scored, capsys):
    assert run(folder, content, *flags) == 0
    scores = table(folder)
    reasons = scores["skip"][scores["skip"] != ""]
    assert reasons.tolist() == skipped and scores["llr"].notna().sum() == scored
    assert f"{scored} of {len(scores)} alleles scored" in capsys.readouterr().out
    written = (folder / "out/variants.vcf").read_text().splitlines()
    records = [line for line in written if not line.startswith("#")]
    assert [line.split("\t")[7].startswith("HYENA_SKIP=") for line in records] == (
        scores["skip"] != ""
    ).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (record(50, "A", "C"), "comes before the header"),
        ("##fileformat=VCFv4.2\n", "no header line"),
        ("", "no header line"),
        (HEADER + record(50, "A", "C")[:-1], "truncated: its last line"),
        (HEADER + "20\t50\t.\tA\n", "at least 8 fields"),
        (HEADER + record("x", "A", "C"), "line 3 .*a position"),
        (gzip.compress(b"BCF\2\2\xff\xfe", mtime=0).decode("latin-1"), "is no text.*BCF"),
    ],
)
def test_bad_files_are_named_before_any_work(folder, content, message, capsys, monkeypatch):
    monkeypatch.setattr(variants, "borrowed", lambda *a: pytest.fail("the model was loaded"))
    assert run(folder, content) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (folder / "out").exists()


def test_a_cut_archive_and_missing_files(folder, capsys):
    data = gzip.compress((HEADER + record(50, at(50), other(at(50))) * 50).encode())
    (folder / "cut.vcf.gz").write_bytes(data[:-12])
    assert run(folder, None, "--vcf", folder / "cut.vcf.gz") == 1
    assert "cannot be read to its end" in capsys.readouterr().err
    with BgzfWriter(str(folder / "blocks.vcf.gz"), "wb") as file:
        file.write((HEADER + record(50, at(50), other(at(50))) * 5000).encode())
    assert (folder / "blocks.vcf.gz").read_bytes()[-28:].startswith(b"\x1f\x8b")
    for cut in (28, 100):
        (folder / "cut.vcf.gz").write_bytes((folder / "blocks.vcf.gz").read_bytes()[:-cut])
        assert run(folder, None, "--vcf", folder / "cut.vcf.gz") == 1
        assert "truncated: the block that ends" in capsys.readouterr().err
    assert check_vcf(str(folder / "blocks.vcf.gz"))[0] == 5000
    for flags, message in (
        (("--vcf", folder / "none.vcf"), "no such file"),
        ((), "either --vcf or --mutagenesis"),
        (("--vcf", folder / "cut.vcf.gz", "--mutagenesis", "chr20"), "either --vcf or --mutagenesis"),
    ):
        assert run(folder, None, *flags) == 1
        assert message in capsys.readouterr().err


def test_a_killed_run_goes_on(folder, monkeypatch, capsys):
    monkeypatch.setattr(variants, "_RECORDS_PER_PART", 2)
    content = HEADER + "".join(record(i, at(i), other(at(i))) for i in range(20, 29))
    assert run(folder, content) == 0
    expected = (folder / "out/variants.tsv").read_text()
    (folder / "out").rename(folder / "whole")

    score, calls = variants._score_alleles, []

    def killed(*args):
        calls.append(args[3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*args)

    monkeypatch.setattr(variants, "_score_alleles", killed)
    assert run(folder, content) == 130
    assert (
        not (folder / "out/variants.tsv").exists()
        and len(list((folder / "out/parts").glob("[0-9]*.tsv"))) == 2
    )
    assert run(folder, content) == 0
    assert calls == [0, 2, 4, 4, 6, 8]  # only what was missing
    assert (folder / "out/variants.tsv").read_text() == expected
    assert run(folder, content, "--batch_size", "4") == 0 and len(calls) == 6
    assert "nothing to do" in capsys.readouterr().out
    (folder / "other.fa").write_text((folder / "g.fa").read_text())
    assert run(folder, content, "--fasta", folder / "other.fa") == 1
    assert "other settings" in capsys.readouterr().err


def test_parts_of_other_files_are_not_mixed(folder, model, monkeypatch, capsys):
    """Files that changed under their names while a run lay there unfinished."""
    monkeypatch.setattr(variants, "_RECORDS_PER_PART", 2)
    content = HEADER + "".join(record(i, at(i), other(at(i))) for i in range(20, 29))
    join = variants._join
    monkeypatch.setattr(variants, "_join", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(folder, content) == 130
    monkeypatch.setattr(variants, "_join", join)
    parts = len(list((folder / "out/parts").iterdir()))
    assert parts == 5
    assert run(folder, content.replace("20\t20\t.", "20\t20\tid")) == 1
    assert "other settings (vcf_checksum" in capsys.readouterr().err
    random_model(seed=6).save_pretrained(folder / "model")
    assert run(folder, content) == 1
    assert "other settings (weights" in capsys.readouterr().err
    model.save_pretrained(folder / "model")
    (folder / "g.fa").write_text(f">chr20\n{GENOME}A\n")
    assert run(folder, content) == 1
    assert "other settings (fasta_bases 200)" in capsys.readouterr().err
    (folder / "g.fa").write_text(f">chr20\n{GENOME}\n")
    assert len(list((folder / "out/parts").iterdir())) == parts
    assert run(folder, content) == 0 and len(table(folder)) == 9


def test_scores_of_an_earlier_run_are_replaced(folder):
    header = HEADER.replace("#CHROM", '##INFO=<ID=HYENA_LLR,Number=A,Type=Float,Description="old">\n#CHROM')
    lines = [
        record(50, at(50), other(at(50)), info="HYENA_LLR=7"),
        record(51, at(51), other(at(51)), info="AF=0.5;HYENA_LLR=7;HYENA_SKIP=x;DB;"),
    ]
    assert run(folder, header + "".join(lines)) == 0
    written, scores = (folder / "out/variants.vcf").read_text().splitlines(), table(folder)["llr"]
    assert [line.count("ID=HYENA_LLR") for line in written[:-2]] == [0, 1, 0, 0, 0]
    infos = [line.split("\t")[7].partition(";HYENA_DISTANCE=")[0] for line in written[-2:]]
    assert infos == [f"HYENA_LLR={scores[0]:.6g}", f"AF=0.5;DB;HYENA_LLR={scores[1]:.6g}"]


def test_compression_is_told_by_the_content(folder):
    content = HEADER + record(50, at(50), other(at(50)))
    (folder / "v.vcf").write_bytes(gzip.compress(content.encode()))
    assert run(folder, None, "--vcf", folder / "v.vcf") == 0
    assert (folder / "out/variants.vcf.gz.tbi").exists() and len(table(folder)) == 1


def test_a_window_with_other_letters_is_skipped(folder, capsys):
    (folder / "g.fa").write_text(f">chr20\n{GENOME[:150]}X{GENOME[151:]}\n")
    near, far = (record(p, at(p), other(at(p))) for p in (140, 60))
    assert run(folder, HEADER + near + far) == 0
    assert table(folder)["skip"].tolist() == ["no_nucleotide_in_window", ""]
    capsys.readouterr()
    (folder / "out").rename(folder / "first")
    assert run(folder, None, "--mutagenesis", "chr20:140-144") == 1
    assert "'X' in line 2 (position 150 of 'chr20')" in capsys.readouterr().err


def unfinished_run(folder, monkeypatch):
    """A folder with all parts of a run that was stopped before it joined them."""
    monkeypatch.setattr(variants, "_RECORDS_PER_PART", 2)
    content = HEADER + "".join(record(i, at(i), other(at(i))) for i in range(20, 25))
    with monkeypatch.context() as stopped:
        stopped.setattr(variants, "_join", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(folder, content) == 130
    return content


@pytest.mark.parametrize("damage", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"window": '])
def test_damaged_settings_are_told_in_one_line(folder, damage, monkeypatch, capsys):
    unfinished_run(folder, monkeypatch)
    capsys.readouterr()
    (folder / "out/run_settings.json").write_bytes(damage)
    assert run(folder, None, "--vcf", folder / "v.vcf") == 1
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert "run_settings.json" in last and "choose another folder" in last and "Traceback" not in error
    assert len(list((folder / "out/parts").glob("[0-9]*.tsv"))) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text[: text.rindex("\n", 0, -1) + 1],  # cut between two lines
        lambda text: "",
        lambda text: text.replace("line", "LINE"),
        lambda text: text.replace("\t.\t", "\t", 1),
        lambda text: text.replace("-0.", "-0x"),
    ],
)
def test_a_damaged_part_is_named(folder, damage, monkeypatch, capsys):
    content = unfinished_run(folder, monkeypatch)
    part = folder / "out/parts/000001.tsv"
    whole = part.read_text()
    part.write_text(damage(whole))
    if part.read_text() == whole:
        pytest.skip("nothing to damage in this way")
    assert run(folder, content) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error and "emove" in error.strip().splitlines()[-1]
    part.unlink()
    assert run(folder, content) == 0 and len(table(folder)) == 5


def test_absurd_numbers(folder, capsys):
    many = "9" * 5000
    assert run(folder, HEADER + record(many, "A", "C")) == 1
    assert "a position" in capsys.readouterr().err
    lines = [
        record(50, at(50), other(at(50)), info=f"END={many}"),
        record(51, at(51), other(at(51)), info="END=x"),
    ]
    assert run(folder, HEADER + "".join(lines), name="v.vcf.gz") == 0
    assert "without an index" in capsys.readouterr().out and len(table(folder)) == 2
    for region in ("chr20:,-,", f"chr20:0-{many}", f"chr20:{many}-{many}", "chr20:5-5"):
        assert run(folder, None, "--mutagenesis", region, "--output_dir", folder / "region") == 1
        assert "error: mutagenesis" in capsys.readouterr().err
    assert not (folder / "region").exists()


def test_a_wrong_region_leaves_the_folder_free(folder, capsys):
    assert run(folder, None, "--mutagenesis", "chr20:50-100") == 1
    assert "has 50 bases, but the window has 40" in capsys.readouterr().err
    assert run(folder, None, "--mutagenesis", "chr20:50-52") == 0


def test_one_writer_and_no_litter(folder, monkeypatch, capsys):
    content = unfinished_run(folder, monkeypatch)
    litter = [
        folder / "out" / name for name in (".variants.77.unfinished.tsv", ".variants.vcf.77.unfinished.gz")
    ]
    litter.append(folder / "out/parts/.000000.77.unfinished.tsv")
    for path in litter:
        path.write_text("half")
    with locked_by_another_process(folder / "out/.lock"):
        assert run(folder, content) == 1
    assert "another process is writing into" in capsys.readouterr().err
    assert all(path.exists() for path in litter)  # they may be the other's
    assert run(folder, content) == 0
    assert sorted(p.name for p in (folder / "out").iterdir()) == [
        "run_settings.json",
        "variants.tsv",
        "variants.vcf",
    ]


def test_names_that_are_formulas(folder):
    line = record(50, at(50), f"{other(at(50))},-").replace("\t.\t", "\t=1+1\t", 1)
    assert run(folder, HEADER + line) == 0
    assert table(folder)["id"].tolist() == ["'=1+1"] * 2 and table(folder)["alt"][1] == "-"
    assert "\t=1+1\t" in (folder / "out/variants.vcf").read_text()


LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
LAUNCH += "--dynamo_backend no --main_process_port 0 -m hyenadna.analysis.variants"


def test_two_processes_killed_and_resumed_equal_one(folder):
    content = HEADER + "".join(
        record(i % 60 + 21, at(i % 60 + 21), other(at(i % 60 + 21))) for i in range(3000)
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: sums are rounded in another order with more
    assert run(folder, content, "--batch_size", "256") == 0
    torch.set_num_threads(threads)
    expected = [(folder / "out" / name).read_bytes() for name in ("variants.tsv", "variants.vcf")]
    flags = f"--model {folder}/model --fasta {folder}/g.fa --vcf {folder}/v.vcf"
    flags += f" --window {WINDOW} --output_dir {folder}/two"
    command = [sys.executable, *LAUNCH.split(), *flags.split(), "--batch_size", "256"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)

    def launch() -> subprocess.Popen:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    killed, parts, deadline = launch(), folder / "two/parts", time.monotonic() + 240
    while not list(parts.glob("[0-9]*.tsv")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    # each has a session of its own
    for process in (*psutil.Process(killed.pid).children(recursive=True), killed):
        process.kill()
    printed, _ = killed.communicate(timeout=60)
    done = {path: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.tsv")}
    assert 0 < len(done) < 12 and not (folder / "two/variants.tsv").exists(), printed

    resumed = launch()
    kept = set(done)
    # what was there is not written again
    while resumed.poll() is None and time.monotonic() < deadline:
        kept &= {
            path for path, written in done.items() if not path.exists() or path.stat().st_mtime_ns == written
        }
        time.sleep(0.01)
    printed, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0 and kept == set(done), printed
    told = [
        int(count.replace(",", "")) for count in re.findall(r"process [01]: ([\d,]+) alleles in", printed)
    ]
    assert (
        len(told) == 2
        and min(told) > 0
        and sum(told) == 3000 - sum(min(256, 3000 - 256 * int(p.stem)) for p in done)
    )
    assert [(folder / "two" / name).read_bytes() for name in ("variants.tsv", "variants.vcf")] == expected
    assert not parts.exists()


def test_mutagenesis_equals_full_passes(model):
    sequence, first, last = GENOME[90:150], 20, 40  # the first of the region are N
    scores = variants.mutagenesis(model, sequence, first, last)
    assert scores.shape == (20, 4)
    for i in range(first, last):
        for j, base in enumerate("ACGT"):
            if sequence[i] == "N":
                assert math.isnan(scores[i - first, j])
                continue
            mutant = sequence[:i] + base + sequence[i + 1 :]
            pair = [total(model, mutant) - total(model, sequence)]
            pair.append(total(model, reverse_complement(mutant)) - total(model, reverse_complement(sequence)))
            assert scores[i - first, j] == pytest.approx(sum(pair) / 2, abs=1e-4)
    ends = variants.mutagenesis(model, sequence, 0, len(sequence))
    np.testing.assert_allclose(ends[first:last], scores, atol=1e-4)


def test_mutagenesis_checks_its_positions_and_drops_nothing_out():
    model = random_model(seed=5, embed_dropout=0.5)
    expected = variants.mutagenesis(model, GENOME[:40], 5, 9)
    np.testing.assert_array_equal(variants.mutagenesis(model.train(), GENOME[:40], 5, 9), expected)
    for first, last in ((-1, 3), (5, 5), (30, 41)):
        with pytest.raises(InputError, match=f"positions {first} to {last}.*40 bases"):
            variants.mutagenesis(model, GENOME[:40], first, last)


def test_the_mutagenesis_command(folder, model, capsys):
    assert run(folder, None, "--mutagenesis", "chr20:50-60") == 0
    scores = pd.read_csv(folder / "out/mutagenesis.tsv", sep="\t")
    assert len(scores) == 30 and (folder / "out/mutagenesis.png").stat().st_size > 1000
    assert (scores["ref"] != scores["alt"]).all() and scores["position"].tolist() == [
        p for p in range(50, 60) for _ in "123"
    ]
    whole = GENOME[35:75]
    mutant = whole[:17] + scores["alt"][6] + whole[18:]
    pair = [total(model, mutant) - total(model, whole)]
    pair.append(total(model, reverse_complement(mutant)) - total(model, reverse_complement(whole)))
    assert scores["llr"][6] == pytest.approx(sum(pair) / 2, abs=1e-4)
    assert run(folder, None, "--mutagenesis", "chr20:50-100") == 1
    assert "other settings" in capsys.readouterr().err


def test_a_batch_of_any_size_gives_the_same(folder, model):
    """Prefixes of unequal length in one batch, near the ends of the chromosome and around long
    alleles.
    """
    (genome,) = open_genomes([folder / "g.fa"])
    places = [1, 2, 5, 21, 40, 60, 61, 90, 150, 185, 199, 200]
    records = [["20", str(p), ".", at(p), alt] for p in places for alt in (other(at(p)), at(p) + "ACGTA")]
    records += [["20", str(p), ".", at(p, 7), at(p)] for p in places[1:8]]
    sizes = ((3, True), (64, True), (3, False), (64, False))
    tables = [variants.score_variants(model, genome, records, 0, WINDOW, *size) for size in sizes]
    expected = [by_hand(model, int(r[1]), r[3], r[4]) for r in records]
    for scores in tables:
        np.testing.assert_allclose(scores["llr"], expected, atol=1e-5)
        np.testing.assert_allclose(scores["distance"], tables[0]["distance"], atol=1e-6)


def test_the_distance_is_between_mean_embeddings(folder, model):
    (genome,) = open_genomes([folder / "g.fa"])
    record = ["20", "50", ".", at(50), "ACC"]
    scores, shared = (
        variants.score_variants(model, genome, [record], 0, WINDOW, 8, share) for share in (False, True)
    )
    around = GENOME[49 - 18 : 49], GENOME[50 : 50 + 19]
    means = []
    for allele in (at(50), "ACC"):
        pair = [around[0] + allele + around[1], reverse_complement(around[0] + allele + around[1])]
        ids = [HyenaDNATokenizer()(s, add_special_tokens=False, return_tensors="pt").input_ids for s in pair]
        with torch.no_grad():
            means.append(sum(model.hyena(i).last_hidden_state[0].mean(0) for i in ids))
    for table in (scores, shared):
        assert table["distance"][0] == pytest.approx(
            1 - torch.cosine_similarity(*means, dim=0).item(), abs=1e-6
        )


def test_names_of_chromosomes(folder):
    (genome,) = open_genomes([folder / "g.fa"])
    assert [genome.number_of(name) for name in ("chr20", "20", "21", "chr2")] == [0, 0, None, None]


# ------------------------------------------------------------------------------ variant_effects


def states(model, sequence):
    ids = HyenaDNATokenizer()(sequence, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        return model.hyena(ids).last_hidden_state[0].numpy()


def cosine_distance(a, b):
    return 1 - a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("share", [False, True])
def test_distances_at_and_around_an_allele(folder, order, share):
    """Beside full passes in float64, of windows cut here; at the end of the chromosome too."""
    model = random_model(seed=5, hyena_order=order)
    exact = random_model(seed=5, hyena_order=order).double()
    cases = [(50, at(50), other(at(50))), (80, at(80, 4), at(80)), (199, at(199), at(199) + "AC")]
    table = variants.variant_effects(
        model, [("chr20", *case) for case in cases], folder / "g.fa", window=WINDOW, share_prefix=share
    )
    for (pos, ref, alt), row in zip(cases, table.itertuples(), strict=True):
        around = WINDOW - max(len(ref), len(alt))
        before = GENOME[max(0, pos - 1 - around // 2) : pos - 1]
        after = GENOME[pos - 1 + len(ref) :][: around - around // 2]
        at_last, local, mean = [], [], []
        for allele in (ref, alt):
            strands = [(before, allele, after), tuple(map(reverse_complement, (after, allele, before)))]
            last_states, local_states, means = [], [], []
            for first, middle, end in strands:
                hidden = states(exact, first + middle + end)
                last_states.append(hidden[len(first) + len(middle) - 1])
                local_states.append(hidden[len(first) : len(first) + len(middle) + 32].mean(0))
                text = first + middle + end
                means.append(total(exact, text) / sum(base in "ACGT" for base in text[1:]))
            at_last.append(sum(last_states))
            local.append(sum(local_states))
            mean.append(np.mean(means))
        assert row.distance_at == pytest.approx(cosine_distance(*at_last), abs=1e-6)
        assert row.distance_local == pytest.approx(cosine_distance(*local), abs=1e-6)
        assert row.llr_per_base == pytest.approx(mean[1] - mean[0], abs=1e-6)
    # what the mean over the window buries
    assert (table["distance_at"] > 5 * table["distance"]).all()


@pytest.mark.parametrize("share", [False, True])
def test_a_copy_of_the_reference_changes_nothing(model, share):
    """The control: the reference as its own alternative gives exactly 0 everywhere."""
    readings = variants.readings_of(GENOME[:20], GENOME[23:40], GENOME[20:23], GENOME[20:23])
    row = {}
    variants._add_scores([row], *variants.score_readings(model, readings, 8, share))
    assert row["llr"] == row["llr_per_base"] == 0
    assert max(abs(row[name]) for name in ("distance", "distance_at", "distance_local")) < 1e-12


def test_variants_come_in_every_form(folder, model, recwarn):
    cases = [("chr20", 50, at(50), other(at(50))), ("20", 80, at(80, 4), at(80))]
    (folder / "v.vcf").write_text(HEADER + record(50, at(50), other(at(50))) + record(80, at(80, 4), at(80)))
    options = {"window": WINDOW}
    expected = variants.variant_effects(model, cases, folder / "g.fa", **options)
    assert expected["skip"].tolist() == ["", ""] and expected["llr"].notna().all()
    spelled = [":".join(map(str, case)) for case in cases]
    frame = pd.DataFrame(cases, columns=["chrom", "pos", "ref", "alt"])
    (genome,) = open_genomes([folder / "g.fa"])
    assert run(folder, None, "--vcf", folder / "v.vcf") == 0
    for form in (spelled, frame, frame.assign(id="."), folder / "v.vcf"):
        table = variants.variant_effects(folder / "model", form, genome, **options)
        pd.testing.assert_frame_equal(table.drop(columns="chrom"), expected.drop(columns="chrom"))
    written = table_of_all(folder)
    pd.testing.assert_frame_equal(written, table, check_dtype=False)
    alone = variants.variant_effects(model, spelled[0], folder / "g.fa", **options)
    pd.testing.assert_frame_equal(alone, expected[:1])
    assert not [warning for warning in recwarn if "REF" in str(warning.message)]


def table_of_all(folder):
    return pd.read_csv(folder / "out/variants.tsv", sep="\t", keep_default_na=False, dtype={"chrom": str})


def test_only_variants_in_regions(folder, model, capsys):
    (folder / "r.bed").write_text("chr20\t60\t70\n20\t49\t50\n")
    cases = [("20", pos, at(pos, size), other(at(pos))) for pos, size in ((50, 1), (51, 1), (60, 1), (60, 2))]
    cases.append(("21", 65, "A", "C"))
    regions = [str(folder / "r.bed"), "chr20:150-160"]
    chosen = variants.variant_effects(model, cases, folder / "g.fa", window=WINDOW, regions=regions)
    outside = "outside_of_regions"
    assert chosen["skip"].tolist() == ["", outside, outside, "", outside]
    every = variants.variant_effects(model, cases, folder / "g.fa", window=WINDOW)
    assert chosen["llr"][0] == every["llr"][0] and chosen["llr"][3] == every["llr"][3]

    content = HEADER + "".join(record(pos, ref, alt, chrom=chrom) for chrom, pos, ref, alt in cases)
    assert run(folder, content, "--regions", *regions) == 0
    assert table(folder)["skip"].tolist() == chosen["skip"].tolist()
    assert "skipped 3: outside_of_regions" in capsys.readouterr().out
    # other regions are another run
    (folder / "r.bed").write_text("chr20\t60\t71\n")
    assert run(folder, content, "--regions", *regions) == 1
    assert "other settings (regions" in capsys.readouterr().err
    assert run(folder, None, "--mutagenesis", "chr20:50-52", "--regions", "chr20") == 1
    assert "leave them out with --mutagenesis" in capsys.readouterr().err


def test_positions_counted_from_0_are_noticed(folder, model, capsys):
    # runs of equal bases would fit by chance
    places = [pos for pos in range(20, 80) if at(pos) != at(pos - 1)][:8]
    cases = [("chr20", pos - 1, at(pos), other(at(pos))) for pos in places]
    with pytest.warns(UserWarning, match="8 of 8 .* are these positions counted from 0"):
        variants.variant_effects(model, cases, folder / "g.fa", window=WINDOW)
    wrong = [("chr20", pos, other(at(pos)), at(pos)) for pos in places]
    with pytest.warns(UserWarning, match="8 of 8 .* Another genome build"):
        variants.variant_effects(model, wrong, folder / "g.fa", window=WINDOW)
    content = HEADER + "".join(record(pos, ref, alt) for _, pos, ref, alt in wrong)
    assert run(folder, content) == 0
    assert "another genome build" in capsys.readouterr().out


def test_variants_that_cannot_be_read(folder, model):
    for form, message in [
        (["chr20:50:A"], "write 'chr20:1000001:A:G'"),
        ([("chr20", 50.5, "A", "C")], "the position is 50.5"),
        ([("chr20", 0, "A", "C")], "counted from 1"),
        (pd.DataFrame({"chrom": ["20"], "position": [3]}), r"lacks \['pos', 'ref', 'alt'\]"),
        (folder / "missing.vcf", "missing.vcf"),
    ]:
        with pytest.raises(InputError, match=message):
            variants.variant_effects(model, form, folder / "g.fa", window=WINDOW)
    with pytest.raises(InputError, match="window is 67, but the model reads 2 to"):
        variants.variant_effects(model, ["20:50:A:C"], folder / "g.fa", window=67)
    classifier = random_model(HyenaDNAForSequenceClassification)
    with pytest.raises(InputError, match="needs a language model, but the model is a classifier"):
        variants.variant_effects(classifier, ["20:50:A:C"], folder / "g.fa")
