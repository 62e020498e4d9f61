"""What networks are shown: the images, persistence images, controls without topology."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgd_lib import config, datasets, topology, views
from tgd_lib.specs import Specs


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
    maps = view.kind == "image_map"
    pis = lambda: topology.persistence_images(part.images, view.orientation, view.params)  # noqa: E731
    made = views.array(view, part, (lambda: topology.persistence_maps(part.images)) if maps else pis, training=training)
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
        assert sorted(p.tobytes() for p in within[of_class]) == sorted(p.tobytes() for p in own[of_class])


def test_noise_is_fixed_and_differs_between_parts(part):
    one = shown("noise", part)
    assert np.array_equal(one, shown("noise", part)) and one.shape == (32, 6, 50, 50)
    assert 126 < one.mean() < 129 and len({i.tobytes() for i in one}) == 32
    other = part._replace(fingerprint="0" * 64)
    assert not np.array_equal(one, shown("noise", other))


def test_image_and_map(part):
    both = shown("image_map", part)
    assert np.array_equal(both[:, :3], part.images.transpose(0, 3, 1, 2)) and both.shape == (32, 9, 32, 32)
    assert np.array_equal(both[:, 3:], topology.persistence_maps(part.images))
