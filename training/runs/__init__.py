"""What the commands share.

| file | what it holds |
|---|---|
| `settings.py` | settings as dataclass fields, from flags or YAML; which of them decide a result |
| `folder.py` | the folder of a run: resuming, fingerprints, versions |
| `files.py`, `outputs.py`, `shards.py` | files written whole, locks, parts of a long job |
| `checkpoints.py` | Trainer's checkpoints and their manifests: which of them can be resumed |
| `models.py` | a model from scratch or from a checkpoint, and errors of loading |
| `trainer.py` | the optimisation, checkpoints, stopping when training diverges |
| `supervised.py` | runs on labelled sequences: settings, rows, collator, `train_and_test` |
| `language.py` | labels as the next token of a language model |
| `adapters.py` | soft prompts and LoRA |
| `metrics.py`, `pictures.py` | metrics, pictures |
| `baselines.py`, `markov.py` | k-mer and Markov models to compare with |

The public paths to this are `hyenadna.training.trainer` and `hyenadna.training.adapters`.
"""

__all__ = [
    "adapters",
    "baselines",
    "checkpoints",
    "files",
    "folder",
    "language",
    "markov",
    "metrics",
    "models",
    "outputs",
    "pictures",
    "settings",
    "shards",
    "supervised",
    "trainer",
]
