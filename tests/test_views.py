"""What networks are shown: the images, persistence images, controls without topology."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgd_lib import config, datasets, diagrams, topology
from tgd_lib.lab import views
from tgd_lib.study.specs import Specs


@pytest.fixture(scope="module")
def part():
    return datasets.load_parts(config.resolve("smoke", n_train=32, n_test=32, holdout=0)).train


@given(groups=st.lists(st.integers(0, 3), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_exchanged_stays_in_its_group_and_keeps_nobody_s_own(groups, seed):
    groups = np.array(groups)
    found = views.exchanged(groups, seed=seed)
    assert sorted(found) == list(range(len(groups))) and (groups[found] == groups).all()
    alone = np.array([(groups == g).sum() == 1 for g in groups])
    assert ((found == np.arange(len(groups))) == alone).all()


def shown(name, part, training=True):
    view = Specs(config.resolve("smoke"), "a", "b", 8).view(name)

    def topology_of() -> np.ndarray:
        if view.kind == "image_map":
            return diagrams.persistence_maps(part.images)
        pictures = views.pictured(view, part)
        return topology.persistence_images(pictures, view.orientation, view.params)

    made = views.array(view, part, topology_of, training=training)
    assert made.dtype == np.uint8 and made.shape[:2] == (len(part.labels), view.channels)
    return made


def test_permuted_are_the_training_images_only(part):
    own = shown("pi", part)
    for name in ("pi_within", "pi_across"):
        permuted = shown(name, part)
        assert not np.array_equal(permuted, own)
        assert sorted(p.tobytes() for p in permuted) == sorted(p.tobytes() for p in own)
        assert np.array_equal(shown(name, part, training=False), own)
    within = shown("pi_within", part)
    for c in np.unique(part.labels):
        of_class = part.labels == c
        assert sorted(p.tobytes() for p in within[of_class]) == sorted(
            p.tobytes() for p in own[of_class]
        )


def test_noisy_topology_is_that_of_copies_with_sigma_0_08(part):
    view = Specs(config.resolve("smoke"), "a", "b", 8).view("pi_noisy")
    copies = views.pictured(view, part)
    assert (
        np.array_equal(copies, views.pictured(view, part))
        and views.pictured(replace(view, kind="pi"), part) is part.images
    )
    inner = (part.images > 80) & (part.images < 175)  # where nothing is clipped
    assert (copies[inner] / 255 - part.images[inner] / 255).std() == pytest.approx(0.08, rel=0.02)
    assert np.array_equal(shown("pi_noisy", part), topology.persistence_images(copies))
    assert not np.array_equal(shown("pi_noisy", part), shown("pi", part))
    other = part._replace(fingerprint="0" * 64)
    assert not np.array_equal(copies, views.pictured(view, other))


def test_noise_is_fixed_and_differs_between_parts(part):
    one = shown("noise", part)
    assert np.array_equal(one, shown("noise", part)) and one.shape == (32, 6, 50, 50)
    assert 126 < one.mean() < 129 and len({i.tobytes() for i in one}) == 32
    other = part._replace(fingerprint="0" * 64)
    assert not np.array_equal(one, shown("noise", other))


def test_image_and_map(part):
    both = shown("image_map", part)
    assert np.array_equal(both[:, :3], part.images.transpose(0, 3, 1, 2)) and both.shape == (
        32,
        9,
        32,
        32,
    )
    assert np.array_equal(both[:, 3:], diagrams.persistence_maps(part.images))


def test_measured_constants_by_hand():
    array = np.zeros((2, 2, 1, 2), np.uint8)
    array[:, 0] = [[[0, 255]], [[255, 0]]]  # mean 1/2, standard deviation 1/2
    array[:, 1] = 51  # constant at 1/5
    assert views.measured_constants(array) == (pytest.approx([0.5, 0.2]), pytest.approx([0.5, 1.0]))
