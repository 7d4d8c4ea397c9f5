"""The metric classes against values worked out by hand and against scikit-learn called directly."""

import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, roc_auc_score
from transformers import EvalPrediction

from hyenadna.training.runs.metrics import (
    AUROC,
    Accuracy,
    MacroF1,
    MatthewsCorrelation,
    RegressionScores,
    make_compute_metrics,
    predicted_labels,
    probabilities,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# 10 rows: TP 3, FN 1, FP 2, TN 4
REFERENCES = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("metric", "by_hand"),
    [
        (Accuracy, {"accuracy": 0.7}),
        # F1 of class 1: 6 / (6 + 2 + 1); of class 0: 8 / (8 + 1 + 2)
        (MacroF1, {"f1_macro": (6 / 9 + 8 / 11) / 2}),
        # (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN))
        (MatthewsCorrelation, {"mcc": (12 - 2) / np.sqrt(5 * 4 * 6 * 5)}),
    ],
)
def test_binary_values_by_hand(metric, by_hand):
    assert issubclass(metric, evaluate.Metric)
    result = metric(keep_in_memory=True).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result == pytest.approx(by_hand)


def test_auroc_by_hand():
    # positives .9 and .4, negatives .5 and .1: of the four pairs three are in order
    scores = [[0.1, 0.9], [0.6, 0.4], [0.5, 0.5], [0.9, 0.1]]
    assert AUROC(keep_in_memory=True).compute(prediction_scores=scores, references=[1, 1, 0, 0]) == {
        "auroc": 0.75
    }


def test_regression_by_hand():
    result = RegressionScores(keep_in_memory=True).compute(
        predictions=[1.0, 2.0, 3.0], references=[2.0, 4.0, 9.0]
    )
    # mean of 1, 4, 36; the order agrees; covariance 7/2, variances 1 and 13
    assert result == pytest.approx({"mse": 41 / 3, "spearman": 1.0, "pearson": 3.5 / np.sqrt(13)})
    constant = RegressionScores(keep_in_memory=True).compute(predictions=[1.0, 1.0], references=[1.0, 2.0])
    assert constant["mse"] == 0.5 and np.isnan(constant["pearson"]) and np.isnan(constant["spearman"])


def test_more_classes_against_scikit_learn(rng):
    references, logits = rng.integers(0, 4, 200), rng.normal(size=(200, 4)).astype(np.float32)
    result = make_compute_metrics("single_label_classification")(EvalPrediction(logits, references))
    predictions = logits.argmax(1)
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(1, keepdims=True)
    assert result == pytest.approx(
        {
            "accuracy": accuracy_score(references, predictions),
            "f1_macro": f1_score(references, predictions, average="macro"),
            "mcc": matthews_corrcoef(references, predictions),
            "auroc": roc_auc_score(references, softmax, multi_class="ovr", average="macro"),
        }
    )


def test_multi_label_against_scikit_learn(rng):
    references, logits = rng.integers(0, 2, (200, 3)), rng.normal(size=(200, 3)).astype(np.float32)
    evaluated = EvalPrediction(logits, references.astype(np.float32))
    result = make_compute_metrics("multi_label_classification")(evaluated)
    predictions = (logits >= 0).astype(int)
    assert result == pytest.approx(
        {
            "accuracy": np.mean((references == predictions).all(1)),
            "f1_macro": f1_score(references, predictions, average="macro"),
            "mcc": np.mean([matthews_corrcoef(references[:, i], predictions[:, i]) for i in range(3)]),
            "auroc": roc_auc_score(references, logits, average="macro"),
        }
    )


def test_regression_through_compute_metrics(rng):
    values = rng.normal(size=50)
    result = make_compute_metrics("regression")(EvalPrediction(values[:, None], 2 * values))
    assert result == pytest.approx({"mse": np.mean(values**2), "pearson": 1.0, "spearman": 1.0})


def test_auroc_of_classes_that_are_missing():
    auroc = AUROC(keep_in_memory=True)
    scores = [[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.5, 0.4, 0.1]]
    # class 2 has no row; of class 0 and 1 every pair is in order
    assert auroc.compute(prediction_scores=scores, references=[0, 1, 0]) == {"auroc": 1.0}
    assert np.isnan(auroc.compute(prediction_scores=scores, references=[1, 1, 1])["auroc"])


def test_metrics_take_batches_and_combine():
    accuracy = Accuracy(keep_in_memory=True)
    for i in range(0, 10, 4):
        accuracy.add_batch(predictions=PREDICTIONS[i : i + 4], references=REFERENCES[i : i + 4])
    assert accuracy.compute() == {"accuracy": 0.7}
    both = evaluate.combine([Accuracy(keep_in_memory=True), MacroF1(keep_in_memory=True)])
    result = both.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert set(result) == {"accuracy", "f1_macro"}


def test_perfect_and_constant_predictions():
    perfect = MatthewsCorrelation(keep_in_memory=True).compute(predictions=[0, 1, 2], references=[0, 1, 2])
    constant = MatthewsCorrelation(keep_in_memory=True).compute(predictions=[1, 1, 1], references=[0, 1, 2])
    assert perfect == {"mcc": 1.0} and constant == {"mcc": 0.0}


def test_probabilities_and_predicted_labels():
    logits = np.log([[1.0, 3.0], [3.0, 1.0]]).astype(np.float32)
    np.testing.assert_allclose(
        probabilities(logits, "single_label_classification"), [[0.25, 0.75], [0.75, 0.25]]
    )
    np.testing.assert_allclose(
        probabilities(logits, "multi_label_classification"), [[0.5, 0.75], [0.75, 0.5]], atol=1e-7
    )
    np.testing.assert_array_equal(probabilities(logits, "regression"), logits)
    assert predicted_labels(
        np.array([[0.25, 0.75], [0.75, 0.25]]), "single_label_classification"
    ).tolist() == [1, 0]
    assert predicted_labels(np.array([[0.5, 0.4]]), "multi_label_classification").tolist() == [[1, 0]]
    assert predicted_labels(np.array([[0.5], [0.4]]), "regression").tolist() == [0.5, 0.4]


def test_mcc_is_pearson_correlation_and_auroc_is_the_mann_whitney_statistic(rng):
    references, scores = rng.integers(0, 2, 300), rng.normal(size=300)
    predictions = (scores > 0.3).astype(int)
    mcc = MatthewsCorrelation(keep_in_memory=True).compute(predictions=predictions, references=references)
    assert mcc["mcc"] == pytest.approx(np.corrcoef(predictions, references)[0, 1])
    pairs = scores[references == 1][:, None] - scores[references == 0][None, :]
    both = np.stack([-scores, scores], axis=1)
    auroc = AUROC(keep_in_memory=True).compute(prediction_scores=both, references=references)
    assert auroc["auroc"] == pytest.approx((pairs > 0).mean())
    stretched = AUROC(keep_in_memory=True).compute(prediction_scores=np.exp(3 * both), references=references)
    assert stretched["auroc"] == pytest.approx(auroc["auroc"])  # only the order counts


def test_macro_f1_punishes_a_forgotten_class_however_rare():
    references, predictions = [0] * 98 + [1] * 2, [0] * 100
    accuracy = Accuracy(keep_in_memory=True).compute(predictions=predictions, references=references)
    f1 = MacroF1(keep_in_memory=True).compute(predictions=predictions, references=references)
    assert accuracy == {"accuracy": 0.98}
    assert f1["f1_macro"] == pytest.approx((2 * 98 / (2 * 98 + 2)) / 2)


def test_inputs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        Accuracy(keep_in_memory=True).compute(predictions=[0, 1, 1], references=[0, 1])
    with pytest.raises(ValueError, match="inputs are missing"):
        AUROC(keep_in_memory=True).compute(predictions=[0, 1], references=[0, 1])


def test_metrics_can_be_used_again():
    metric = Accuracy(keep_in_memory=True)
    assert metric.compute(predictions=[0, 1], references=[0, 1]) == {"accuracy": 1.0}
    assert metric.compute(predictions=[0, 1], references=[1, 0]) == {"accuracy": 0.0}
    compute_metrics = make_compute_metrics("single_label_classification")
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    perfect, wrong = (
        compute_metrics(EvalPrediction(logits, np.array(labels))) for labels in ([0, 1], [1, 0])
    )
    assert perfect == {"accuracy": 1.0, "f1_macro": 1.0, "mcc": 1.0, "auroc": 1.0}
    assert wrong == {"accuracy": 0.0, "f1_macro": 0.0, "mcc": -1.0, "auroc": 0.0}


@pytest.mark.parametrize("metric", [Accuracy, MacroF1, MatthewsCorrelation, AUROC, RegressionScores])
def test_every_metric_describes_itself(metric):
    made = metric(keep_in_memory=True)
    assert made.description == metric.__doc__
    assert "references" in str(made.features) and "references" in made.inputs_description
