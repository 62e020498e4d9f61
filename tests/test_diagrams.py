"""diagrams: by hand, against a slow union-find, against gudhi's public classes; persistence in its
place.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgd_lib.config import InputError
from tgd_lib.diagrams import persistence_maps, persistence_on_a_rectangle, sublevel_diagrams


def union_find_pairs(signal) -> list[tuple[float, float]]:
    """Finite pairs of positive persistence: vertices by value, the younger component dies (elder
    rule).
    """
    parent: dict[int, int] = {}

    def root(v):
        while parent[v] != v:
            v = parent[v]
        return v

    pairs = []
    for v in sorted(range(len(signal)), key=lambda i: (signal[i], i)):
        parent[v] = v
        for neighbour in (v - 1, v + 1):
            if neighbour in parent:
                old, young = sorted((root(v), root(neighbour)), key=lambda r: (signal[r], r))
                if old != young:
                    parent[young] = old
                    if signal[v] > signal[young]:
                        pairs.append((float(signal[young]), float(signal[v])))
    return sorted(pairs)


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("signal", "pairs"),
    [
        ([0, 3, 1, 2, 0.5], [(0.5, 3), (1, 2)]),
        ([5, 1, 4, 2, 3, 0, 6], [(1, 4), (2, 3)]),
        ([7, 7, 7, 7], []),  # constant
        ([1, 2, 3, 9], []),  # monotone
        ([9, 3, 2, 1], []),
        ([4], []),
        ([0, 5, 5, 5, 2, 2, 8, 1], [(1, 8), (2, 5)]),  # plateaus of maxima and minima
        ([2, 5, 2, 5, 2], [(2, 5), (2, 5)]),  # equal minima: as many pairs as saddles
        ([-3.5, 0, -1.25], [(-1.25, 0)]),
    ],
)
def test_diagrams_by_hand(signal, pairs):
    (diagram,) = sublevel_diagrams([signal])
    assert diagram.dtype == np.float64 and diagram.shape == (len(pairs), 2)
    assert sorted(map(tuple, diagram)) == pairs == union_find_pairs(signal)


signals = st.lists(st.integers(0, 255), min_size=1, max_size=60) | st.lists(
    st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=40
)


@settings(max_examples=200, deadline=None)
@given(signals)
def test_diagrams_equal_union_find(signal):
    (diagram,) = sublevel_diagrams([signal])
    assert sorted(map(tuple, diagram)) == union_find_pairs(signal)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=2, max_size=60), st.integers(1, 55))
def test_reversal_and_shift(signal, constant):
    same, reverse, shifted = (np.sort(d, axis=0) for d in sublevel_diagrams(
        np.array([signal, signal[::-1], np.add(signal, constant)])
    ))  # fmt: skip
    assert (same == reverse).all() and (same + constant == shifted).all()


def test_private_and_public_gudhi_agree():
    """The library calls the linear-time routine by its private name; the public class must say the
    same.
    """
    from gudhi.sklearn.cubical_persistence import CubicalPersistence

    values = np.random.default_rng(1).integers(0, 256, (20, 200)).astype(float)
    public = CubicalPersistence(homology_dimensions=0).fit_transform(values)
    for ours, theirs in zip(sublevel_diagrams(values), public, strict=True):
        assert (ours == theirs[np.isfinite(theirs[:, 1])]).all()


# ---------------------------------------------------------------- pictures


@pytest.fixture
def images() -> np.ndarray:
    """Ten images of few levels, so that values often tie."""
    return (np.random.default_rng(3).integers(0, 12, (10, 9, 8, 3)) * 20).astype(np.uint8)


def ring(inside: int, wall: int, outside: int) -> np.ndarray:
    """A 5x5 image, grey: a wall of one pixel around one pixel, all that in a frame."""
    channel = np.full((5, 5), outside, np.uint8)
    channel[1:4, 1:4] = wall
    channel[2, 2] = inside
    return np.repeat(channel[None, :, :, None], 3, axis=3)


def test_a_ring_has_one_hole_and_one_component():
    """Sublevel sets of a dark ring: born at 10; its hole is born with it at 10 and
    filled at 200."""
    h0, h1 = persistence_on_a_rectangle()(ring(200, 10, 250)[0, :, :, 0].astype(float))
    assert h0[np.isfinite(h0[:, 1])].size == 0 and h1.tolist() == [[10, 200]]
    maps = persistence_maps(ring(200, 10, 250))
    assert maps.shape == (1, 6, 5, 5) and not maps[0, :3].any()
    # The filling, and the pixel that closed the ring.
    assert maps[0, 3, 2, 2] == 190 and np.count_nonzero(maps[0, 3]) == 2


def test_a_dark_spot_in_a_bright_wall_is_a_component():
    """A pixel of 20 within a wall of 200 in a frame of 10: it dies where the wall gives way, at
    200.
    """
    maps = persistence_maps(ring(20, 200, 10))
    assert maps[0, 0, 2, 2] == 180 and np.count_nonzero(maps[0, 0]) == 2
    assert maps[0, 3].max() == 190  # the frame is a ring, born at 10, and the wall fills it at 200


def test_maps_hold_the_diagram(images):
    """The most persistent pair of each diagram is somewhere in its map, and nothing is larger."""
    maps = persistence_maps(images[:4])
    for i, image in enumerate(images[:4]):
        for c in range(3):
            for dimension, pairs in enumerate(
                persistence_on_a_rectangle()(image[:, :, c].astype(float))
            ):
                pairs = pairs[np.isfinite(pairs[:, 1])]
                assert maps[i, 3 * dimension + c].max() == (pairs[:, 1] - pairs[:, 0]).max(
                    initial=0
                )


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "call",
    [
        lambda: sublevel_diagrams([1.0, 2.0]),
        lambda: sublevel_diagrams(np.zeros((0, 5))),
        lambda: sublevel_diagrams(np.zeros((3, 0))),
        lambda: sublevel_diagrams([[0.0, np.nan]]),
        lambda: sublevel_diagrams([[0.0, 1.0], [0.0, np.inf]]),
        lambda: sublevel_diagrams([["a", "b"]]),
        lambda: sublevel_diagrams([[1j, 0]]),
        lambda: persistence_maps(np.zeros((2, 4, 4, 3))),
        lambda: persistence_maps(np.zeros((0, 4, 4, 3), np.uint8)),
        lambda: persistence_maps(np.zeros((4, 4, 3), np.uint8)),
    ],
)
def test_bad_input_is_one_line(call):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value) and ": " in str(error.value)
