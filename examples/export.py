"""A trained student as files that run without this library: torch.export and ONNX.

    python examples/export.py study/tgd                 a published network
    python examples/export.py RUN/tgd --runs artifacts/runs     one of your own, of the run RUN

Writes tgd.pt2 and tgd.onnx where you are. Both hold the preprocessing, too: they take any number of
uint8 RGB images (N, H, W, 3) and give logits (N, classes).
"""

import argparse
import timeit
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from tgd_lib.study import published


def export(network: torch.nn.Module, name: str, to: Path, *, side: int = 32) -> dict[str, dict]:
    """Write both files to the folder `to`; what each is worth, see `measured`."""
    images = torch.randint(0, 256, (8, side, side, 3), dtype=torch.uint8)
    exported, onnx = to / f"{name}.pt2", to / f"{name}.onnx"
    # Exported for one number of images, a file would take no other.
    any_number = ({0: torch.export.Dim("n", min=1, max=4096)},)
    program = torch.export.export(network, (images,), dynamic_shapes=any_number)
    torch.export.save(program, exported)
    torch.onnx.export(program, external_data=False, verbose=False).save(onnx)

    # Checked is what comes back from the disk.
    again = torch.export.load(exported).module()
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    runs = {exported: again, onnx: lambda x: session.run(None, {given: x.numpy()})[0]}
    with torch.no_grad():
        truth = network(images).numpy()
        return {file.name: measured(run, images, truth, file) for file, run in runs.items()}


def measured(run, images: torch.Tensor, truth: np.ndarray, file: Path) -> dict:
    """Bytes, milliseconds for one image (median of 50 calls), largest difference of a logit."""
    seconds = timeit.repeat(lambda: run(images[:1]), number=1, repeat=50)
    off = float(np.abs(np.asarray(run(images)) - truth).max())
    return {"bytes": file.stat().st_size, "ms": 1000 * np.median(seconds), "difference": off}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Export a trained student.")
    parser.add_argument("name", help="RUN/METHOD, as study/tgd")
    parser.add_argument("--runs", type=Path, default=published.FIGURES, help="where the runs lie")
    parser.add_argument("--side", type=int, default=32, help="pixels of a side in training")
    asked = parser.parse_args()
    student = published.load(asked.name, figures=asked.runs)
    method = asked.name.split("/")[-1]
    for file, row in export(student, method, Path.cwd(), side=asked.side).items():
        size, off = row["bytes"], row["difference"]
        print(f"{file}: {size} bytes, {row['ms']:.2f} ms per image, off by at most {off:.1e}")
