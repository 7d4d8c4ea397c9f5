"""Help: short, at once, and what the commands say; the nearest name of a misspelt flag."""

import resource
import subprocess
import sys

import pytest

from hyenadna.errors import InputError, only_a_path
from hyenadna.flags import CommandParser, suggestion
from hyenadna.training import cli
from hyenadna.training.experiments.benchmark import BenchmarkArguments
from hyenadna.training.finetune import FinetuneArguments
from hyenadna.training.runs import help_pages
from hyenadna.training.runs.settings import parse_settings

TWO_SCREENS = 64  # lines


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_stored_help_is_what_the_command_says(name):
    stored = help_pages.stored_help(name)
    assert stored == help_pages.made_help(cli.module_of(name)), (
        "a setting changed: run `python -m hyenadna.training.runs.help_pages`"
    )
    lines = stored.splitlines()
    assert lines[0].startswith(f"usage: hyenadna {name} ") and len(lines) <= TWO_SCREENS
    assert "example:" in lines and f"  hyenadna {name}" in stored
    example = lines.index("example:") + 1
    assert all(len(line) <= 80 for line in lines[:example] + lines[example + 1 :])


def test_there_is_a_page_for_each_command_and_no_other():
    assert {path.stem for path in help_pages.FOLDER.glob("*.txt")} == set(cli.COMMANDS)


def processor_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    "arguments", [["--help"], ["finetune", "--help"], ["--version"], ["finetun"], ["pretrain", "-h"]]
)
def test_help_is_answered_without_torch(arguments, tmp_path):
    """It took 6.8 s of processor time."""
    # As pip's script does: its name is how the package knows that the command line starts.
    script = tmp_path / "hyenadna"
    script.write_text(
        "import sys\nfrom hyenadna.training.cli import main\ncode = main()\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules)))\n"
    )
    before = processor_seconds_of_children()
    child = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True
    )
    assert child.stdout.splitlines()[-1] == "[]", child.stdout
    assert processor_seconds_of_children() - before < 1.5


def test_python_dash_m_answers_without_torch_too():
    child = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hyenadna", "finetune", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: hyenadna finetune" in child.stdout
    assert " hyenadna.training.cli\n" in child.stderr and " torch\n" not in child.stderr


@pytest.mark.parametrize("code", ["import hyenadna", "from hyenadna import HyenaDNAConfig"])
def test_an_import_registers_the_model_with_transformers(code):
    ask = "from transformers import AutoConfig; print(type(AutoConfig.for_model('hyenadna')).__name__)"
    child = subprocess.run(
        [sys.executable, "-c", f"{code}; {ask}"], capture_output=True, text=True, check=True
    )
    assert child.stdout == "HyenaDNAConfig\n"


def test_the_long_help_has_all_settings(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["finetune", "--help-all"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "--lr_scheduler_kwargs" in text and "--d_model" in text
    assert "--lr_scheduler_kwargs" not in help_pages.stored_help("finetune")


@pytest.mark.parametrize("cls", [FinetuneArguments, BenchmarkArguments])
@pytest.mark.parametrize(
    "flag, near",
    [
        ("--epochs", "--num_train_epochs"),
        ("--batch-size", "--per_device_train_batch_size"),
        ("--lr", "--learning_rate"),
        ("--output_dri=x", "--output_dir"),
        ("--lora-ranks", "--lora_rank"),
        ("--device", "--use_cpu"),
    ],
)
def test_an_unknown_setting_gets_the_nearest(cls, flag, near):
    with pytest.raises(InputError, match=rf"Instead of {flag.partition('=')[0]}, did you mean {near}\?$"):
        parse_settings(cls, "name", "", ["--use_cpu", flag, "2"])


def test_nothing_is_suggested_where_nothing_is_near():
    assert suggestion(["--frobnicate", "2"], ["--model", "--data"]) == ""
    with pytest.raises(InputError, match=r"lists what it uses\)\.$"):
        parse_settings(FinetuneArguments, "finetune", "", ["--use_cpu", "--frobnicate", "2"])


def small_parser() -> CommandParser:
    parser = CommandParser("try", "Tries.", example="hyenadna try --model m --output_dir o")
    parser.add_argument("--model", required=True, help="a folder")
    parser.add_argument("--output_dir", required=True, help="where to write")
    parser.add_argument("--strand", choices=("both", "one"), default="both", help="what to read")
    return parser


def test_both_spellings_of_a_flag():
    """`variants --output-dir x` said that --output_dir is required."""
    args = small_parser().parse_args(["--model=a-b", "--output-dir", "c-d", "--strand", "one"])
    assert (args.model, args.output_dir, args.strand) == ("a-b", "c-d", "one")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mdoel", "x"], "there is no --mdoel. Instead of --mdoel, did you mean --model?"),
        (["--outputdir=x"], "Instead of --outputdir, did you mean --output_dir?"),
        (["--frobnicate"], "there is no --frobnicate. See hyenadna try --help"),
        (["--model", "x"], "required: --output_dir"),
        (["--strand", "three"], "invalid choice: 'three'"),
    ],
)
def test_errors_of_a_small_parser(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        small_parser().parse_args(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error
    assert error.startswith("usage: hyenadna try --model MODEL --output_dir OUTPUT_DIR [--SETTING VALUE ...]")


@pytest.mark.parametrize("name", ["promoters.xlsx", "nosuch", "here/nosuch", "../nosuch", "a/b/c", "a b/c"])
def test_a_path_is_not_asked_for_on_the_hub(name, tmp_path, monkeypatch):
    """It took 27 to 38 s where there was no network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert only_a_path(name) is not None


def test_names_of_repositories_may_be_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("LongSafari/hyenadna-tiny-1k-seqlen-hf", "me/model-v1.0", "me/data:configuration", "run"):
        assert only_a_path(name) is None, name
