"""What a trained network is worth: accuracy and its uncertainty, likelihood, calibration."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgd_lib.compute import Pixels
from tgd_lib.config import InputError

BINS = 15


def logits_of(network: nn.Module, pixels: Pixels, *, batch: int = 250, exact: bool = False) -> Tensor:
    """Logits float32 (N, classes) of all pixels, on the CPU, by the network in eval mode (its mode is restored).

    exact: in float32 whatever the run's precision is, on a GPU without TF32.
    """
    training = network.training
    network.eval()
    parts = []
    arithmetic = torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if exact else pixels.compute.autocast()
    with torch.inference_mode(), arithmetic:
        for i in range(0, len(pixels), batch):
            parts.append(network(pixels[i : i + batch]).float())
    network.train(training)
    return torch.cat(parts).cpu()


def metrics(logits: Tensor, labels: Tensor) -> dict:
    """Figures of merit of logits float (N, classes) against labels int64 (N,).

    accuracy and ece (expected calibration error, 15 equal bins, L1; Guo et al. 2017) as fractions,
    nll in nats, brier (0 to 2, see there), per_class accuracy (None for a class without images), n.
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
    return float(multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=BINS))


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Brier score: squared distance of probabilities (N, classes) from the one-hot labels, mean over images.

    The original form, summed over the classes (Brier 1950): 0 is perfect, 2 is sure and always wrong.
    """
    distance = probabilities.double() - F.one_hot(labels, probabilities.shape[1])
    return float(distance.square().sum(1).mean())


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> dict[str, list]:
    """A reliability diagram's bars: confidence, accuracy and count of images in equal bins of confidence.

    Bin b holds confidences of [b / bins, (b + 1) / bins), the last one 1 as well (torchmetrics gives exact
    ones a bin of their own). Lists of length `bins`; confidence and accuracy are None in an empty bin.
    """
    confidence, predicted = probabilities.double().max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    where = torch.bucketize(confidence, edges, right=True)
    count = torch.bincount(where, minlength=bins)
    correct = torch.bincount(where, (predicted == labels).double(), minlength=bins)
    total = torch.bincount(where, confidence, minlength=bins)

    def means(sums: Tensor) -> list[float | None]:
        return [s / n if n else None for s, n in zip(sums.tolist(), count.tolist(), strict=True)]

    return {"confidence": means(total), "accuracy": means(correct), "count": count.tolist()}


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T, from 0.01 to 100, whose softmax(logits / T) has the least NLL: temperature scaling.

    Guo et al., "On Calibration of Modern Neural Networks", 2017. logits (N, classes), labels int64 (N,): of
    images HELD OUT from training and test. The NLL is convex in 1/T, so it has one minimum in log T too;
    where every image is right it falls with T until it is 0 in float64, and T is one for which it is.
    InputError without images, or with logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels) or not torch.isfinite(logits).all():
        raise InputError("temperature scaling: finite logits of at least one held-out image are needed")
    exact, bound = logits.double(), math.log(100)

    def nll(log_temperature: float) -> float:
        return float(F.cross_entropy(exact / math.exp(log_temperature), labels))

    found = minimize_scalar(nll, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)
