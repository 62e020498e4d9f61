"""Metrics by hand."""

import math

import pytest
import torch

from tgd_lib.config import InputError
from tgd_lib.evaluation import (
    brier,
    calibration_error,
    fit_temperature,
    metrics,
    reliability,
)


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
            gap = (predicted[inside] == labels[inside]).double().mean() - confidence[
                inside
            ].double().mean()
            error += float(inside.double().mean() * gap.abs())
    assert calibration_error(p, labels) == pytest.approx(error, abs=1e-6)


def test_a_sure_and_right_network_is_perfect():
    labels = torch.arange(5)
    found = metrics(50 * torch.eye(5), labels)
    assert found["accuracy"] == 1.0 and found["ece"] < 1e-6 and found["nll"] < 1e-6


# ---------------------------------------------------------------- Brier score


def test_brier_by_hand():
    # (3/4, 1/4) against classes 0 and 1: 2 (1/4)^2 = 1/8 and 2 (3/4)^2 = 9/8, mean 5/8
    p = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    assert brier(p, torch.tensor([0, 1])) == pytest.approx(5 / 8, abs=1e-12)
    assert brier(torch.eye(3), torch.tensor([0, 1, 2])) == 0
    assert brier(torch.eye(3), torch.tensor([1, 2, 0])) == 2
    # A tenth: 9 * .01 + .81.
    assert brier(torch.full((4, 10), 0.1), torch.arange(4)) == pytest.approx(0.9)
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    assert metrics(logits, torch.tensor([0, 1]))["brier"] == pytest.approx(5 / 8, abs=1e-6)


# ---------------------------------------------------------------- reliability


def test_reliability_by_hand():
    # bins of a fifteenth: 0.6 opens the tenth, 0.61 and 0.65 are in it too; 0.95 and 1 in the last
    confidence = torch.tensor([0.6, 0.61, 0.65, 1.0, 0.95], dtype=torch.float64)
    p = torch.stack([confidence, 1 - confidence], 1)  # all say class 0
    found = reliability(p, torch.tensor([0, 1, 0, 0, 0]))
    assert found["count"] == [0] * 9 + [3, 0, 0, 0, 0, 2]
    assert found["confidence"][9] == pytest.approx(0.62) and found["confidence"][14] == 0.975
    assert found["accuracy"][9] == pytest.approx(2 / 3) and found["accuracy"][14] == 1.0
    assert found["confidence"].count(None) == found["accuracy"].count(None) == 13


def test_reliability_gives_the_calibration_error():
    generator = torch.Generator().manual_seed(1)
    p = torch.randn(800, 5, generator=generator).mul(3).softmax(1)
    labels = torch.randint(0, 5, (800,), generator=generator)
    bars = reliability(p, labels)
    assert [len(v) for v in bars.values()] == [15, 15, 15] and sum(bars["count"]) == 800
    rows = [row for row in zip(*bars.values(), strict=True) if row[2]]
    error = sum(count * abs(confidence - accuracy) for confidence, accuracy, count in rows) / 800
    assert error == pytest.approx(calibration_error(p, labels), abs=1e-6)


# ---------------------------------------------------------------- temperature scaling


def test_temperature_by_hand():
    # always (log 9, 0), right 3 times of 4: best is p = 3/4, where log 9 / T = log 3, so T = 2
    logits = torch.tensor([[math.log(9), 0.0]]).repeat(4, 1)
    labels = torch.tensor([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(2, rel=1e-5)
    assert fit_temperature(10 * logits, labels) == pytest.approx(20, rel=1e-5)
    assert fit_temperature(logits / 8, labels) == pytest.approx(1 / 4, rel=1e-5)


def test_temperature_at_its_bounds():
    # Always right: the NLL is 0 there.
    assert 0.01 <= fit_temperature(torch.eye(3), torch.arange(3)) < 0.03
    assert fit_temperature(torch.eye(3), torch.tensor([1, 2, 0])) == pytest.approx(100, rel=1e-3)


def test_temperature_never_harms_where_it_is_fitted():
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 10, (500,), generator=generator)
    logits = 6 * torch.randn(500, 10, generator=generator)
    logits[torch.arange(500), labels] += 4
    before = metrics(logits, labels)
    after = metrics(logits / fit_temperature(logits, labels), labels)
    assert (
        after["nll"] < before["nll"]
        and after["ece"] < before["ece"]
        and after["brier"] < before["brier"]
    )
    assert after["accuracy"] == before["accuracy"]


@pytest.mark.parametrize("logits", [torch.empty(0, 3), torch.tensor([[math.nan, 0, 0]])])
def test_temperature_refuses(logits):
    with pytest.raises(InputError, match="held-out") as caught:
        fit_temperature(logits, torch.zeros(len(logits), dtype=torch.int64))
    assert "\n" not in str(caught.value)
