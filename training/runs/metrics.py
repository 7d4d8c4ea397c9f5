"""Metrics as local `evaluate.Metric` classes, which need no network, and `compute_metrics`.

    from hyenadna.training.runs.metrics import MatthewsCorrelation
    metric = MatthewsCorrelation(keep_in_memory=True)
    metric.compute(predictions=[0, 1, 1], references=[0, 1, 0])  # {"mcc": 0.5}

Predictions and references are class indices, or lists of 0 and 1 for multi-label problems; a
multi-label result is the mean over the labels, except for the accuracy, which counts the rows whose
labels are all right.
"""

from collections.abc import Callable

import evaluate
import numpy as np
from datasets import Features, List, Value
from scipy.special import expit, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error, roc_auc_score
from transformers import EvalPrediction

_CLASSES = [
    Features(predictions=Value("int64"), references=Value("int64")),
    Features(predictions=List(Value("int64")), references=List(Value("int64"))),
]
_SCORES = [
    Features(prediction_scores=List(Value("float64")), references=Value("int64")),
    Features(prediction_scores=List(Value("float64")), references=List(Value("int64"))),
]
_NUMBERS = Features(predictions=Value("float64"), references=Value("float64"))


def _describe(description: str, citation: str, features: Features | list[Features]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=f"\nInputs: {features}",
        features=features,
    )


class Accuracy(evaluate.Metric):
    """Fraction of rows whose class (multi-label: whose every label) is right: `{"accuracy": 0..1}`."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "", _CLASSES)

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(evaluate.Metric):
    """Mean of the classes' F1, each class counting the same: `{"f1_macro": 0..1}`."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "", _CLASSES)

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0))}


class MatthewsCorrelation(evaluate.Metric):
    """Matthews' correlation coefficient, 0 for chance whatever the imbalance: `{"mcc": -1..1}`."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006", _CLASSES)

    def _compute(self, predictions, references) -> dict[str, float]:
        references = np.asarray(references)
        predictions = np.asarray(predictions)
        if references.ndim == 1:
            return {"mcc": float(matthews_corrcoef(references, predictions))}
        of_labels = [
            matthews_corrcoef(reference, prediction)
            for reference, prediction in zip(references.T, predictions.T, strict=True)
        ]
        return {"mcc": float(np.mean(of_labels))}


class AUROC(evaluate.Metric):
    """Area under the receiver operating characteristic, one class against the rest: `{"auroc":
    0..1}`.

    `prediction_scores` has one score per class (or per label) in each row. The result is the mean
    over the classes of which there are both positive and negative rows, and NaN if there are none.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "Fawcett 2006, doi:10.1016/j.patrec.2005.10.010", _SCORES)

    def _compute(self, prediction_scores, references) -> dict[str, float]:
        scores = np.asarray(prediction_scores)
        positive = np.asarray(references)
        if positive.ndim == 1:
            positive = positive[:, None] == np.arange(scores.shape[1])
        defined = [c for c in range(scores.shape[1]) if 0 < positive[:, c].sum() < len(positive)]
        if not defined:
            return {"auroc": float("nan")}
        areas = [roc_auc_score(positive[:, c], scores[:, c]) for c in defined]
        return {"auroc": float(np.mean(areas))}


class RegressionScores(evaluate.Metric):
    """Mean squared error and both correlations: `{"mse": 0.., "pearson": -1..1, "spearman":
    -1..1}`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "", _NUMBERS)

    def _compute(self, predictions, references) -> dict[str, float]:
        mse = float(mean_squared_error(references, predictions))
        # no correlation with a constant is defined
        if len(set(predictions)) < 2 or len(set(references)) < 2:
            return {"mse": mse, "pearson": float("nan"), "spearman": float("nan")}
        return {
            "mse": mse,
            "pearson": float(pearsonr(references, predictions).statistic),
            "spearman": float(spearmanr(references, predictions).statistic),
        }


def probabilities(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Turn logits `(rows, labels)` into float64 probabilities of the same shape.

    Regression: no change.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if problem_type == "single_label_classification":
        return softmax(logits, axis=-1)
    if problem_type == "multi_label_classification":
        return expit(logits)
    return logits


def predicted_labels(probability: np.ndarray, problem_type: str) -> np.ndarray:
    """Return classes `(rows,)`, labels at 0.5 or above `(rows, labels)`, or numbers `(rows,)`."""
    if problem_type == "single_label_classification":
        return probability.argmax(axis=-1)
    if problem_type == "multi_label_classification":
        return (probability >= 0.5).astype(np.int64)
    return probability[:, 0]


def make_compute_metrics(problem_type: str) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return `compute_metrics` for a `Trainer` whose model has this `problem_type`."""
    if problem_type == "regression":
        regression_scores = RegressionScores(keep_in_memory=True)

        def compute_metrics(output: EvalPrediction) -> dict[str, float]:
            values = predicted_labels(probabilities(output.predictions, problem_type), problem_type)
            return regression_scores.compute(predictions=values, references=output.label_ids)

        return compute_metrics

    by_class = [metric(keep_in_memory=True) for metric in (Accuracy, MacroF1, MatthewsCorrelation)]
    auroc = AUROC(keep_in_memory=True)

    def compute_metrics(output: EvalPrediction) -> dict[str, float]:
        scores = probabilities(output.predictions, problem_type)
        references = output.label_ids.astype(np.int64)
        predictions = predicted_labels(scores, problem_type)
        results = {}
        for metric in by_class:
            results |= metric.compute(predictions=predictions, references=references)
        return results | auroc.compute(prediction_scores=scores, references=references)

    return compute_metrics
