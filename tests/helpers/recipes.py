"""Rows, settings and flags for quick runs of the recipes."""

import numpy as np
from datasets import Dataset

from hyenadna.training.experiments.species import SpeciesArguments
from hyenadna.training.finetune import FinetuneArguments

TINY = {"d_model": 8, "n_layer": 1, "max_seq_len": 40}
QUICK = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "use_cpu": True, "disable_tqdm": True}
# One strand, the best epoch by its MCC, no average, no k-mers: what most tests of a run are not about.
PLAIN = {
    "reverse_complement": 0.0,
    "metric_for_best_model": "auto",
    "patience": 0,
    "weight_averaging": 0.0,
    "baselines": False,
}
SPECIES = {**QUICK, "d_model": 8, "n_layer": 1, "windows_per_epoch": 32, "test_windows": 10}


def make_rows(n: int = 40, seed: int = 0, classes=("AT rich", "GC rich")) -> Dataset:
    """Return sequences of 10 to 30 bases whose composition gives the class away."""
    rng = np.random.default_rng(seed)
    labels = [classes[i % len(classes)] for i in range(n)]
    weights = {
        "AT rich": [0.4, 0.1, 0.1, 0.4],
        "GC rich": [0.1, 0.4, 0.4, 0.1],
        "C rich": [0.1, 0.7, 0.1, 0.1],
    }
    sequences = [
        "".join(rng.choice(list("ACGT"), rng.integers(10, 31), p=weights[label])) for label in labels
    ]
    return Dataset.from_dict({"id": [f"r{i}" for i in range(n)], "sequence": sequences, "label": labels})


def finetune_args(output_dir, **changes) -> FinetuneArguments:
    return FinetuneArguments(output_dir=str(output_dir), **{**TINY, **QUICK, **PLAIN, **changes})


def species_args(genomes, output_dir="x", **changes) -> SpeciesArguments:
    return SpeciesArguments(
        data=str(genomes), output_dir=str(output_dir), **{**SPECIES, "window": 50, **changes}
    )


def flags(**settings) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]
