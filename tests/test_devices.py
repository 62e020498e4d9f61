"""A device answers as the CPU does: every kind of student, banks of tiles, resuming, evaluation.

    TGD_TEST_DEVICE=cuda ./run_all.sh --test tests/test_devices.py

runs this file on a GPU; without that, all tests run on the CPU, whatever there is.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

import tgd_lib
from tgd_lib import bank, config, tiles, training
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule
from tgd_lib.evaluation import logits_of
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.store import Store
from tgd_lib.networks import wide_resnet
from tgd_lib.study.specs import specs_of
from tgd_lib.tiles import Plan

pytestmark = pytest.mark.usefixtures("one_thread")

DEVICE = os.environ.get("TGD_TEST_DEVICE", "cpu")
SIZE = {"n_train": 64, "n_test": 40, "holdout": 0}
# One of each way to be taught: bank, two maps apart, features, own parameters, embedding, RipsNet.
METHODS = ("scratch", "kd", "tgd", "tgd_normalise", "at", "fitnets", "vid", "cc", "topkd")
METHODS += ("dkd", "rkd", "kd_signature", "kd_diagram_random")


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    """(lab on the CPU, lab on the device) with the same teachers, trained on the CPU."""
    store = Store(tmp_path_factory.mktemp("store"), newer_than=0, published=[])
    made = []
    for device in ("cpu", DEVICE):
        settings = config.resolve("smoke", **SIZE, device=device)
        made.append(Lab(settings, store=store, say=lambda line: None))
    made[0].train([specs_of(made[0]).teacher(name) for name in ("image", "pi")])
    return made


def epoch_of(lab, method):
    """The record of an epoch of a student, from random weights."""
    run = lab.run(replace(specs_of(lab).student(method, 0), start=None))
    run.begin()
    for number in range(run.steps):
        run.advance(number)
    apart = ("seconds", "accuracy", "how")  # how: which device it was
    return {k: v for k, v in run.conclude().items() if k not in apart}


@pytest.mark.parametrize("method", METHODS)
def test_a_student_is_taught_as_on_the_cpu(labs, method):
    found = [epoch_of(lab, method) for lab in labs]
    assert found[1] == pytest.approx(found[0], rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bank_of_tiles_says_what_the_teachers_say(tmp_path, precision):
    compute = Compute(DEVICE, precision)
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32)).astype(np.uint8)
    pixels = Pixels(images, (0.5,) * 3, (0.25,) * 3, compute)
    teachers = tuple(
        bank.Teacher(compute.place(wide_resnet(10, 1, seed=seed)).eval(), pixels) for seed in (0, 1)
    )
    weighted = list(zip(teachers, (0.7, 0.3), strict=True))
    about = tiles.build(tmp_path, weighted, plan=Plan(40, 16), say=lambda line: None)
    maps = tiles.mapped(tmp_path).to(DEVICE)
    index = torch.tensor([31, 2, 17, 8], device=DEVICE)
    _, found = bank.Bank((None, None), maps, about["scales"]).batch(index)
    _, (first, second) = bank.Online(teachers).batch(index)
    for merged, one, two in zip(found, first, second, strict=True):
        wanted = 0.7 * one + 0.3 * two
        tolerance = {"rtol": 3e-2, "atol": 3e-2 * float(wanted.abs().max())}
        torch.testing.assert_close(merged, wanted, **tolerance)


def test_a_training_that_was_stopped_goes_on(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (48, 3, 16, 16)).astype(np.uint8)
    labels = torch.arange(48) % 4

    def run(epochs):
        pixels = Pixels(images, (0.5,) * 3, (0.25,) * 3, Compute(DEVICE))
        network = wide_resnet(10, 1, 3, 4, seed=0)
        return training.Run(network, pixels, labels, Schedule(epochs, 3, 16), seed=0)

    whole, first, second = run(3), run(2), run(3)
    training.train([(whole, tmp_path / "whole")])
    training.train([(first, tmp_path / "broken")])
    training.train([(second, tmp_path / "broken")])
    losses = [[entry["loss"] for entry in r.history] for r in (whole, second)]
    assert len(losses[1]) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_an_exact_evaluation_is_that_of_the_cpu(labs):
    here, there = labs
    for name in ("image", "pi"):
        spec = specs_of(here).teacher(name)
        on_cpu = here.evaluation(spec, exact=True).array("logits")
        pixels = there.pixels(there.view(spec), "test")
        found = logits_of(there.network(spec), pixels, exact=True)
        np.testing.assert_allclose(found, on_cpu, rtol=1e-3, atol=1e-3)


def test_a_published_network_answers_there():
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    network = tgd_lib.load("study/tgd")
    with torch.inference_mode():
        wanted = network(images)
        found = network.to(DEVICE)(images.to(DEVICE)).cpu()
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
