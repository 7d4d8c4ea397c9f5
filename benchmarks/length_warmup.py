"""Does a warm-up of the sequence length help? Pretrain the same model with and without it.

    python benchmarks/length_warmup.py --data chr20.fa --validation 20:55,025,520-58,025,520

Both runs see the same number of tokens (--tokens). One warms up the sequence length over the first
third of the steps. The validation perplexity over tokens and over seconds is drawn to
docs/length_warmup.png. Validation windows have their full length in both. The runs are in
--output_dir; if the command was killed, run it again and it goes on.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from hyenadna.training.pretrain import PretrainArguments, pretrain

STEPS_BETWEEN_POINTS = 25


def curve(folder: Path) -> list[tuple[int, float, float]]:
    """Return tokens, seconds and perplexity at each evaluation of a run."""
    points = []
    seconds = 0.0
    for line in json.loads((folder / "trainer_state.json").read_text())["log_history"]:
        seconds = line.get("seconds", seconds)
        if "eval_perplexity" in line:
            points.append((line["num_input_tokens_seen"], seconds, line["eval_perplexity"]))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="FASTA file")
    parser.add_argument("--validation", nargs="+", required=True, help="chromosomes or regions")
    parser.add_argument("--tokens", type=float, default=2e6)
    parser.add_argument("--d_model", type=int, default=64)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--output_dir", default="length-warmup")
    parser.add_argument("--picture", default="docs/length_warmup.png")
    args = parser.parse_args()

    steps = round(args.tokens / args.batch / args.window)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    over_tokens, over_seconds = figure.subplots(1, 2, sharey=True)
    print("| | tokens | seconds | validation perplexity | best Markov model |\n|---|---|---|---|---|")
    for name, warmup in (("warm-up from 64", steps // 3), ("no warm-up", 0)):
        folder = Path(args.output_dir) / f"warmup-{warmup}"
        results = pretrain(
            PretrainArguments(
                output_dir=str(folder),
                data=[args.data],
                validation=args.validation,
                d_model=args.d_model,
                max_seq_len=args.window + 2,
                per_device_train_batch_size=args.batch,
                learning_rate=args.learning_rate,
                max_steps=steps,
                length_warmup_steps=warmup,
                eval_steps=STEPS_BETWEEN_POINTS,
                logging_steps=STEPS_BETWEEN_POINTS,
                save_steps=STEPS_BETWEEN_POINTS * 4,
                eval_windows=128,
                resume=True,
                use_cpu=True,
            )
        ).results
        tokens, seconds, perplexity = zip(*curve(folder), strict=True)
        over_tokens.plot(tokens, perplexity, label=name)
        over_seconds.plot(seconds, perplexity, label=name)
        markov = min(results["markov"]["validation"]["perplexity"].values())
        print(
            f"| {name} | {results['tokens_seen']:,} | {results['train_seconds']:.0f} | "
            f"{results['metrics']['validation']['perplexity']:.4f} | {markov:.4f} |"
        )
    over_tokens.set(xlabel="tokens", ylabel="validation perplexity per base", ylim=(None, 4.0))
    over_seconds.set(xlabel="seconds, evaluations included")
    over_tokens.legend()
    figure.savefig(args.picture, dpi=110)


if __name__ == "__main__":
    main()
