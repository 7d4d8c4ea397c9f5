"""Pictures and costs of docs/analysis.md: what classifiers of real DNA rest on.

hyenadna finetune --data genomics/tata_promoters.csv.gz --strands one --output_dir promoters
hyenadna finetune --data genomics/splice_junctions.csv --strands one --output_dir splice
python benchmarks/analysis.py --promoters promoters --splice splice --out docs
python benchmarks/analysis.py --costs                                # prints a table
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import hyenadna
from hyenadna import HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNATokenizer
from hyenadna.analysis import attributions, dependency_map, mutagenesis, predict
from hyenadna.analysis.pictures import draw_frequencies, save_figure
from hyenadna.genomics.labelled import load_splice_junctions, load_tata_promoters

START_OF_GENE = 249  # in the promoters: they reach from -249 to +50
MOTIF = 10  # bases of the windows that are laid on each other
JUNCTION = 30  # in the splice junctions: the boundary is before this base


def rows_of(data, label: str, count: int) -> list[str]:
    """Return test rows of one class."""
    part = data["test"]
    number = part.features["label"].str2int(label)
    return [row["sequence"] for row in part if row["label"] == number][:count]


def frequencies_of(texts: list[str]) -> np.ndarray:
    """Return the shares of A, C, G and T at each position, `(length, 4)`."""
    letters = np.array([list(text) for text in texts])
    return np.stack([(letters == base).mean(0) for base in "ACGT"], axis=1)


def promoters(model: str, out: Path, count: int) -> None:
    """Draw where the contributions of promoters are, and what their strongest windows read."""
    texts = rows_of(load_tata_promoters(), "promoter", count)
    names = predict(model, texts)["predicted"]
    # GUE's own files call the classes 1 and 0.
    positive = "promoter" if "promoter" in set(names) else "1"
    texts = [text for text, name in zip(texts, names, strict=True) if name == positive]
    result = attributions(model, texts, target=positive)
    values = np.stack(result.contributions)
    strength = np.abs(values).mean(0)
    sums = np.stack([np.convolve(row, np.ones(MOTIF), mode="valid") for row in values])
    best = sums.argmax(1)
    windows = [text[at : at + MOTIF] for text, at in zip(texts, best, strict=True)]

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[1.4, 1])
    position = np.arange(values.shape[1]) - START_OF_GENE
    above.plot(position, strength, color="#255c99", linewidth=1)
    above.axvspan(-35, -25, color="#e8a200", alpha=0.3, label="-35 to -25: where a TATA box is")
    above.axvline(0, color="black", linewidth=0.5)
    above.set_xlabel("position, relative to the start of the gene")
    above.set_ylabel("mean absolute contribution")
    above.legend(frameon=False, loc="upper left")
    above.set_title(f"{len(texts)} promoters of the test part, class {positive!r}")
    draw_frequencies(below, frequencies_of(windows))
    below.set_ylabel("bits")
    below.set_title(f"the {MOTIF} bases with the largest sum of contributions in each")
    save_figure(out / "analysis_promoters.png", figure)

    peak = int(position[strength.argmax()])
    inside = float(((best - START_OF_GENE >= -40) & (best - START_OF_GENE <= -20)).mean())
    near = strength[(position >= -35) & (position <= -25)].mean()
    print(f"{len(texts)} promoters: the largest mean contribution is at {peak}")
    print(f"from -35 to -25 it is {near / np.median(strength):.1f} times the median of all positions")
    print(f"{100 * inside:.0f} % of the strongest windows begin between -40 and -20")
    print(f"completeness is missed by at most {np.abs(result.gaps).max():.1e}")


def splice(model: str, out: Path, count: int) -> None:
    """Draw the mean effects of substitutions around splice junctions of both kinds."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    position = np.arange(60) - JUNCTION
    titles = {"EI": "an exon ends: GT begins the intron", "IE": "an exon begins: AG ends the intron"}
    for axes, (label, title) in zip(panels, titles.items(), strict=True):
        texts = rows_of(load_splice_junctions(), label, count)
        texts = [text for text in texts if set(text) <= set("ACGT")]
        losses = np.stack(
            [-mutagenesis(model, text, target=label, batch_size=64).mean_effects for text in texts]
        )
        frequencies = frequencies_of(texts)
        # Of each position: the mean loss, divided among the bases that are there.
        axes.bar(position, losses.mean(0), color="#bbbbbb", width=0.9)
        for i in range(60):
            base = "ACGT"[frequencies[i].argmax()]
            if frequencies[i].max() > 0.6:
                axes.text(
                    position[i], max(0, losses[:, i].mean()), base, ha="center", va="bottom", fontsize=8
                )
        axes.axvline(-0.5, color="black", linewidth=0.5)
        axes.margins(y=0.15)
        axes.set_ylabel("mean loss of the logit")
        axes.set_title(f"{label}: {title} ({len(texts)} of the test part)", fontsize=10)
        order = position[np.argsort(-losses.mean(0))[:4]].tolist()
        print(f"{label}: the four positions with the largest loss are {order}")
    panels[1].set_xlabel("position, relative to the junction (bases above 60 % of the rows are written)")
    save_figure(out / "analysis_splice.png", figure)


def example(model: str, out: Path) -> None:
    """Draw one promoter: contributions, substitutions, and how its bases depend on each other."""
    texts = rows_of(load_tata_promoters(), "promoter", 300)
    text = next(text for text in texts if "TATAAA" in text[210:228])
    target = "promoter" if "promoter" in predict(model, [text]).filter(like="promoter").columns else None
    result = mutagenesis(model, text, 200, 260, target=target, batch_size=64)
    result.plot(
        out / "analysis_mutagenesis.png", title="substitutions in a promoter (TATA box at 216 to 224)"
    )
    map_of = dependency_map(hyenadna.example_checkpoint(), text, 200, 260)
    map_of.plot(out / "analysis_dependencies.png", title="the same bases, the checkpoint in the package")


def processor_seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def costs(rounds: int) -> None:
    """Print the cost of mutagenesis and of a dependency map, in full passes of the same batch."""
    name = hyenadna.example_checkpoint()
    rng = np.random.default_rng(0)
    tokenizer = HyenaDNATokenizer()
    classifier = HyenaDNAForSequenceClassification.from_pretrained(name, num_labels=2).eval()
    language = HyenaDNAForCausalLM.from_pretrained(name).eval()
    cases = [
        ("mutagenesis, classifier, 300 bases", classifier, 300, 64, 900,
         lambda text: mutagenesis(classifier, text, target=0, batch_size=64)),
        ("mutagenesis, language model, 300 bases, both strands", language, 300, 64, 1800,
         lambda text: mutagenesis(language, text, batch_size=64)),
        ("dependency map, 512 bases, both strands", language, 512, 64, 3072,
         lambda text: dependency_map(language, text, batch_size=64)),
    ]  # fmt: skip
    print("| | seconds | full passes | seconds | ratio |\n|---|---|---|---|---|")
    for title, model, length, batch, passes, run in cases:
        text = "".join(rng.choice(list("ACGT"), length))
        ids = tokenizer([text] * batch, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            model(ids)
            one = min(processor_seconds(lambda m=model, i=ids: m(i)) for _ in range(rounds)) / batch
        cost = min(processor_seconds(lambda r=run, t=text: r(t)) for _ in range(max(1, rounds // 3)))
        print(f"| {title} | {cost:.1f} | {passes:,} | {passes * one:.1f} | {cost / (passes * one):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--promoters", help="a classifier of genomics/tata_promoters.csv.gz")
    parser.add_argument("--splice", help="a classifier of genomics/splice_junctions.csv")
    parser.add_argument("--count", type=int, default=100, help="rows of the test part (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--costs", action="store_true", help="measure instead")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.costs:
        costs(args.rounds)
    if args.promoters:
        promoters(args.promoters, args.out, args.count)
        example(args.promoters, args.out)
    if args.splice:
        splice(args.splice, args.out, args.count)


if __name__ == "__main__":
    main()
