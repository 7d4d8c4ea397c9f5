"""What a trained model says: likelihoods, effects of variants, embeddings, and their pictures.

    from hyenadna.analysis import log_likelihoods, score_variants
    log_likelihoods(model, ["ACGTTG"])               # the log-probability of each base

| file | what it holds |
|---|---|
| `score.py`, `likelihoods.py` | `hyenadna score`; log-probabilities of bases |
| `variants.py` | `hyenadna variants`: effects of the alleles of a VCF |
| `mutagenesis.py` | effects of all substitutions in a region |
| `embed.py`, `classifier.py` | `hyenadna embed`; a cross-validated classifier on embeddings |
| `pictures.py`, `map.html` | the map of embeddings, the picture of substitutions |
| `sequences.py` | sequences of a file that a user names |

`embed` and `mutagenesis` are modules; their functions are `embed.embed` and
`mutagenesis.mutagenesis`. Positions count from 0, except those of a VCF, which count from 1.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classifier import cross_validate, groups_of
    from .likelihoods import log_likelihoods
    from .pictures import draw_map, draw_mutagenesis, map_to_plane, write_html
    from .sequences import NamedSequences, read_sequences
    from .variants import score_variants

# A name is imported on first use, so that one command does not load the libraries of all others.
_FILE_OF_NAME = {
    "NamedSequences": "sequences",
    "cross_validate": "classifier",
    "draw_map": "pictures",
    "draw_mutagenesis": "pictures",
    "groups_of": "classifier",
    "log_likelihoods": "likelihoods",
    "map_to_plane": "pictures",
    "read_sequences": "sequences",
    "score_variants": "variants",
    "write_html": "pictures",
}
_MODULES = ("classifier", "embed", "likelihoods", "mutagenesis", "pictures", "score", "sequences", "variants")

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
    "read_sequences",
    "score",
    "score_variants",
    "variants",
    "write_html",
]


def __getattr__(name: str) -> Any:
    if name in _FILE_OF_NAME:
        return getattr(import_module(f"{__name__}.{_FILE_OF_NAME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
