"""The examples do what their pages say."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from tgd_lib.config import ROOT
from tgd_lib.files import read_json


@pytest.fixture
def export():
    """examples/export.py as a module; skipped where its optional packages are missing."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}: pip install -e '.[export]'")
    spec = importlib.util.spec_from_file_location("export", ROOT / "examples" / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_an_exported_student_answers_as_the_trained_one(export, tmp_path):
    import onnxruntime
    import torch

    from tgd_lib.lab.spec import View
    from tgd_lib.networks import wide_resnet
    from tgd_lib.study.published import Ready

    constants = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    network = wide_resnet(10, 1, 3, 4, seed=0)
    student = Ready(network, View("image", 3, constants), "abcd").eval()
    files = export.export(student, "mine", tmp_path, side=16)
    assert sorted(files) == ["mine.onnx", "mine.pt2"]
    assert all(row["difference"] < 1e-4 and row["bytes"] > 1000 for row in files.values())

    # Another number of images than at export, normalised as the student has it, by hand.
    images = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in constants)
    with torch.no_grad():
        expected = network((images.permute(0, 3, 1, 2) / 255 - mean) / std)
    found = torch.export.load(tmp_path / "mine.pt2").module()(images)
    np.testing.assert_allclose(found.detach(), expected, atol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "mine.onnx")
    (by_onnx,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(by_onnx, expected, atol=1e-4)


def test_a_student_is_distilled_from_arrays_alone():
    """examples/distil.py at toy size: all four networks are trained and answer."""
    from tgd_lib import datasets

    path = ROOT / "examples" / "distil.py"
    assert len(path.read_text().splitlines()) <= 80
    spec = importlib.util.spec_from_file_location("distil", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    train = datasets.take(datasets.load("sample", "train"), np.arange(64))
    test = datasets.take(datasets.load("sample", "test"), np.arange(40))
    found = module.distil(train, test, epochs=1, teacher=(10, 1), student=(10, 1))
    assert list(found) == ["image teacher", "PI teacher", "scratch", "TGD"]
    assert all(0 <= accuracy <= 1 for accuracy in found.values())
    again = module.distil(train, test, epochs=1, teacher=(10, 1), student=(10, 1))
    assert again == found


@pytest.mark.slow
def test_one_s_own_photographs_train_their_own_teachers_and_students(tmp_path):
    """Real class folders that are not CIFAR's, from the command line to a student that loads."""
    environment = os.environ | {"TGD_ARTIFACTS": str(tmp_path / "artifacts")}
    photos = tmp_path / "photos"

    def run(*command):
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )

    made = run("examples/photos.py", str(photos))
    assert made.returncode == 0 and "411 images" in made.stdout, made.stderr
    sizes = {"n_train": 160, "n_test": 80, "holdout": 40, "resize": 32}
    options = [word for name, value in sizes.items() for word in ("-p", name, str(value))]
    # By the authors' rule three methods are asked for, not all of them.
    folder = ("-p", "dataset", "folder", "--data", str(photos), "-p", "selection", "authors")
    done = run("-m", "tgd_lib.companion", "--train", "--profile", "smoke", *folder, *options)
    assert done.returncode == 0, done.stderr
    assert "TGD, seed 0: " in done.stdout and "% of 80 test images" in done.stdout
    kept = [read_json(p) for p in (tmp_path / "artifacts/network").glob("*/record.json")]
    assert all(len(record["class_names"]) == 8 for record in kept)
    assert {"teacher_image", "teacher_pi", "tgd"} <= {record["method"] for record in kept}
