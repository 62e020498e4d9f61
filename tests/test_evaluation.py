"""Metrics by hand."""

import math

import pytest
import torch

from tgd_lib.evaluation import calibration_error, metrics


def test_by_hand():
    # two images, two classes; probabilities (3/4, 1/4) and (1/4, 3/4); both are of class 0
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    found = metrics(logits, torch.tensor([0, 0]))
    assert found["accuracy"] == 0.5 and found["n"] == 2
    assert found["nll"] == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, rel=1e-6)
    assert found["ece"] == pytest.approx(0.25, abs=1e-6)  # one bin: confidence 0.75, accuracy 0.5
    assert found["per_class"] == [0.5, None]


def test_calibration_error_against_its_definition():
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(500, 7, generator=generator).mul(2).softmax(1)
    labels = torch.randint(0, 7, (500,), generator=generator)
    confidence, predicted = p.max(1)
    error = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            gap = (predicted[inside] == labels[inside]).double().mean() - confidence[inside].double().mean()
            error += float(inside.double().mean() * gap.abs())
    assert calibration_error(p, labels) == pytest.approx(error, abs=1e-6)


def test_a_sure_and_right_network_is_perfect():
    labels = torch.arange(5)
    found = metrics(50 * torch.eye(5), labels)
    assert found["accuracy"] == 1.0 and found["ece"] < 1e-6 and found["nll"] < 1e-6
