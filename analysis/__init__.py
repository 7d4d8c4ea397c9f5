"""What a trained model says about a sequence: functions for notebooks, and the commands on top.

    from hyenadna.analysis import embed, score, variant_effects, mutagenesis, predict
    score("my-model", ["ACGTTG"])                    # a table of log-likelihoods

| file | what it holds |
|---|---|
| `embedding.py`, `classifier.py` | `embed`, `hyenadna embed`; a cross-validated classifier on vectors |
| `scoring.py`, `likelihoods.py` | `score`, `hyenadna score`; log-probabilities of bases |
| `variants.py` | `variant_effects`, `hyenadna variants`: effects of the alleles of a VCF |
| `mutations.py` | `mutagenesis`: effects of all changes in a region |
| `prediction.py` | `predict`, `predict_windows`, `hyenadna predict`: classes, also along a genome |
| `models.py`, `sequences.py` | the model and the sequences of a call, in whatever form they come |
| `pictures.py`, `map.html` | maps of embeddings, heat maps of changes |

A function takes a model (an object, a folder, or an id on the Hub) and sequences (texts, a table, a
file, or a one-hot array), and leaves the model as it was. Positions count from 0, except those of a
VCF and the column `pos`, which count from 1.
"""

from typing import TYPE_CHECKING

from hyenadna.lazy import on_first_use

if TYPE_CHECKING:
    from .classifier import cross_validate, groups_of
    from .embedding import embed
    from .likelihoods import log_likelihoods
    from .mutations import mutagenesis
    from .pictures import draw_map, draw_mutagenesis, map_to_plane, write_html
    from .prediction import predict, predict_windows
    from .scoring import score
    from .sequences import NamedSequences, read_sequences, sequences_of
    from .variants import score_variants, variant_effects

# A name is imported on first use, so that one command does not load the libraries of all others.
_FILE_OF_NAME = {
    "NamedSequences": "sequences",
    "cross_validate": "classifier",
    "draw_map": "pictures",
    "draw_mutagenesis": "pictures",
    "embed": "embedding",
    "groups_of": "classifier",
    "log_likelihoods": "likelihoods",
    "map_to_plane": "pictures",
    "mutagenesis": "mutations",
    "predict": "prediction",
    "predict_windows": "prediction",
    "read_sequences": "sequences",
    "score": "scoring",
    "score_variants": "variants",
    "sequences_of": "sequences",
    "variant_effects": "variants",
    "write_html": "pictures",
}

__all__ = [
    "NamedSequences",
    "cross_validate",
    "draw_map",
    "draw_mutagenesis",
    "embed",
    "groups_of",
    "log_likelihoods",
    "map_to_plane",
    "mutagenesis",
    "predict",
    "predict_windows",
    "read_sequences",
    "score",
    "score_variants",
    "sequences_of",
    "variant_effects",
    "write_html",
]

on_first_use(globals(), _FILE_OF_NAME)
