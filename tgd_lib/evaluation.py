"""What a trained network is worth: accuracy, likelihood, calibration."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def metrics(logits: Tensor, labels: Tensor) -> dict:
    """Figures of merit of logits float (N, classes) against labels int64 (N,).

    accuracy and ece (expected calibration error, 15 equal bins, L1; Guo et al. 2017) as fractions,
    nll in nats, per_class accuracy (None for a class without images), n.
    """
    logits, predicted = logits.float(), logits.argmax(1)
    correct = (predicted == labels).double()
    per_class = [
        round(float(correct[labels == c].mean()), 6) if (labels == c).any() else None
        for c in range(logits.shape[1])
    ]
    return {
        "accuracy": float(correct.mean()),
        "nll": float(F.cross_entropy(logits.double(), labels)),
        "ece": calibration_error(logits.softmax(1), labels),
        "per_class": per_class,
        "n": len(labels),
    }


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """ECE (15 bins, a fraction) of probabilities (N, classes), by torchmetrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchmetrics' optional parts
        from torchmetrics.functional.classification import multiclass_calibration_error

    classes = probabilities.shape[1]
    return float(multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=BINS))
