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


def shown(name, part, kind=None):
    view = Specs(config.resolve("smoke"), "a", "b", 8).view(name)
    view = replace(view, kind=kind or view.kind)

    def topology_of() -> np.ndarray:
        if view.kind == "image_map":
            return diagrams.persistence_maps(part.images)
        pictures = views.pictured(view, part)
        return topology.persistence_images(pictures, view.orientation, view.params)

    made = views.array(view, part, topology_of)
    assert made.dtype == np.uint8 and made.shape[:2] == (len(part.labels), view.channels)
    return made


def test_permuted_are_other_images_persistence_images(part):
    own = shown("pi", part)
    for kind in ("pi_within", "pi_across"):
        permuted = shown("pi", part, kind)
        assert not np.array_equal(permuted, own)
        assert sorted(p.tobytes() for p in permuted) == sorted(p.tobytes() for p in own)
    within = shown("pi", part, "pi_within")
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


def test_a_mixed_one_keeps_what_each_pixel_has_over_the_images(part):
    own, found = shown("pi", part), shown("pi", part, "pi_mixed")
    assert np.array_equal(np.sort(own, axis=0), np.sort(found, axis=0))
    assert np.array_equal(found, shown("pi", part, "pi_mixed"))  # fixed


@given(n=st.integers(1, 12), seed=st.integers(0, 9))
def test_every_pixel_of_a_mixed_one_comes_from_another_image(n, seed):
    whose = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 5, 5))
    found = views.mixed(whose, seed=seed)
    assert np.array_equal(np.sort(found, axis=0), whose)  # each image gives each pixel once
    assert n == 1 or (found != whose).all()
    if n == 12:  # fifty pixels from eleven others: not all from one
        assert all(len(np.unique(picture)) > 5 for picture in found)


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
