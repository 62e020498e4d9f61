"""Corruptions against statistics and values by hand, the official arrays, and which are taken."""

import io
import subprocess
import sys

import numpy as np
import pytest
from numpy.random import RandomState
from PIL import Image

from tgd_lib.config import InputError
from tgd_lib.files import sha256
from tgd_lib.images import corruptions
from tgd_lib.images.corruptions import (
    CHUNK,
    NAMES,
    OFFICIAL_NAMES,
    corrupt,
    official_labels,
    read_official,
)

SEVERITIES = (1, 2, 3, 4, 5)
BLURS = ("gaussian_blur", "defocus_blur", "zoom_blur")


def by_severity(*values):
    return list(zip(SEVERITIES, values, strict=True))


def flat(*colour, n=1, side=32):
    """n images of one colour (grey: one number)."""
    return np.broadcast_to(np.array(colour, np.uint8), (n, side, side, 3)).copy()


def textured(n=24, height=32, width=32):
    """Smooth coloured shapes with some grain, as photographs have: corruptions change them."""
    rng = RandomState(1)
    y, x = np.mgrid[:height, :width] / 32
    turns, shifts = rng.uniform(1, 8, (2, n, 1, 1, 3)), rng.uniform(0, 6, (n, 1, 1, 3))
    waves = np.sin(turns[0] * x[..., None] + turns[1] * y[..., None] + shifts)
    return (
        (120 + 70 * waves + rng.normal(0, 12, (n, height, width, 3))).clip(0, 255).astype(np.uint8)
    )


def fails(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    for word in words:
        assert str(word) in line, line


# ---------------------------------------------------------------- all of them


def test_there_are_thirteen():
    assert len(NAMES) == 13 and len(set(OFFICIAL_NAMES)) == 19 and set(NAMES) < set(OFFICIAL_NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shape_dtype_and_size(name):
    for shape in ((3, 32, 32), (2, 8, 8), (2, 20, 37), (1, 96, 64), (0, 32, 32)):
        images = textured(*shape)
        before = images.copy()
        found = corrupt(images, name, 3)
        assert found.shape == images.shape and found.dtype == np.uint8
        assert (images == before).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_again_and_for_fewer_images(name):
    images = textured(CHUNK + 30, 8, 8)
    found = corrupt(images, name, 4, seed=7)
    assert (found == corrupt(images, name, 4, seed=7)).all()
    for k in (1, 17, CHUNK, CHUNK + 1):
        assert (found[:k] == corrupt(images[:k], name, 4, seed=7)).all()
    random = name.endswith("noise") or name == "fog"
    assert (found == corrupt(images, name, 4, seed=8)).all() != random


@pytest.mark.parametrize("name", NAMES)
def test_severity_orders(name):
    images = textured()
    change = [np.abs(corrupt(images, name, s).astype(float) - images).mean() for s in SEVERITIES]
    if name == "saturate":  # two ways: paler at 1 and 2, more colourful from 3 on
        assert change[0] < change[1] and change[2] < change[3] < change[4]
    else:
        assert change == sorted(change) and change[0] > 0.2


def test_global_random_state_is_left_alone():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    corrupt(textured(2), "fog", 1)
    assert np.random.rand() == expected


def test_no_torch():
    code = (
        "import sys, tgd_lib.images.corruptions as c;"
        "print({'torch', 'skimage', 'PIL.Image'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "set()"


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("severity, sigma", by_severity(0.04, 0.06, 0.08, 0.09, 0.10))
def test_gaussian_noise(severity, sigma):
    noise = corrupt(flat(128, n=100), "gaussian_noise", severity).astype(float)  # 307,200 values
    assert noise.std() == pytest.approx(255 * sigma, rel=0.01)
    assert noise.mean() == pytest.approx(127.5, abs=0.2)  # truncation takes half a level
    channels = noise.reshape(-1, 3).T
    assert np.abs(np.corrcoef(channels) - np.eye(3)).max() < 0.02  # each channel by itself


@pytest.mark.parametrize("severity, photons", by_severity(500, 250, 100, 75, 50))
def test_shot_noise(severity, photons):
    x = 102 / 255
    noise = (corrupt(flat(102, n=100), "shot_noise", severity) + 0.5) / 255
    assert noise.mean() == pytest.approx(x, abs=0.003)
    assert noise.var() == pytest.approx(x / photons, rel=0.05)  # Poisson; 8 bits add some
    assert (corrupt(flat(0), "shot_noise", severity) == 0).all()  # no light, no noise


@pytest.mark.parametrize("severity, amount", by_severity(0.01, 0.02, 0.03, 0.05, 0.07))
def test_impulse_noise(severity, amount):
    found = corrupt(flat(100, n=100), "impulse_noise", severity)
    shares = [(found == v).mean() for v in (0, 100, 255)]
    assert shares == pytest.approx([amount / 2, 1 - amount, amount / 2], abs=0.002)
    assert sum(shares) == pytest.approx(1)
    assert ((found == 100).any(3) & (found != 100).any(3)).any()  # single values, not whole pixels


@pytest.mark.parametrize("severity, sigma", by_severity(0.06, 0.10, 0.12, 0.16, 0.20))
def test_speckle_noise(severity, sigma):
    for level in (50, 100):  # in proportion to the light
        noise = corrupt(flat(level, n=100), "speckle_noise", severity)
        assert noise.std() == pytest.approx(level * sigma, rel=0.02)
    assert (corrupt(flat(0), "speckle_noise", severity) == 0).all()


# ---------------------------------------------------------------- blur


@pytest.mark.parametrize("name", BLURS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_blurs_keep_what_is_flat_and_the_mean(name, severity):
    for level in (0, 77, 255):
        assert np.abs(corrupt(flat(level), name, severity).astype(int) - level).max() <= 1
    images = textured()
    found = corrupt(images, name, severity).astype(float)
    assert found.mean() == pytest.approx(images.mean() - 0.5, abs=1.0)
    steps = [np.abs(np.diff(x.astype(float), axis=1)).mean((1, 2, 3)) for x in (found, images)]
    assert (steps[0] < steps[1]).all()


def point(side=33):
    """A white pixel in the middle of a black image."""
    images = np.zeros((1, side, side, 3), np.uint8)
    images[0, side // 2, side // 2] = 255
    return images


def test_gaussian_blur_of_a_point():
    found = corrupt(point(), "gaussian_blur", 5)[0, :, :, 0]
    bell = np.exp(-(np.arange(-4, 5) ** 2) / 2)  # sigma 1, cut at 4 sigma
    bell /= bell.sum()
    assert np.array_equal(found[12:21, 12:21], (255 * np.outer(bell, bell)).astype(np.uint8))
    assert found.sum() == found[12:21, 12:21].sum()


def test_gaussian_blur_goes_on_as_the_edge():
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[:, :, 0] = 200  # the left column
    bell = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    at_edge = bell[4:].sum() / bell.sum()  # the column itself and all that is left of it
    assert (corrupt(images, "gaussian_blur", 5)[0, :, 0] == int(200 * at_edge)).all()


def test_defocus_blur_of_a_point():
    # Radius 1.5: the 3x3 square; blur 0.1: none.
    ninth = corrupt(point(), "defocus_blur", 5)[0, :, :, 1]
    assert set(ninth[15:18, 15:18].flat) <= {28} and ninth.sum() == 9 * 28  # 255 / 9 = 28.3
    # Radius 1: a cross; blur 0.2: next to none.
    fifth = corrupt(point(), "defocus_blur", 4)[0, :, :, 1]
    assert np.array_equal(fifth[15:18, 15:18], [[0, 50, 0], [50, 50, 50], [0, 50, 0]])
    for severity, (radius, sigma) in enumerate(((0.3, 0.4), (0.4, 0.5), (0.5, 0.6)), 1):
        # Of so small a disk only the blur is left.
        bell = np.exp(-np.array([1, 0, 1]) / (2 * sigma**2))
        kernel = np.outer(bell, bell) / bell.sum() ** 2
        assert corruptions.disk_kernel(radius, sigma) == pytest.approx(kernel)
        found = corrupt(point(), "defocus_blur", severity)[0, 15:18, 15:18, 0]
        assert np.abs(found - 255 * kernel).max() < 1.001


def test_defocus_blur_mirrors_at_the_edge():
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[:, :, 1] = 240  # the second column: from the first, it is seen on both sides
    found = corrupt(images, "defocus_blur", 5)[0, 16, :4, 0].astype(int)
    assert np.abs(found - [160, 80, 80, 0]).max() <= 1


@pytest.mark.parametrize("severity, zooms", by_severity(7, 12, 16, 21, 26))
def test_zoom_blur_is_a_mean_of_zooms(severity, zooms):
    assert len(np.arange(1, corruptions._TABLE["zoom_blur"].constants[severity - 1], 0.01)) == zooms
    # Away from the middle things move outwards, in the mean over zooms by (mean zoom - 1) of the
    # distance.
    y = np.arange(32.0)
    slope = np.broadcast_to((8 * y)[:, None, None], (1, 32, 32, 3)).astype(np.uint8)
    found = corrupt(slope, "zoom_blur", severity)[0, :, 16, 0].astype(float)
    steepness = np.polyfit(y[8:24], found[8:24], 1)[0] / 8
    z = 1 + np.arange(zooms) / 100
    assert steepness == pytest.approx((1 + (1 / z).sum()) / (zooms + 1), abs=0.015)


def test_zoom_blur_follows_the_published_rounding():
    # 26 pixels times 1.25 are 32.5; arange's last number is a little more than 1.25, so they
    # become 33.
    last = np.arange(1, 1.26, 0.01)[-1]
    assert last > 1.25
    assert not np.array_equal(
        corruptions._zoom_matrix(32, 1.25), corruptions._zoom_matrix(32, last)
    )


def test_no_zoom_is_no_change():
    assert np.array_equal(corruptions._zoom_matrix(32, 1.0), np.eye(32))
    matrix = corruptions._zoom_matrix(31, 1.2)
    assert matrix.shape == (31, 31) and matrix.sum(1) == pytest.approx(np.ones(31), abs=1e-6)


# ---------------------------------------------------------------- weather


@pytest.mark.parametrize("decay", [1.75, 2, 3])
def test_plasma(decay):
    maps = corruptions.plasma_fractals(200, 32, decay, RandomState(0))
    assert maps.shape == (200, 32, 32)
    assert (maps.min((1, 2)) == 0).all() and (maps.max((1, 2)) == 1).all()
    assert 0.45 < maps.mean() < 0.55  # no side is preferred


def test_plasma_of_four_points_by_hand():
    # the corner 0; the middle = mean of four corners + 100^2 u0; each other = mean of its four
    # + 100^2 u
    u = RandomState(5).uniform(-1, 1, (1, 3))[0]
    middle = 1e4 * u[0]
    heights = np.array([[0, middle / 2 + 1e4 * u[1]], [middle / 2 + 1e4 * u[2], middle]])
    heights -= heights.min()
    found = corruptions.plasma_fractals(1, 2, 3, RandomState(5))[0]
    assert found == pytest.approx(heights / heights.max())


def test_plasma_is_smoother_with_more_decay():
    rough, smooth = (corruptions.plasma_fractals(100, 32, d, RandomState(0)) for d in (1.75, 3))
    steps = [np.abs(np.diff(maps, axis=1)).mean() for maps in (rough, smooth)]
    assert steps[0] > 1.2 * steps[1]


@pytest.mark.parametrize("severity, strength", by_severity(0.2, 0.5, 0.75, 1, 1.5))
def test_fog(severity, strength):
    x = 102 / 255  # flat: where the plasma is 0, x * x / (x + strength); where it is 1, x again
    found = corrupt(flat(102, n=20), "fog", severity)
    assert (found.min((1, 2, 3)) == int(255 * x * x / (x + strength))).all()
    assert np.isin(found.max((1, 2, 3)), (101, 102)).all()
    assert (found[..., 0] == found[..., 1]).all()  # grey stays grey: one plasma for all channels
    assert (corrupt(flat(0), "fog", severity) == 0).all()


@pytest.mark.parametrize("severity, added", by_severity(0.05, 0.10, 0.15, 0.20, 0.30))
def test_brightness(severity, added):
    # (200, 100, 50): value 200/255; hue and saturation stay, so all channels grow in one ratio
    value = min(200 / 255 + added, 1)
    expected = np.array([200, 100, 50]) / 200 * value * 255
    found = corrupt(flat(200, 100, 50), "brightness", severity)[0, 0, 0]
    assert (np.abs(found - expected) <= 1).all()
    black = corrupt(flat(0), "brightness", severity)
    assert np.abs(black - 255 * added).max() <= 1 and (black[..., 0] == black[..., 2]).all()
    assert (corrupt(flat(255), "brightness", severity) == 255).all()


FACTORS = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))


@pytest.mark.parametrize("severity, constants", by_severity(*FACTORS))
def test_saturate(severity, constants):
    # (200, 150, 160): saturation 1 - 150/200 = 1/4, and 160 stands at 1/5 of the way from 150
    # to 200
    saturation = min(0.25 * constants[0] + constants[1], 1)
    low = 200 * (1 - saturation)
    found = corrupt(flat(200, 150, 160), "saturate", severity)[0, 0, 0]
    assert (np.abs(found - [200, low, low + (200 - low) / 5]) <= 1).all()
    grey = corrupt(flat(100), "saturate", severity)[0, 0, 0]  # hue 0 is red
    assert (np.abs(grey - [100, 100 * (1 - constants[1]), 100 * (1 - constants[1])]) <= 1).all()


# ---------------------------------------------------------------- digital


@pytest.mark.parametrize("severity, factor", by_severity(0.75, 0.5, 0.4, 0.3, 0.15))
def test_contrast(severity, factor):
    images = flat(50, 20, 120)
    images[:, :, 16:] = (150, 220, 120)  # means 100, 120, 120; differences ∓50, ∓100, 0
    found = corrupt(images, "contrast", severity).astype(int)
    for part, sign in ((found[:, :, :16], -1), (found[:, :, 16:], 1)):
        expected = np.array([100, 120, 120]) + sign * factor * np.array([50, 100, 0])
        assert np.abs(part - expected).max() <= 1


def test_pixelate_gives_constant_blocks():
    images = textured(3, 64, 64)  # 64 * 0.75 = 48 pixels: four become three
    small = np.array([Image.fromarray(i).resize((48, 48), Image.Resampling.BOX) for i in images])
    found = corrupt(images, "pixelate", 4)
    assert (found[:, ::4, ::4] == small[:, ::3, ::3]).all()  # an end of a four is one small pixel
    for severity, side in zip(SEVERITIES, (30, 28, 27, 24, 20), strict=True):
        image = corrupt(textured(1), "pixelate", severity)[0].astype(int)
        for axis in (0, 1):  # as many lines differ from the one before
            assert np.diff(image, axis=axis).any((1 - axis, 2)).sum() == side - 1
    assert (corrupt(flat(9, 99, 199), "pixelate", 5) == flat(9, 99, 199)).all()


@pytest.mark.parametrize("severity, quality", by_severity(80, 65, 58, 50, 40))
def test_jpeg_is_pils(severity, quality):
    images = textured(2)
    for image, found in zip(images, corrupt(images, "jpeg_compression", severity), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        assert (np.array(Image.open(file)) == found).all()
    assert (corrupt(flat(128), "jpeg_compression", severity) == 128).all()


def test_truncation_keeps_8_bit_values():
    levels = np.arange(256, dtype=np.uint8)
    assert (corruptions._to_uint8(levels / 255) == levels).all()
    assert corruptions._to_uint8(np.array([-1, 0.999, 2.0])).tolist() == [0, 254, 255]


# ---------------------------------------------------------------- bad input


def test_bad_input():
    images = flat(1)
    fails(
        lambda: corrupt(images, "gausian_noise", 1),
        "did you mean 'gaussian_noise'?",
        "jpeg_compression",
    )
    fails(lambda: corrupt(images, "snow", 1), "'snow' does not exist")
    for severity in (0, 6, 1.0, "1", None, True):
        fails(
            lambda severity=severity: corrupt(images, "fog", severity),
            "severity",
            "1, 2, 3, 4 or 5",
        )
    for seed in (-1, 2**32, 0.5, None):
        fails(lambda seed=seed: corrupt(images, "fog", 1, seed=seed), "seed", "whole number")
    for wrong in (images[0], images / 255, images[..., :1], images[:, :7], [[1, 2]]):
        fails(lambda wrong=wrong: corrupt(wrong, "fog", 1), "uint8 (N, H, W, 3)")


# ---------------------------------------------------------------- the official arrays


def test_official_arrays(tmp_path):
    shape = (50_000, 32, 32, 3)  # a sparse file: 154 MB that take no place
    whole = np.lib.format.open_memmap(tmp_path / "snow.npy", "w+", np.uint8, shape)
    whole[20_000] = 7
    whole.flush()
    found = read_official(tmp_path, "snow")
    assert found.shape == (5, 10_000, 32, 32, 3) and found.dtype == np.uint8
    assert (found[2, 0] == 7).all() and not found[2, 1].any() and not found.flags.writeable
    np.save(tmp_path / "labels.npy", np.tile(np.arange(10_000) % 10, 5).astype(np.uint8))
    labels = official_labels(str(tmp_path))
    assert labels.dtype == np.int64 and labels.shape == (10_000,) and labels[13] == 3


def test_official_arrays_that_are_not(tmp_path):
    fails(lambda: read_official(tmp_path, "snows"), "did you mean 'snow'?")
    fails(lambda: read_official(tmp_path / "no", "fog"), tmp_path / "no", "does not exist")
    fails(lambda: read_official(tmp_path, "fog"), tmp_path / "fog.npy", "missing")
    fails(lambda: official_labels(tmp_path), "labels.npy", "missing")
    path = tmp_path / "fog.npy"
    for array in (np.zeros((5, 32, 32, 3), np.uint8), np.zeros(3)):
        np.save(path, array)
        fails(lambda: read_official(tmp_path, "fog"), path, "uint8 (50000, 32, 32, 3) is needed")
    np.save(path, np.array([{}], object), allow_pickle=True)
    fails(lambda: read_official(tmp_path, "fog"), path, "cannot be read")
    for content in (b"", b"\x93NUMPY", b"not an array"):
        path.write_bytes(content)
        fails(lambda: read_official(tmp_path, "fog"), path, "cannot be read")
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    fails(lambda: read_official(tmp_path, "fog"), path, "an archive where")
    for labels in (np.arange(50_000) % 7, np.full(50_000, 10), np.zeros(50_000), np.zeros(9, int)):
        np.save(tmp_path / "labels.npy", labels)
        fails(lambda: official_labels(tmp_path), "labels.npy")


# ---------------------------------------------------------------- where they come from


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A folder with two of the official arrays, sparse, and their labels."""
    folder = tmp_path_factory.mktemp("CIFAR-10-C")
    for name in ("snow", "fog"):
        shape = (50_000, 32, 32, 3)
        whole = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
        whole[20_007] = 9  # severity 3, image 7
        whole.flush()
    np.save(folder / "labels.npy", np.tile(np.arange(10_000) % 10, 5))
    return folder


LABELS = np.arange(10_000) % 10


def test_our_own_where_there_are_no_official_arrays(tmp_path):
    for folder in (None, tmp_path / "nowhere"):
        own = corruptions.source(folder, LABELS)
        assert own == corruptions.Source("own", NAMES) and own.fingerprint("fog") == "own"
    assert corruptions.source(None, LABELS, ["fog"]).names == ("fog",)
    images = textured(3)
    found = corruptions.source(None, LABELS).images(images, np.array([7, 1, 4]), "fog", 2)
    assert (found == corrupt(images, "fog", 2, seed=0)).all()


def test_official_arrays_where_they_are(official):
    found = corruptions.source(official, LABELS)
    assert found.kind == "official" and found.names == ("fog", "snow")
    assert (
        found.fingerprint("fog") == sha256(official / "fog.npy")
        and found.fingerprint("none") == "own"
    )
    images = found.images(textured(3), np.array([7, 1, 4]), "snow", 3)
    assert (images[0] == 9).all() and not images[1:].any() and images.flags.c_contiguous
    assert corruptions.source(official, LABELS, ["snow", "frost"]).names == ("snow",)


def test_official_arrays_of_other_images(official):
    fails(
        lambda: corruptions.source(official, LABELS[::-1]),
        official,
        "not those of these test images",
    )
    fails(
        lambda: corruptions.source(official, LABELS[:80]),
        official,
        "not those of these test images",
    )
    fails(lambda: corruptions.source(None, LABELS, ["snows"]), "did you mean 'snow'?")
