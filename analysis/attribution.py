"""Which bases an output rests on: gradient x input and integrated gradients, in one-hot space.

    from hyenadna.analysis import attributions
    result = attributions(classifier, sequences, target="promoter")
    result.contributions[0]                            # float64 (length,), one value for each base
    result.plot(0, "first.pdf")

A sequence is a one-hot array x with rows for A, C, G and T. The neutral input x0 has 1/4 in each
row: no base in particular. The contribution of a base is its gradient minus the mean over the four
(Majdandzic and others, 2023: what gradients say off the simplex is noise). Those of integrated
gradients (arXiv 1703.01365), averaged on the way from x0 to x, add up to f(x) - f(x0).

`OneHotModel` gives any model to tools that expect `y = model(one_hot)`, such as tangermeme.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hyenadna.errors import InputError
from hyenadna.genomics.letters import FIRST_BASE, SOFT_MASKED, encode
from hyenadna.modeling_hyenadna import HyenaDNAMLP, HyenaDNAOperator
from hyenadna.tokenization import HyenaDNATokenizer
from hyenadna.training.runs.files import write_whole
from hyenadna.training.runs.models import load_tokenizer

from .likelihoods import check_strand, strands_of
from .models import (
    ANY,
    LANGUAGE,
    TOKENS,
    ModelOrName,
    Outputs,
    SpecialIds,
    borrowed,
    check_dna,
    device_of,
    head_of,
    special_ids,
    tested_strand,
)
from .pictures import check_picture, draw_logo, save_figure
from .sequences import Data, encode_named, sequences_of

__all__ = ["METHODS", "Attributions", "OneHotModel", "attributions", "deep_lift_rules", "one_hot_of"]

_N = int(encode("N")[0])

METHODS = ("integrated_gradients", "gradient_x_input")


# ------------------------------------------------------------------------------ one-hot inputs


def one_hot_of(sequence: str) -> np.ndarray:
    """Return a sequence as a one-hot array, float32 `(4, length)`, rows A, C, G, T; N is all zeros.

    >>> one_hot_of("AN").tolist()
    [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """
    ids = encode_named(sequence, "the sequence") % SOFT_MASKED
    bases = np.arange(FIRST_BASE, FIRST_BASE + 4, dtype=np.uint8)
    return (ids == bases[:, None]).astype(np.float32)


class OneHotModel(nn.Module):
    """A model as a function of one-hot sequences, for tangermeme and its like.

    It shares the weights of the model that it wraps. What a column lacks to 1 is N: zeros are N, and
    a mixture of bases is the mixture of their embeddings.

    Args:
        model: A classifier, a regression, a model with a head for each position, or a language
            model, in evaluation mode.
        target: Return this class or number alone, by name or number; by default all.
        output: `"logit"` or `"probability"`.
        position: The position whose output is returned, from 0, for a head for each position; for a
            language model, follow the log-probability of this base alone.
        strand: `"forward"`, `"reverse"` or `"both"`, for the mean of their logits.
        tokenizer: The tokenizer, if the model was trained with special tokens (see `predict`).

    Raises:
        InputError: A setting does not fit the model.

    >>> from hyenadna import HyenaDNAConfig, HyenaDNAForSequenceClassification
    >>> config = HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66, num_labels=3)
    >>> OneHotModel(HyenaDNAForSequenceClassification(config))(torch.zeros(2, 4, 10)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        target: str | int | None = None,
        output: str = "logit",
        position: int | None = None,
        strand: str = "forward",
        tokenizer: HyenaDNATokenizer | None = None,
    ):
        super().__init__()
        check_strand(strand)
        self.model = model
        # Tools set a mode and go back to that of the wrapper, which starts with that of the model.
        self.training = model.training
        self.head = head_of(model)
        self.strands = strands_of(strand)
        self.position = position
        self.output = output
        self.target: int | None = None
        self.special = SpecialIds([], [])
        if self.head == LANGUAGE:
            if target is not None or output != "logit":
                raise InputError(
                    "a language model has no classes: leave target and output out; what it gives is the "
                    "log-likelihood, or with position the log-probability of a base"
                )
            return
        if (position is not None) != (self.head == TOKENS):
            raise InputError(
                "position is the one whose output is read: a head for each position needs it, and a "
                "head for whole sequences has none"
            )
        self.outputs = Outputs(model.config)
        self.outputs.scaled(torch.zeros(1, len(self.outputs.names)), output)  # refuses an unknown one
        self.special = special_ids(model, tokenizer)
        if target is not None:
            self.target = self.outputs.number_of(target)

    def forward(self, one_hot: torch.Tensor) -> torch.Tensor:
        """Return outputs `(batch, outputs)`, or `(batch, 1)` with a target or a language model.

        Args:
            one_hot: `(batch, 4, length)`, rows for A, C, G, T.
        """
        if one_hot.ndim != 3 or one_hot.shape[1] != 4:
            raise InputError(f"one_hot has shape {tuple(one_hot.shape)}; expected (batch, 4, length)")
        by_strand = []
        for strand in self.strands:
            # The reverse complement: A, C, G, T become T, G, C, A, in the opposite order.
            x = one_hot if strand == "forward" else one_hot.flip(1, 2)
            by_strand.append(self._on_strand(x, strand == "reverse"))
        values = torch.stack(by_strand).mean(0)
        if self.head == LANGUAGE:
            return values
        values = self.outputs.scaled(values, self.output)
        return values if self.target is None else values[:, self.target, None]

    def _on_strand(self, one_hot: torch.Tensor, is_reverse: bool) -> torch.Tensor:
        at = self.position
        if at is not None:
            if not 0 <= at < one_hot.shape[2]:
                raise InputError(f"position is {at}, but the sequences have {one_hot.shape[2]} bases")
            at = one_hot.shape[2] - 1 - at if is_reverse else at
        x = one_hot.transpose(1, 2)
        logits = self.model(inputs_embeds=self._embedded(x)).logits
        if self.head == LANGUAGE:
            return self._log_likelihood(logits, x, at)
        if self.head == TOKENS:
            return logits[:, at + len(self.special.before)]
        return logits

    def _embedded(self, x: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of one-hot letters `(batch, length, 4)` and the tokens around them."""
        embedding = self.model.get_input_embeddings()
        device = device_of(self.model)

        def of(ids: list[int]) -> torch.Tensor:
            return embedding(torch.tensor(ids, dtype=torch.long, device=device))

        bases = of(list(range(FIRST_BASE, FIRST_BASE + 4)))
        rest = 1 - x.sum(2, keepdim=True)
        letters = x.to(bases.dtype) @ bases + rest.to(bases.dtype) * of([_N])
        around = [of(ids).expand(len(x), -1, -1) for ids in self.special]
        return torch.cat([around[0], letters, around[1]], dim=1)

    def _log_likelihood(self, logits: torch.Tensor, x: torch.Tensor, at: int | None) -> torch.Tensor:
        """Return the log-probability of what a soft sequence holds, `(batch, 1)`."""
        # At least float32, and float64 where the model computes in it.
        logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
        log_p = logits.log_softmax(-1)[..., FIRST_BASE : FIRST_BASE + 4]
        of_base = (log_p.to(x.dtype) * x[:, 1:]).sum(2)
        if at is None:
            return of_base.sum(1, keepdim=True)
        if at == 0:  # the first base of a strand has no context
            return of_base[:, :1] * 0
        return of_base[:, at - 1, None]


def deep_lift_rules(points: int = 8) -> dict[type[nn.Module], Callable[..., Any]]:
    """Return the rules by which tangermeme's `deep_lift_shap` attributes a HyenaDNA.

    DeepLIFT has rules for the non-linear modules that it knows. Ours are none of them: an operator
    multiplies its gates, and the activation of the MLP is a function. Here each of them, and each
    norm, is attributed as a whole, by integrated gradients along its own inputs.

    Args:
        points: Points of the quadrature.

    Raises:
        InputError: tangermeme is not installed, or too old.

    >>> deep_lift_shap(OneHotModel(model), x, additional_nonlinear_ops=deep_lift_rules())  # doctest: +SKIP
    """
    try:
        from tangermeme.deep_lift_shap import integrated_gradients_op
    except ImportError as error:
        raise InputError(f"deep_lift_rules needs tangermeme 1.6 (pip install tangermeme): {error}") from error
    of_input = integrated_gradients_op(K=points)

    def rule(module: nn.Module, grad_input: tuple[Any, ...], grad_output: tuple[Any, ...]) -> tuple[Any, ...]:
        # The hidden states come first; the others, such as a mask, have no gradient.
        return (*of_input(module, grad_input, grad_output), *[None] * (len(grad_input) - 1))

    return {HyenaDNAOperator: rule, HyenaDNAMLP: rule, nn.LayerNorm: rule}


# ------------------------------------------------------------------------------ the result


@dataclass
class Attributions:
    """What each base contributes to an output.

    Attributes:
        names: The names of the sequences.
        sequences: The sequences, in capitals.
        hypothetical: For each sequence, what A, C, G and T would contribute at each position, float64
            `(4, length)`. 0 where the sequence has no base.
        outputs: The output for each sequence, float64 `(sequences,)`.
        neutral: The output for the neutral input, likewise.
        targets: What was followed, in words.
        method: One of `METHODS`.
    """

    names: list[str]
    sequences: list[str]
    hypothetical: list[np.ndarray] = field(repr=False)
    outputs: np.ndarray
    neutral: np.ndarray
    targets: list[str]
    method: str

    @property
    def contributions(self) -> list[np.ndarray]:
        """For each sequence, what its bases contribute, float64 `(length,)`; 0 for N."""
        pairs = zip(self.hypothetical, self.sequences, strict=True)
        return [(values * one_hot_of(text)).sum(0) for values, text in pairs]

    @property
    def gaps(self) -> np.ndarray:
        """How far the contributions miss f(x) - f(x0), `(sequences,)`; for integrated gradients."""
        sums = np.array([values.sum() for values in self.contributions])
        return sums - (self.outputs - self.neutral)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each base: `id`, `position` (from 0), `base`, `contribution`."""
        lengths = [len(text) for text in self.sequences]
        return pd.DataFrame(
            {
                "id": np.repeat(np.array(self.names, dtype=object), lengths),
                "position": np.concatenate([np.arange(length) for length in lengths]),
                "base": list("".join(self.sequences)),
                "contribution": np.concatenate(self.contributions),
            }
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return one-hot sequences and hypothetical contributions, each `(sequences, 4, length)`.

        TF-MoDISco takes them so.

        Raises:
            InputError: The sequences have different lengths.
        """
        if len({len(text) for text in self.sequences}) > 1:
            raise InputError("arrays need sequences of one length; cut them, or take `hypothetical`")
        return np.stack([one_hot_of(text) for text in self.sequences]), np.stack(self.hypothetical)

    def save(self, path: str | Path) -> None:
        """Write `arrays` as .npz: `one_hot` and `hypothetical`, and the `names`."""
        one_hot, hypothetical = self.arrays()
        arrays = {"one_hot": one_hot, "hypothetical": hypothetical, "names": np.array(self.names)}
        if Path(path).suffix != ".npz":
            raise InputError(f"{path}: attributions are written as .npz")
        write_whole(Path(path), lambda temporary: np.savez_compressed(temporary, **arrays))

    def plot(
        self, row: int = 0, path: str | Path | None = None, start: int = 0, end: int | None = None
    ) -> Figure:
        """Draw the bases of a sequence, each as high as its contribution.

        Args:
            row: The number of the sequence.
            path: Also write the picture: .png, .svg or .pdf.
            start: The first position to draw, from 0.
            end: The position after the last one.
        """
        if path is not None:
            check_picture(path)
        letters = self.sequences[row][start:end]
        figure = Figure(figsize=(min(30.0, 3 + len(letters) / 8), 2.2), layout="constrained")
        axes = figure.subplots()
        draw_logo(axes, letters, self.contributions[row][start:end], start)
        axes.set_xlabel("position, counted from 0")
        axes.set_ylabel("contribution")
        title = f"{self.names[row]}: {self.targets[row]} = {self.outputs[row]:.3g}"
        axes.set_title(title, parse_math=False)
        if path is not None:
            save_figure(Path(path), figure)
        return figure


# ------------------------------------------------------------------------------ the function


def attributions(
    model: ModelOrName,
    data: Data,
    *,
    method: str = "integrated_gradients",
    target: str | int | None = None,
    output: str = "logit",
    position: int | None = None,
    strand: str | None = None,
    steps: int = 32,
    batch_size: int = 32,
    tokenizer: HyenaDNATokenizer | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    sequence_column: str = "sequence",
    id_column: str = "id",
) -> Attributions:
    """Return what each base of each sequence contributes to an output.

    Args:
        model: A model with any head, a folder, or an id on the Hub. An object is left unchanged.
        data: Sequences; see `sequences_of`.
        method: `"integrated_gradients"`, whose contributions add up to the difference from the
            neutral input, or `"gradient_x_input"`, a single gradient.
        target: The class or number to explain, by name or number. By default the class that is
            predicted for a sequence. Not for a language model: its log-likelihood is explained.
        output: `"logit"`, or `"probability"` of the class.
        position: From 0. A head for each position needs it; a language model takes it to explain
            the log-probability of the base there.
        strand: `"forward"`, `"reverse"`, or `"both"` for the mean; by default what the folder was
            tested with (see `predict`), and forward for a language model.
        steps: Points of integrated gradients (Gauss-Legendre) on the way from the neutral input. With
            max pooling the gradient jumps: take some 500, and look at `gaps`.
        batch_size: Inputs to read at once.
        tokenizer: See `predict`.
        device: Where to compute. By default an object stays where it is, and a loaded model goes to
            the GPU if there is one.
        progress: Show a progress bar.
        sequence_column: The column of a table that holds the sequences.
        id_column: The column of a table that holds the names, if there is one.

    Raises:
        InputError: A sequence is too long or has other letters, or a setting does not fit the model.

    >>> from hyenadna import HyenaDNAConfig, HyenaDNAForSequenceClassification
    >>> config = HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=66)
    >>> attributions(HyenaDNAForSequenceClassification(config), ["ACGT"]).contributions[0].shape
    (4,)
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
    if steps < 1 or batch_size < 1:
        raise InputError(f"steps is {steps} and batch_size {batch_size}; both must be at least 1")
    names, sequences = sequences_of(data, sequence_column, id_column)
    texts = []
    for name, sequence in zip(names, sequences, strict=True):
        encode_named(sequence, name)
        texts.append(sequence.upper().replace("U", "T"))

    hypothetical = []
    outputs = []
    neutral = []
    targets = []
    check_dna(model, "attributions")
    with borrowed(model, ANY, "attributions", device) as reader:
        if strand is None:
            strand = "forward" if head_of(reader) == LANGUAGE else tested_strand(model)
        if tokenizer is None and isinstance(model, str | Path):
            tokenizer = load_tokenizer(str(model))
        function = OneHotModel(
            reader, target=target, output=output, position=position, strand=strand, tokenizer=tokenizer
        )
        for name, text in zip(names, texts, strict=True):
            if len(text) + function.special.count > reader.config.max_seq_len:
                raise InputError(
                    f"{name} has {len(text):,} bases, but the model reads at most max_seq_len="
                    f"{reader.config.max_seq_len:,}: cut it, or use a checkpoint with a longer max_seq_len"
                )
        for text in tqdm(texts, unit="sequence", disable=not progress):
            explained = _explain(function, text, method, steps, batch_size)
            hypothetical.append(explained.values)
            outputs.append(explained.output)
            neutral.append(explained.neutral)
            targets.append(_described(function, explained.number))
    return Attributions(
        list(names), texts, hypothetical, np.array(outputs), np.array(neutral), targets, method
    )


def _described(function: OneHotModel, number: int) -> str:
    if function.head == LANGUAGE:
        if function.position is None:
            return "log-likelihood"
        return f"log-probability of position {function.position}"
    name = function.outputs.names[number]
    at = f" at position {function.position}" if function.head == TOKENS else ""
    return f"{name}{at}" if function.outputs.is_regression else f"{function.output} of {name}{at}"


@dataclass
class _Explained:
    values: np.ndarray
    output: float
    neutral: float
    number: int  # of the output


def _explain(function: OneHotModel, text: str, method: str, steps: int, batch_size: int) -> _Explained:
    """Return the hypothetical contributions of one sequence, and the outputs at both ends."""
    parameter = next(function.parameters())
    x = torch.from_numpy(one_hot_of(text)).to(parameter.device, parameter.dtype)
    # No base in particular. At an N nothing differs from x, so nothing is attributed to it.
    x0 = x.sum(0, keepdim=True).expand_as(x) / 4
    with torch.no_grad():
        at_x = function(x[None])[0].double()
        at_x0 = function(x0[None])[0].double()
    number = int(at_x.argmax()) if len(at_x) > 1 else 0

    if method == "gradient_x_input":
        points = np.ones(1)
        weights = np.ones(1)
    else:
        points, weights = np.polynomial.legendre.leggauss(steps)
        points = (points + 1) / 2  # from [-1, 1] to [0, 1]
        weights = weights / 2
    gradient = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for share, weight in _batches(points, weights, batch_size):
        share = torch.from_numpy(share).to(x)[:, None, None]
        inputs = (x0 + share * (x - x0)).requires_grad_()
        with torch.enable_grad():
            total = function(inputs)[:, number].sum()
            (slopes,) = torch.autograd.grad(total, inputs)
        gradient += (slopes.double() * torch.from_numpy(weight).to(x.device)[:, None, None]).sum(0)

    # Relative to the mean over the four bases, which is what the neutral input holds.
    values = (gradient - gradient.mean(0)).cpu().numpy()
    values[:, x.sum(0).cpu().numpy() == 0] = 0
    chosen = number if function.target is None else function.target
    return _Explained(values, float(at_x[number]), float(at_x0[number]), chosen)


def _batches(
    points: np.ndarray, weights: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for first in range(0, len(points), batch_size):
        yield points[first : first + batch_size], weights[first : first + batch_size]
