"""A trained student as files that need neither this library nor Python: torch.export and ONNX.

    python examples/export.py FOLDER [METHOD]       FOLDER has students.json in it
writes METHOD.pt2 and METHOD.onnx where you are. Both take uint8 RGB images (N, 3, H, W) and give logits (N, classes).
"""

import sys
import timeit
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from tgd_lib.files import read_json
from tgd_lib.study import students


class Deployed(torch.nn.Module):
    """The student with its own normalisation inside, so that whoever uses it cannot get that wrong."""

    def __init__(self, network: torch.nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images.float() / 255 - self.mean) / self.std)


def export(folder: Path, method: str, to: Path, *, side: int = 32) -> dict[str, dict]:
    """Write both files to `to`; of each: bytes, milliseconds per image, largest difference of a logit."""
    entry = next(e for e in read_json(folder / "students.json")["students"] if e["method"] == method)
    network = Deployed(students.load(folder, entry), entry["mean"], entry["std"]).eval()
    images = torch.randint(0, 256, (8, 3, side, side), dtype=torch.uint8)
    exported, onnx = to / f"{method}.pt2", to / f"{method}.onnx"
    any_number = ({0: torch.export.Dim("n", min=1, max=4096)},)
    program = torch.export.export(network, (images,), dynamic_shapes=any_number)
    torch.export.save(program, exported)
    torch.onnx.export(program, external_data=False, verbose=False).save(onnx)

    again = torch.export.load(exported).module()
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    runs = {exported: again, onnx: lambda x: session.run(None, {name: x.numpy()})[0]}
    with torch.no_grad():
        truth = network(images).numpy()
        return {file.name: measured(run, images, truth, file) for file, run in runs.items()}


def measured(run, images: torch.Tensor, truth: np.ndarray, file: Path) -> dict:
    seconds = timeit.repeat(lambda: run(images[:1]), number=1, repeat=50)
    off = float(np.abs(np.asarray(run(images)) - truth).max())
    return {"bytes": file.stat().st_size, "ms": 1000 * np.median(seconds), "difference": off}


if __name__ == "__main__":
    for file, row in export(Path(sys.argv[1]), (sys.argv[2:] or ["tgd"])[0], Path.cwd()).items():
        print(f"{file}: {row['bytes']} bytes, {row['ms']:.2f} ms per image, differs by {row['difference']:.1e}")
