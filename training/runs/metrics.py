"""Metrics as `evaluate.Metric` classes that need no network, and `compute_metrics` for Trainer.

    from hyenadna.training.runs.metrics import MatthewsCorrelation
    metric = MatthewsCorrelation(keep_in_memory=True)
    metric.compute(predictions=[0, 1, 1], references=[0, 1, 0])  # {"mcc": 0.5}

Predictions and references are class indices or, for multi-label problems, lists of 0 and 1. A
multi-label result is the mean over the labels, except accuracy, which counts the rows in which
every label is right.
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
    """Fraction of rows with the right class (multi-label: all labels): `{"accuracy": 0..1}`."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "", _CLASSES)

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(evaluate.Metric):
    """Unweighted mean of the F1 of each class: `{"f1_macro": 0..1}`."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "", _CLASSES)

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0))}


class MatthewsCorrelation(evaluate.Metric):
    """Matthews correlation coefficient; chance is 0 at any class imbalance: `{"mcc": -1..1}`."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006", _CLASSES)

    def _compute(self, predictions, references) -> dict[str, float]:
        references = np.asarray(references)
        predictions = np.asarray(predictions)
        if references.ndim == 1:
            return {"mcc": float(matthews_corrcoef(references, predictions))}
        # scikit-learn has no multi-label version: take the mean over the labels.
        of_labels = [
            matthews_corrcoef(reference, prediction)
            for reference, prediction in zip(references.T, predictions.T, strict=True)
        ]
        return {"mcc": float(np.mean(of_labels))}


class AUROC(evaluate.Metric):
    """Area under the ROC curve, each class against the rest: `{"auroc": 0..1}`.

    `prediction_scores` has a score for each class (or label) in each row. The result is the mean
    over the classes with both positive and negative rows, or NaN if there is no such class.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "Fawcett 2006, doi:10.1016/j.patrec.2005.10.010", _SCORES)

    def _compute(self, prediction_scores, references) -> dict[str, float]:
        scores = np.asarray(prediction_scores)
        positive = np.asarray(references)
        if positive.ndim == 1:
            positive = positive[:, None] == np.arange(scores.shape[1])
        # Without positive or without negative rows, as in a small part, a class has no area.
        defined = [c for c in range(scores.shape[1]) if 0 < positive[:, c].sum() < len(positive)]
        if not defined:
            return {"auroc": float("nan")}
        areas = [roc_auc_score(positive[:, c], scores[:, c]) for c in defined]
        return {"auroc": float(np.mean(areas))}


class RegressionScores(evaluate.Metric):
    """Mean squared error and correlations: `{"mse": 0.., "pearson": -1..1, "spearman": -1..1}`."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self.__doc__, "", _NUMBERS)

    def _compute(self, predictions, references) -> dict[str, float]:
        mse = float(mean_squared_error(references, predictions))
        # The correlation with a constant is undefined. scipy would warn of it at each evaluation.
        if len(set(predictions)) < 2 or len(set(references)) < 2:
            return {"mse": mse, "pearson": float("nan"), "spearman": float("nan")}
        return {
            "mse": mse,
            "pearson": float(pearsonr(references, predictions).statistic),
            "spearman": float(spearmanr(references, predictions).statistic),
        }


def probabilities(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Return probabilities, float64 `(rows, labels)`, from logits `(rows, labels)`.

    For a regression, return the values as they are.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if problem_type == "single_label_classification":
        return softmax(logits, axis=-1)
    if problem_type == "multi_label_classification":
        return expit(logits)
    return logits


def predicted_labels(probability: np.ndarray, problem_type: str) -> np.ndarray:
    """Return classes `(rows,)`, labels of 0.5 or above `(rows, labels)`, or numbers `(rows,)`."""
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

    # In memory: `evaluate` would write the predictions to its cache folder, which all runs share.
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
