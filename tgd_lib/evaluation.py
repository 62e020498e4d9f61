"""Metrics of a trained network: accuracy and its uncertainty, likelihood, calibration."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgd_lib.compute import Pixels
from tgd_lib.config import InputError

BINS = 15  # of confidence
GLANCE = 128_000  # pixels looked at in one go: 125 images of 32 x 32, see `bank.GLANCE`


def logits_of(network: nn.Module, pixels: Pixels, *, exact: bool = False) -> Tensor:
    """Logits float32 (N, classes) of all pixels, on the CPU, by the network in eval mode.

    The network's mode is restored. exact: in float32 whatever the run's precision is, on a GPU
    without TF32.
    """
    arithmetic = pixels.compute.autocast()
    if exact:
        arithmetic = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    # Batch normalisation must use its running figures, not those of these images.
    training = network.training
    network.eval()
    height, width = pixels.array.shape[2:]
    step, parts = max(1, GLANCE // (height * width)), []
    with torch.inference_mode(), arithmetic:
        for i in range(0, len(pixels), step):
            parts.append(network(pixels[i : i + step]).float())
    network.train(training)
    return torch.cat(parts).cpu()


def metrics(logits: Tensor, labels: Tensor) -> dict:
    """Figures of merit of logits float (N, classes) against labels int64 (N,).

    accuracy and ece (expected calibration error, 15 equal bins, L1; Guo et al. 2017) as fractions,
    nll in nats, brier (0 to 2, see there), per_class accuracy (None for a class without images), n.
    """
    logits, predicted = logits.float(), logits.argmax(1)
    correct = (predicted == labels).double()  # (N,)
    per_class: list[float | None] = []
    for c in range(logits.shape[1]):
        # The mean over no images would be nan, which JSON has no word for.
        answers = correct[labels == c]
        per_class.append(round(float(answers.mean()), 6) if len(answers) else None)
    return {
        "accuracy": float(correct.mean()),
        "nll": float(F.cross_entropy(logits.double(), labels)),
        "ece": calibration_error(logits.softmax(1), labels),
        "brier": brier(logits.double().softmax(1), labels),
        "per_class": per_class,
        "n": len(labels),
    }


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """ECE (15 bins, a fraction) of probabilities (N, classes), by torchmetrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchmetrics' optional parts
        from torchmetrics.functional.classification import multiclass_calibration_error

    classes = probabilities.shape[1]
    error = multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=BINS)
    return float(error)


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Brier score: mean squared distance of probabilities (N, classes) from the one-hot labels.

    The original form, summed over the classes (Brier 1950): 0 is perfect, 2 is sure and always
    wrong.
    """
    distance = probabilities.double() - F.one_hot(labels, probabilities.shape[1])
    return float(distance.square().sum(1).mean())


def reliability(probabilities: Tensor, labels: Tensor) -> dict[str, list]:
    """A reliability diagram's bars: confidence, accuracy and count of images in each of 15 bins.

    Bin b holds confidences of [b / 15, (b + 1) / 15), the last one 1 as well (torchmetrics gives
    exact ones a bin of their own). Confidence and accuracy are None in an empty bin.
    """
    confidence, predicted = probabilities.double().max(1)
    correct = (predicted == labels).double()
    # The inner edges alone: what lies beyond the last one, 1 as well, is in the last bin.
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]
    where = torch.bucketize(confidence, edges, right=True)  # (N,)
    count = torch.bincount(where, minlength=BINS)
    return {
        "confidence": _means(torch.bincount(where, confidence, minlength=BINS), count),
        "accuracy": _means(torch.bincount(where, correct, minlength=BINS), count),
        "count": count.tolist(),
    }


def _means(sums: Tensor, count: Tensor) -> list[float | None]:
    return [s / n if n else None for s, n in zip(sums.tolist(), count.tolist(), strict=True)]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T, from 0.01 to 100, whose softmax(logits / T) has the least NLL: temperature scaling.

    Guo et al., "On Calibration of Modern Neural Networks", 2017. logits (N, classes), labels int64
    (N,): of images HELD OUT from training and test. The NLL is convex in 1/T, so it has one minimum
    in log T too; where every image is right it falls with T until it is 0 in float64, and T is one
    for which it is. InputError without images, or with logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels) or not torch.isfinite(logits).all():
        raise InputError(
            "temperature scaling: finite logits of at least one held-out image are needed"
        )
    # In log T, because the NLL is as sensitive at T = 0.1 as at T = 10.
    exact, bound = logits.double(), math.log(100)

    def nll(log_temperature: float) -> float:
        return float(F.cross_entropy(exact / math.exp(log_temperature), labels))

    found = minimize_scalar(nll, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)
