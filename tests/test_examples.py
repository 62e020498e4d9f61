"""The examples do what their pages say."""

import importlib.util
import sys

import numpy as np
import pytest

from tgd_lib.config import ROOT
from tgd_lib.files import sha256, write_json


@pytest.fixture
def export(monkeypatch):
    """examples/export.py as a module; skipped where its optional packages are missing."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}: pip install -e '.[export]'")
    spec = importlib.util.spec_from_file_location("export", ROOT / "examples" / "export.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "export", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_an_exported_student_answers_as_the_trained_one(export, tmp_path):
    import torch
    from safetensors.torch import save_file

    from tgd_lib.networks import wide_resnet

    network = wide_resnet(10, 1, 3, 4, seed=0).eval()
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    entry = {"method": "mine", "file": "mine.safetensors", "network": [10, 1, 4]}
    entry |= {"sha256": sha256(tmp_path / "mine.safetensors"), "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    write_json(tmp_path / "students.json", {"students": [entry]})

    files = export.export(tmp_path, "mine", tmp_path, side=16)
    assert sorted(files) == ["mine.onnx", "mine.pt2"]
    assert all(row["difference"] < 1e-4 and row["bytes"] > 1000 for row in files.values())

    # Any number of images, and the normalisation is the entry's own.
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(entry[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = network((images / 255 - mean) / std)
    found = torch.export.load(tmp_path / "mine.pt2").module()(images)
    np.testing.assert_allclose(found.detach(), expected, atol=1e-4)


def test_a_student_is_distilled_from_arrays_alone():
    """examples/distil.py at toy size: the student moves, all networks answer, and it is one screen."""
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
