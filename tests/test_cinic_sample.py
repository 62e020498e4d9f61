"""The CINIC-10 sample beside the repository, and what its reader refuses."""

import io

import numpy as np
import pytest

from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.images.cifar import transfer_sample

SAMPLE = config.ROOT.parent / "shared/data/cinic10_sample/cinic10_2000.npz"


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"the CINIC-10 sample is not there: {SAMPLE}")
def test_the_sample():
    images, labels, seen = transfer_sample(SAMPLE)
    assert images.shape == (2000, 32, 32, 3) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [200] * 10 and labels.dtype == np.int64
    assert seen.dtype == bool and seen.sum() == 468 and (~seen).sum() == 1532


def npz(path, **changed):
    """A right file of 4 images, but for what is changed; None takes an array away."""
    source = np.array([1, 0, 0, 0], np.uint8)
    arrays = {
        "images": np.zeros((4, 32, 32, 3), np.uint8),
        "labels": np.arange(4),
        "source": source,
    }
    np.savez(path, **{k: v for k, v in (arrays | changed).items() if v is not None})


def test_a_right_file(tmp_path):
    npz(tmp_path / "a.npz")
    _, labels, seen = transfer_sample(tmp_path / "a.npz")
    assert labels.tolist() == [0, 1, 2, 3] and seen.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"source": None}, "no array 'source'"),
        ({"images": np.zeros((4, 32, 32), np.uint8)}, "uint8 (N, 32, 32, 3) is needed"),
        ({"images": np.zeros((0, 32, 32, 3), np.uint8)}, "uint8 (N, 32, 32, 3) is needed"),
        ({"labels": np.array([0, 1, 2, 10])}, "label 10 of image 3"),
        ({"labels": np.arange(3)}, "4 whole numbers are needed"),
        ({"source": np.array([0, 1, 2, 0])}, "4 whole numbers from 0 to 1"),
        ({"source": np.zeros(4)}, "source is float64"),
        ({"source": np.ones(4, np.uint8)}, "source is 1 throughout"),  # no mean of nothing
        ({"labels": np.array([{}] * 4)}, "cannot be read"),  # a pickle
    ],
)
def test_foreign_files(tmp_path, changed, words):
    npz(tmp_path / "a.npz", **changed)
    with pytest.raises(InputError) as caught:
        transfer_sample(tmp_path / "a.npz")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_damaged_files(tmp_path):
    whole, plain = io.BytesIO(), io.BytesIO()
    npz(whole)
    np.save(plain, np.arange(3))
    for name, content in (
        ("cut", whole.getvalue()[:-100]),
        ("plain", plain.getvalue()),
        ("text", b"images"),
    ):
        (tmp_path / name).write_bytes(content)
    for name in ("cut", "plain", "text", "absent", ""):
        with pytest.raises(InputError) as caught:
            transfer_sample(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
