"""bf16 on CPUs without instructions for it: rounded float32, and what bf16 kernels give."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tgd_lib import compute, losses, training
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule
from tgd_lib.networks import wide_resnet

NEXT_TO_1 = 1 + 2.0**-7  # the bf16 number after 1


@pytest.fixture(params=["by kernels", "by rounding"])
def bf16(request, monkeypatch) -> Compute:
    """bf16 on the CPU in each of the two ways, whatever this CPU has."""
    monkeypatch.setattr(compute, "multiplies_bf16", lambda: request.param == "by kernels")
    return Compute("cpu", "bf16")


@pytest.fixture
def by(monkeypatch):
    """Calls a function as on a CPU with or without fast bf16 kernels."""

    def call(kernels: bool, function):
        monkeypatch.setattr(compute, "multiplies_bf16", lambda: kernels)
        return function()

    return call


def test_only_a_cpu_with_avx512_multiplies_bf16(monkeypatch):
    for name, expected in (("AVX512", True), ("AVX2", False), ("DEFAULT", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=name: name)
        assert compute.multiplies_bf16() is expected
        assert Compute("cpu", "bf16").bf16_by_rounding is not expected
        assert not Compute("cpu", "fp32").bf16_by_rounding


class Convolutions(TorchDispatchMode):
    """Notes the dtype of every convolution that is computed, forward and backward."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "convolution" in str(function):
            self.dtypes.add(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kernels", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_without_bf16_computes_no_convolution_in_it(by, kernels, dtype):
    with Convolutions() as noted:
        by(kernels, lambda: gradients_of(Compute("cpu", "bf16")))
    assert noted.dtypes == {dtype}


def test_products_round_their_factors_and_their_result(bf16):
    x, w = torch.tensor([[1 + 2.0**-9, 2.0**-9]]), torch.tensor([[1.0, 1.0]])
    with bf16.autocast():
        found = F.linear(x, w)
    # 1 + 2^-9 is 1 in bf16; the sum 1 + 2^-9 is 1 again.
    assert found.dtype == torch.bfloat16 and found.item() == 1
    with bf16.autocast():
        assert F.linear(torch.tensor([[1.0, 2.0**-7]]), w).item() == NEXT_TO_1


def test_sums_are_taken_in_float32(bf16):
    x = torch.full((1, 129), 2.0**-8)
    x[0, 0] = 1
    with bf16.autocast():
        found = F.linear(x, torch.ones(1, 129))
    # Added up in bf16, each 2^-8 would be lost beside the 1.
    assert found.item() == 1.5


def gradients_of(where: Compute):
    torch.manual_seed(0)
    network = where.place(wide_resnet(10, 1, 3, 4, seed=0))
    x = torch.randn(16, 3, 16, 16).to(memory_format=torch.channels_last)
    with where.autocast():
        outputs = network.stages(x)
    (
        outputs.logits.float().square().sum() + sum(f.float().mean() for f in outputs.features)
    ).backward()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert gradients.dtype == torch.float32
    return outputs, gradients


def distance(a, b) -> float:
    a, b = a.detach().float(), b.detach().float()
    return float((a - b).norm() / b.norm())


def test_a_network_says_by_rounding_what_it_says_by_kernels(by):
    exact, its_gradients = gradients_of(Compute("cpu", "fp32"))
    (kernels, one), (rounding, two) = (
        by(way, lambda: gradients_of(Compute("cpu", "bf16"))) for way in (True, False)
    )
    for a, b, c in zip(
        [kernels.logits, *kernels.features],
        [rounding.logits, *rounding.features],
        [exact.logits, *exact.features],
        strict=True,
    ):
        assert a.dtype == b.dtype == torch.bfloat16
        assert distance(b, a) < 1.5 * distance(a, c) < 0.05
    # As far from float32 as kernels are, and not on the other side of it.
    assert distance(one, its_gradients) < 0.2
    assert distance(two, one) < 1.5 * distance(one, its_gradients)
    assert distance(two, its_gradients) < 1.5 * distance(one, its_gradients)


def test_gradients_of_maps_too(by):
    def gradient():
        features = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
        features.requires_grad_()
        losses.similarity_map(features).square().sum().backward()
        return features.grad

    one, two = by(True, gradient), by(False, gradient)
    assert one.dtype == two.dtype == torch.bfloat16
    torch.testing.assert_close(one, two, rtol=2**-7, atol=1e-3)


def test_matmul_is_a_plain_one_in_float32(by):
    a, b = torch.randn(4, 5), torch.randn(5, 3)
    assert torch.equal(by(False, lambda: compute.matmul(a, b)), a @ b)
    low = [x.bfloat16() for x in (a, b)]
    found = by(False, lambda: compute.matmul(*low))
    torch.testing.assert_close(found, low[0] @ low[1], rtol=2**-7, atol=1e-2)
    assert found.dtype == torch.bfloat16


def test_training_goes_the_same_way_by_both(by):
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 16, 16)).astype(np.uint8)

    def history():
        pixels = Pixels(images, (0.5,) * 3, (0.25,) * 3, Compute("cpu", "bf16"))
        labels = torch.arange(64) % 4
        run = training.Run(
            wide_resnet(10, 1, 3, 4, seed=0), pixels, labels, Schedule(2, 2, 16), seed=0
        )
        while not run.finished:
            run.begin()
            for number in range(run.steps):
                run.advance(number)
            run.conclude()
        return [entry["loss"] for entry in run.history]

    assert by(False, history) == pytest.approx(by(True, history), rel=0.05)


def test_outside_of_the_context_nothing_is_rounded(by):
    def inside_and_out():
        x = torch.tensor([[1 + 2.0**-9]])
        with Compute("cpu", "bf16").autocast():
            inside = F.linear(x, torch.ones(1, 1))
        return inside.dtype, F.linear(x, torch.ones(1, 1)).item()

    assert by(False, inside_and_out) == (torch.bfloat16, 1 + 2.0**-9)
