"""topology: pictures against definition and reference."""

import hashlib
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tgd_lib import diagrams, topology
from tgd_lib.config import InputError
from tgd_lib.diagrams import sublevel_diagrams
from tgd_lib.topology import PersistenceImageParams, persistence_images

STRIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"


# ---------------------------------------------------------------- independent, slow


def by_definition(images, orientation="both", params=topology.PAPER) -> np.ndarray:
    """The pictures one by one, without lattice, tables or blocks."""
    pictures = []
    for image in images / 255:
        rows, columns = image.transpose(2, 0, 1), image.transpose(2, 1, 0)
        halves = {"row": [rows], "column": [columns], "both": [rows, columns]}[orientation]
        for diagram in sublevel_diagrams(np.concatenate([h.reshape(3, -1) for h in halves])):
            pictures.append(topology.to_levels(topology.persistence_image(diagram, params)))
    return np.reshape(pictures, (len(images), -1, params.resolution, params.resolution))


def smooth_images(n: int, size: int = 32) -> np.ndarray:
    """Deterministic, photograph-like: waves and noise of several contrasts, some far too bright."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    images = []
    for i in range(n):
        waves = sum(
            np.sin(2 * np.pi * (rng.uniform(-4, 4) * x + rng.uniform(-4, 4) * y)) for _ in range(4)
        )
        noise = rng.normal(0, 1, (size, size, 3))
        images.append(rng.uniform(20, 240) + 15 * waves[..., None] + (i % 5) * 4 * noise)
    return np.clip(images, 0, 255).astype(np.uint8)


def test_without_the_private_name(monkeypatch):
    import gudhi.sklearn.cubical_persistence  # noqa: F401  (loaded before: keeps its own reference)

    images = smooth_images(3)
    expected = persistence_images(images)
    diagrams.persistence_on_a_line.cache_clear()
    monkeypatch.setitem(sys.modules, "gudhi._pers_cub_low_dim_ext", None)  # import now fails

    try:
        assert diagrams.persistence_on_a_line().__name__ == "<lambda>"
        assert (persistence_images(images) == expected).all()
        assert sorted(map(tuple, sublevel_diagrams([[0, 3, 1, 2, 0.5]])[0])) == [(0.5, 3), (1, 2)]
    finally:
        diagrams.persistence_on_a_line.cache_clear()


# ---------------------------------------------------------------- pictures


def test_shape_type_and_channel_order():
    images = smooth_images(5)
    both, row, column, literal = (
        persistence_images(images, o) for o in ("both", "row", "column", "authors_literal")
    )
    assert both.shape == literal.shape == (5, 6, 50, 50) and row.shape == column.shape == (
        5,
        3,
        50,
        50,
    )
    assert both.dtype == np.uint8 and both.max() == 255
    assert (both[:, :3] == row).all() and (both[:, 3:] == column).all()
    assert (literal[:, :3] == row).all() and (literal[:, 3:] == row).all()
    assert (persistence_images(images.transpose(0, 2, 1, 3), "row") == column).all()
    assert (row != column).any()


def test_one_point_lies_where_it_should():
    """Birth 0.1, persistence 0.2 on pixels 0.3/49 apart: column 16 from the left, row 32 from
    below.
    """
    image = topology.persistence_image([[0.1, 0.3]])
    assert np.unravel_index(image.argmax(), image.shape) == (49 - 32, 16)
    assert 0.95 < image.sum() <= 1  # the mass of one Gaussian, less the gaps between pixels
    weaker = topology.persistence_image([[0.1, 0.3], [0.25, 0.35]])
    assert np.isclose(weaker[:, 35:].sum() / image.sum(), 0.5, atol=0.02)  # weight 0.1 / 0.2


def test_threshold_is_strict_and_on_the_lattice():
    """5/255 < 0.02 < 6/255; a threshold that a lattice point meets exactly excludes that point."""
    image = np.zeros((1, 1, 4, 3), np.uint8)
    image[0, 0, 1], image[0, 0, 2] = (5, 6, 51), 0
    shown = persistence_images(image, "row").any(axis=(2, 3))[0]
    assert shown.tolist() == [False, True, True]
    at_51 = persistence_images(image, "row", PersistenceImageParams(threshold=51 / 255))
    assert not at_51.any()
    assert not persistence_images(image, "row", PersistenceImageParams(threshold=2)).any()


def test_channels_without_pairs_are_black():
    constant = np.full((1, 32, 32, 3), 77, np.uint8)
    monotone = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (1, 16, 16, 3))
    assert not persistence_images(constant).any()
    assert not persistence_images(monotone, "row").any()
    assert not persistence_images(np.full((3, 1, 1, 3), 9, np.uint8)).any()
    mixed = np.concatenate([smooth_images(2), constant])  # an empty diagram between full ones
    assert (
        not persistence_images(mixed)[2].any()
        and persistence_images(mixed)[:2].any(axis=(2, 3)).all()
    )


def test_reversed_picture_is_the_same_bits():
    images = smooth_images(8)
    assert (persistence_images(images) == persistence_images(images[:, ::-1, ::-1])).all()


@pytest.mark.parametrize(
    "params",
    [
        PersistenceImageParams(),
        PersistenceImageParams(resolution=20, high=1, sigma=0.02, threshold=0),
        PersistenceImageParams(resolution=7, low=0.1, high=0.2, sigma=0.003, threshold=0.05),
    ],
)
def test_fast_equals_definition(params):
    images = smooth_images(40)
    assert (persistence_images(images, params=params) == by_definition(images, params=params)).all()


def test_tails_alone_make_the_picture():
    """Every birth right of the window: the points that the fast path leaves out are
    all there is."""
    rng = np.random.default_rng(3)
    images = [rng.integers(low, low + 30, (32, 32, 3), np.uint8) for low in range(70, 225, 5)]
    images = np.stack(images)
    pictures = persistence_images(images)
    assert (pictures == by_definition(images)).all()
    drawn = pictures.any(axis=(1, 2, 3))
    assert drawn[0] and not drawn[-1]  # from ordinary tails, through subnormal ones, to exact zero


def test_points_left_out_are_below_rounding():
    """The condition of the fast path, from its constants: at the smallest peak that passes for
    safe, all points left out together stay under half a unit in the last place of that peak."""
    births, heights, seen = topology._tables(topology.PAPER)
    largest = np.outer(heights.max(axis=1), births.max(axis=1)).ravel()  # at height << 8 | birth
    assert largest[~seen].max() <= topology.CUT and topology.ROUNDING < np.finfo(float).eps / 2
    assert seen[100 << 8 | 10] or seen[60 << 8 | 10]  # an ordinary point
    assert not seen[60 << 8 | 200]  # a bright one


def test_a_picture_from_which_too_much_was_left_out_is_made_again(monkeypatch):
    """With a cut of a thousandth much is left out: the rule must catch it. With the rule off, it
    shows.
    """
    images = smooth_images(12)
    expected = persistence_images(images)
    try:
        monkeypatch.setattr(topology, "CUT", 1e-3)
        topology._tables.cache_clear()
        assert (persistence_images(images) == expected).all()
        monkeypatch.setattr(topology, "ROUNDING", 1e30)
        assert (persistence_images(images) != expected).any()
    finally:
        monkeypatch.undo()
        topology._tables.cache_clear()


def test_other_sizes():
    for height, width in ((1, 7), (8, 8), (13, 29), (60, 90)):
        images = (
            np.random.default_rng(height).integers(0, 90, (2, height, width, 3)).astype(np.uint8)
        )
        assert (persistence_images(images) == by_definition(images)).all()
    # A block of its own for each image, 60,000 samples a signal.
    few = PersistenceImageParams(threshold=0.34)
    images = np.random.default_rng(0).integers(0, 90, (2, 200, 300, 3)).astype(np.uint8)
    assert (persistence_images(images, params=few) == by_definition(images, params=few)).all()


def test_independent_of_threads_blocks_and_layout():
    images = smooth_images(130)
    one = persistence_images(images)
    assert (persistence_images(images, n_jobs=2) == one).all()
    assert (persistence_images(images, n_jobs=None) == one).all()
    assert (persistence_images(images[37:41]) == one[37:41]).all()
    assert (persistence_images(images[::-1])[::-1] == one).all()


def test_save(tmp_path, monkeypatch, capsys):
    images, path = smooth_images(70), tmp_path / "pi.npy"
    topology.save_persistence_images(path, images, n_jobs=2)
    assert capsys.readouterr().err == ""  # no bar unasked
    saved = np.load(path, mmap_mode="r")
    assert saved.dtype == np.uint8 and (saved == persistence_images(images)).all()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(topology, "_block", fail)
    for jobs in (1, 2):
        with pytest.raises(OSError, match="No space"):
            topology.save_persistence_images(path, images, n_jobs=jobs)
        assert not path.exists()


def test_progress(capsys):
    persistence_images(smooth_images(40), progress=True)
    assert "persistence images" in capsys.readouterr().err


def test_golden():
    """Any change of the pictures shows here. Sums, for the last level of a pixel may differ by
    machine.
    """
    data = pytest.importorskip("skimage.data")
    patch = data.astronaut()[96:128, 208:240][None]
    assert hashlib.sha256(patch.tobytes()).hexdigest()[:8] == "228e9b9f"
    pictures = persistence_images(patch)[0].astype(int)
    assert np.abs(pictures.sum(axis=(1, 2)) - [255, 1310, 486, 260, 413, 11949]).max() <= 2
    assert pictures.reshape(6, -1).argmax(axis=1).tolist() == [49, 399, 49, 49, 49, 49]


def test_import_is_cheap():
    code = (
        "import sys, tgd_lib.topology;"
        "print(sys.modules.keys() & {'torch', 'gudhi', 'sklearn', 'tqdm'})"
    )
    root = Path(__file__).resolve().parents[1]
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert shown.stdout == "set()\n", shown.stderr


# ---------------------------------------------------------------- bad input

IMAGES = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "call",
    [
        lambda: persistence_images(IMAGES / 255),
        lambda: persistence_images(IMAGES.astype(int)),
        lambda: persistence_images(IMAGES[0]),
        lambda: persistence_images(IMAGES[..., :1]),
        lambda: persistence_images(IMAGES[:0]),
        lambda: persistence_images(IMAGES[:, :0]),
        lambda: persistence_images(IMAGES, "rows"),
        lambda: persistence_images(IMAGES, "row", {"sigma": 0.01}),
        lambda: persistence_images(IMAGES, n_jobs=0),
        lambda: persistence_images(IMAGES, n_jobs=1.5),
        lambda: topology.persistence_image([1.0, 2.0]),
        lambda: topology.persistence_image([[0.0, np.inf]]),
        lambda: PersistenceImageParams(resolution=0),
        lambda: PersistenceImageParams(resolution=50.0),
        lambda: PersistenceImageParams(resolution=True),
        lambda: PersistenceImageParams(sigma=0),
        lambda: PersistenceImageParams(sigma="0.01"),
        lambda: PersistenceImageParams(sigma=float("nan")),
        lambda: PersistenceImageParams(low=0.3),
        lambda: PersistenceImageParams(high=float("inf")),
        lambda: PersistenceImageParams(threshold=-0.1),
    ],
)
def test_bad_input_is_one_line(call):
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and len(message) < 200
    assert any(advice in message for advice in ("give ", "choose ", "drop "))


def test_bad_input_leaves_no_file(tmp_path):
    for arguments in ((IMAGES / 255,), (IMAGES, "rows")):
        with pytest.raises(InputError):
            topology.save_persistence_images(tmp_path / "pi.npy", *arguments)
    with pytest.raises(InputError):
        topology.save_persistence_images(tmp_path / "pi.npy", IMAGES, n_jobs=-1)
    assert not list(tmp_path.iterdir())


def test_parameters_are_plain_types():
    """Equal questions must have equal keys in the store."""
    params = PersistenceImageParams(np.int64(50), 0, np.float64(0.3))
    assert params == topology.PAPER and type(params.low) is float and type(params.resolution) is int


# ---------------------------------------------------------------- the reference chain


def reference_diagram(channel: np.ndarray) -> np.ndarray:
    """(n,) in [0, 1] → finite pairs of persistence > 0.02, by ripser on the sparse path graph."""
    from ripser import ripser
    from scipy.sparse import coo_matrix

    n, i = len(channel), np.arange(len(channel))
    values = np.concatenate([np.maximum(channel[:-1], channel[1:]), channel])
    graph = coo_matrix((values, (np.r_[i[:-1], i], np.r_[i[1:], i])), shape=(n, n)).tocsr()
    diagram = ripser(graph, maxdim=0, distance_matrix=True)["dgms"][0]
    return diagram[np.isfinite(diagram[:, 1]) & (diagram[:, 1] - diagram[:, 0] > 0.02)]


def reference_images(images: np.ndarray) -> np.ndarray:
    """uint8 (N, 32, 32, 3) → uint8 (N, 6, 50, 50) as the authors do it: ripser, then persim's
    PersImage.
    """
    from persim import PersImage

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        imager = PersImage(
            pixels=[50, 50], spread=0.01, specs={"minBD": 0, "maxBD": 0.3}, verbose=False
        )
    pictures = []
    for image in images / 255:
        for channel in (*image.transpose(2, 0, 1), *image.transpose(2, 1, 0)):
            picture = np.asarray(imager.transform(reference_diagram(channel.ravel())))
            pictures.append(topology.to_levels(picture))
    return np.reshape(pictures, (len(images), 6, 50, 50))


def assert_agrees(ours: np.ndarray, reference: np.ndarray) -> None:
    off = np.abs(ours.astype(int) - reference)
    assert off.max() <= 1, f"{off.max()} levels off"
    assert np.count_nonzero(off) * 10_000 <= off.size, (
        f"{np.count_nonzero(off)} of {off.size} pixels off"
    )


def cifar_images(n: int) -> np.ndarray:
    """n real CIFAR-10 images, spread over the first test strips."""
    if not STRIPS.is_dir():
        pytest.skip(
            f"no CIFAR-10 strips in ../{STRIPS.parent.name}/{STRIPS.name} beside the repository"
        )
    image = pytest.importorskip("PIL.Image")
    strips = [
        np.asarray(image.open(s).convert("RGB")) for s in sorted(STRIPS.glob("test_*.webp"))[:3]
    ]
    images = np.concatenate([s.reshape(-1, 32, 32, 3) for s in strips])
    return images[:: len(images) // n][:n]


def test_reference_on_synthetic_images():
    pytest.importorskip("ripser"), pytest.importorskip("persim")
    images = smooth_images(4)
    assert_agrees(persistence_images(images), reference_images(images))


def test_reference_on_a_few_real_images():
    pytest.importorskip("ripser"), pytest.importorskip("persim")
    images = cifar_images(4)
    assert_agrees(persistence_images(images), reference_images(images))
    assert (persistence_images(images) == by_definition(images)).all()


@pytest.mark.slow
def test_reference_on_real_images():
    """The acceptance: 300 CIFAR-10 images x 3 channels x 2 orientations, and the definition bit for
    bit.
    """
    pytest.importorskip("ripser"), pytest.importorskip("persim")
    images = cifar_images(300)
    ours = persistence_images(images)
    assert (ours == by_definition(images)).all()
    assert_agrees(ours, reference_images(images))


# ---------------------------------------------------------------- two dimensions, beyond the paper


@pytest.fixture
def images() -> np.ndarray:
    """Ten images of few levels, so that values often tie."""
    return (np.random.default_rng(3).integers(0, 12, (10, 9, 8, 3)) * 20).astype(np.uint8)


def test_superlevel_sets_are_sublevel_sets_of_the_negative(images):
    expected = topology.persistence_images(255 - images, "cubical")
    assert np.array_equal(topology.persistence_images(images, "cubical_super"), expected)


def test_cubical_images_are_their_definition(images):
    """By gudhi's general cubical complex and the picture drawn by definition."""
    gudhi = pytest.importorskip("gudhi")
    params = topology.PersistenceImageParams(high=1.0, sigma=0.02)
    made = topology.persistence_images(images[:6], "cubical", params, n_jobs=2)
    for i, image in enumerate(images[:6]):
        for c in range(3):
            cells = gudhi.CubicalComplex(top_dimensional_cells=image[:, :, c] / 255)
            cells.compute_persistence(homology_coeff_field=2)
            for dimension in (0, 1):
                pairs = cells.persistence_intervals_in_dimension(dimension).reshape(-1, 2)
                pairs = pairs[np.isfinite(pairs[:, 1])]
                expected = topology.to_levels(topology.persistence_image(pairs, params))
                assert np.abs(made[i, 3 * dimension + c].astype(int) - expected).max() <= 1
