"""RipsNet: its images by hand and by formula, its network's invariants, and that it learns."""

import numpy as np
import pytest
import torch

from tgd_lib import ripsnet
from tgd_lib.config import InputError
from tgd_lib.embedding import deaths

pytestmark = pytest.mark.usefixtures("one_thread")


def embedding(n=24, width=6, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).relu()


# ---------------------------------------------------------------- images


def test_images_are_those_of_the_formula():
    diagrams = [np.array([0.5, 1.0, 2.0]), np.array([0.25, 1.5])]
    died = np.concatenate(diagrams)
    # distances between the points, all above 1e-5, their 0.2 quantile
    apart = [abs(a - b) for i, a in enumerate(died) for b in died[i + 1 :]]
    sigma = np.quantile(apart, 0.2)
    wanted = np.zeros((2, 20))
    for image, diagram in zip(wanted, diagrams, strict=True):
        for row, y in enumerate(np.linspace(0.25, 2.0, 20)):
            bumps = np.exp(-((diagram - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
            image[row] = (10 * np.tanh(diagram) * bumps).sum()
    wanted /= wanted.max()
    found = ripsnet.images(diagrams).reshape(2, 20, 20)
    # births are all 0, so all 20 columns lie at 0 and are the same
    assert np.array_equal(found, np.repeat(found[:, :, :1], 20, axis=2))
    assert found[:, :, 0] == pytest.approx(wanted, rel=1e-9)
    assert found.max() == 1


@pytest.mark.parametrize("diagram", [[0.0, 0.0], [1.0, 1.0, 1.0], [2.0]])
def test_images_of_points_that_die_together_are_finite(diagram):
    found = ripsnet.images([np.array(diagram)])
    assert found.shape == (1, 400) and np.isfinite(found).all()
    assert found.max() == (1 if max(diagram) else 0)


# ---------------------------------------------------------------- clouds


def test_clouds_are_batches_pass_after_pass():
    x = torch.arange(10.0)[:, None]
    found = ripsnet.clouds(x, 4, count=5, seed=3)
    assert found.shape == (5, 4, 1)
    for first in (0, 2):  # a pass is two batches; what does not fill a third is left out
        assert len(set(found[first : first + 2].flatten().tolist())) == 8
    assert torch.equal(found, ripsnet.clouds(x, 4, count=5, seed=3))
    assert not torch.equal(found, ripsnet.clouds(x, 4, count=5, seed=4))


def test_clouds_of_few_images_are_all_of_them():
    assert ripsnet.clouds(embedding(6), 128, count=3).shape == (3, 6, 6)
    with pytest.raises(InputError, match="two or more"):
        ripsnet.clouds(embedding(1), 128)


# ---------------------------------------------------------------- the network


def test_layers_are_the_authors():
    # units 64 64 32 32 50 100 200 400 for a width of 64, biases before the mean only
    network = ripsnet.fresh(64, seed=0)
    layers = (*network.points, *network.whole, network.image)
    shapes = [tuple(layer.weight.shape) for layer in layers]
    assert shapes == [(64, 64), (32, 64), (32, 32), (50, 32), (100, 50), (200, 100), (400, 200)]
    assert all(layer.bias is not None for layer in network.points)
    assert all(layer.bias is None for layer in (*network.whole, network.image))


def test_neither_the_order_nor_copies_of_points_matter():
    network, cloud = ripsnet.fresh(6, seed=1), embedding()
    with torch.no_grad():
        wanted = network(cloud)
        assert wanted.shape == (400,) and 0 <= float(wanted.min()) <= float(wanted.max()) <= 1
        torch.testing.assert_close(network(cloud.flip(0)), wanted)
        torch.testing.assert_close(network(torch.cat([cloud, cloud])), wanted)
        torch.testing.assert_close(network(torch.stack([cloud, cloud]))[1], wanted)


def test_the_seed_alone_decides():
    before = torch.random.get_rng_state()
    one, two, other = (ripsnet.fresh(6, seed=s).image.weight for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------- what it learns


@pytest.fixture(scope="module")
def fitted():
    return ripsnet.fit(embedding(), 8, count=64, epochs=200)


def test_it_learns(fitted):
    network, about = fitted
    assert (about["clouds"], about["points"]) == (64, 8) and about["epochs"] <= 200
    assert not any(p.requires_grad for p in network.parameters())
    # the loss that is said is that of the weights that are given, on the clouds kept aside
    x = ripsnet.clouds(embedding(), 8, count=64)
    y = torch.from_numpy(ripsnet.images([deaths(c).numpy() for c in x])).float()
    found = torch.nn.functional.mse_loss(network(x[48:]), y[48:])
    assert float(found) == pytest.approx(about["loss"], rel=1e-6)
    # It tells clouds apart, and not just what they have in common.
    trivial = ((y[48:] - y[:48].mean(0)) ** 2).mean()
    assert about["loss_of_mean"] == pytest.approx(float(trivial), rel=1e-5)
    assert about["loss"] < about["loss_of_mean"]
    before = torch.nn.functional.mse_loss(ripsnet.fresh(6, seed=0)(x[48:]), y[48:])
    assert about["loss"] < float(before.detach()) / 3


def test_it_is_fitted_to_the_same_bits_and_leaves_the_global_state_alone(fitted):
    before = torch.random.get_rng_state()
    again, about = ripsnet.fit(embedding(), 8, count=64, epochs=200)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert about == fitted[1]
    for name, weight in fitted[0].state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
