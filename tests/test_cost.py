"""Timing: in turn, the first call not counted; what a network costs."""

import pytest

from tgd_lib.study import cost


def test_calls_take_turns_and_the_first_of_each_is_not_counted():
    called, now = [], [0.0]

    def call(name, seconds):
        def made(number):
            called.append((name, number))
            now[0] += seconds

        return made

    calls = {"a": call("a", 1.0), "b": call("b", 0.25)}
    found = cost.interleaved(calls, 3, clock=lambda: now[0])
    turns = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert called == [("a", 0), ("b", 0), *turns]
    assert found == {"a": [1.0] * 3, "b": [0.25] * 3}


def test_a_summary_by_hand():
    assert cost.summary([3.0, 1.0, 2.0, 10.0]) == {"n": 4, "median": 2.5, "min": 1.0, "max": 10.0}


def test_multiply_adds_by_hand():
    import torch

    # 3 x 3 x 2 products for each of 4 channels at 5 x 5 places; then 100 times 7.
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(100, 7)
    )
    assert cost.multiply_adds(network, (2, 5, 5)) == pytest.approx(18 * 4 * 25 + 700)
