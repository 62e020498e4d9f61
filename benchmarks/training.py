"""Training throughput: precision and memory layout.

    python -m benchmarks.training [--quick] [--data DIR] [--out DIR] [--device cpu|cuda]
                                  [--images N] [--repeats N]

Images a second of whole training steps at batch 128, all variants in turn in one process: WRN-16-1
and WRN-16-3 on images, WRN-16-3 on 6x50x50 persistence images; fp32 and bf16, contiguous and
channels last; on a CPU, bf16 by PyTorch's kernels and by rounding (`compute.multiplies_bf16` says
which of the two is used on it). Variants of one network start from the same weights, and their
first losses are compared in the same run. --quick: a tiny network, agreement asserted, no time
asserted.

Recorded as `training`, and as `training_rounding` on a CPU without bf16 kernels, where they take
ten times as long as float32: --images 128 --repeats 3 is enough there.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch

from benchmarks import _measure
from tgd_lib import datasets, topology, training
from tgd_lib.compute import Compute, Pixels, multiplies_bf16
from tgd_lib.config import Schedule
from tgd_lib.networks import wide_resnet
from tgd_lib.study.cost import interleaved, summary

PACKAGES = ("torch", "numpy")
BATCH = 128


class ByKernels(Compute):
    """bf16 by PyTorch's own kernels, whatever the CPU has."""

    bf16_by_rounding = False


class ByRounding(Compute):
    """bf16 as float32 products of rounded numbers, whatever the CPU has."""

    bf16_by_rounding = True


class Contiguous(Pixels):
    """Pixels in contiguous batches (N, C, H, W): what channels last is compared with."""

    def __getitem__(self, index):
        return super().__getitem__(index).contiguous()


def contiguous(pixels: Pixels) -> Contiguous:
    """The same pixels, in contiguous batches."""
    view = copy.copy(pixels)
    view.__class__ = Contiguous
    return view


NETWORKS = {  # depth, width, and what it looks at
    "WRN-16-1 on images": (16, 1, "image"),
    "WRN-16-3 on images": (16, 3, "image"),
    "WRN-16-3 on persistence images": (16, 3, "pi"),
}
QUICK = {"WRN-10-1 on images": (10, 1, "image")}


def main() -> None:
    options = arguments()
    folder = options.out
    name = "cifar10" if options.data else "sample"
    train = datasets.load(name, "train", options.data, download=False)
    n = 2 * BATCH if options.quick else options.images
    images, labels = train.images[:n], torch.from_numpy(train.labels[:n])
    arrays = {
        "image": images.transpose(0, 3, 1, 2),
        "pi": topology.persistence_images(images, n_jobs=None),
    }
    record = {
        "machine": _measure.machine(*PACKAGES),
        "device": Compute.choose(options.device).name,
        "quick": options.quick,
        "threads": torch.get_num_threads(),
        "networks": {},
    }
    for name, (depth, width, view) in (QUICK if options.quick else NETWORKS).items():
        cases = {}
        for variant, (compute, last) in variants(options.device).items():
            cases[variant] = Case(arrays[view], labels, depth, width, compute=compute, last=last)
        record["networks"][name] = measure(cases, 2 if options.quick else options.repeats)
    _measure.write(folder, recorded_as(options.device), record, report(record))


def recorded_as(device: str) -> str:
    """The record's name: a CPU without bf16 kernels has its own."""
    native = device == "cuda" or multiplies_bf16()
    return "training" if native else "training_rounding"


def arguments() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick=_measure.AGREEMENT, folder="training")
    parser.add_argument("--data", metavar="DIR", help=_measure.OR_SAMPLE)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--images", type=int, default=1280, metavar="N", help="of an epoch")
    parser.add_argument(
        "--repeats", type=int, default=7, metavar="N", help="epochs of each variant"
    )
    return parser.parse_args()


def variants(device: str) -> dict[str, tuple[Compute, bool]]:
    """Name: where and how to compute, and whether channels are last."""
    fp32, bf16 = Compute.choose(device), ByKernels.choose(device, "bf16")
    made = {
        "fp32, contiguous": (fp32, False),
        "fp32, channels last": (fp32, True),
        "bf16, contiguous": (bf16, False),
        "bf16, channels last": (bf16, True),
    }
    if device == "cpu":
        made["bf16 by rounding, channels last"] = (ByRounding.choose(device, "bf16"), True)
    return made


class Case:
    """A network that takes its training steps on one variant of the device."""

    def __init__(self, array, labels, depth, width, *, compute: Compute, last: bool):
        channels = array.shape[1]
        pixels = Pixels(array, (0.5,) * channels, (0.25,) * channels, compute)
        network = wide_resnet(depth, width, channels, seed=0)
        pixels = pixels if last else contiguous(pixels)
        self.run = training.Run(network, pixels, labels, Schedule(1, 1), seed=0)
        if not last:  # a Run lays its network channels last
            self.run.network.to(memory_format=torch.contiguous_format)
        self.compute = compute
        self.images = (len(array) // BATCH) * BATCH
        self.first_loss: float | None = None

    def epoch(self, number: int) -> None:
        """An epoch, the short last batch left out."""
        self.run.begin()
        for step in range(self.images // BATCH):
            self.run.advance(step)
        if self.compute.device == "cuda":
            torch.cuda.synchronize()
        if self.first_loss is None:
            self.first_loss = float(self.run._sums["loss"]) / self.images


def measure(cases: dict[str, Case], repeats: int) -> dict:
    """Images a second of each variant, and the mean loss of its first epoch."""
    epochs = {name: case.epoch for name, case in cases.items()}
    seconds = interleaved(epochs, repeats, clock=time.perf_counter)
    losses = [case.first_loss for case in cases.values()]
    assert max(losses) <= 1.1 * min(losses), f"variants disagree: {losses}"
    return {
        name: {
            "images_per_s": summary([case.images / s for s in seconds[name]]),
            "first_loss": case.first_loss,
        }
        for name, case in cases.items()
    }


def report(record: dict) -> str:
    device, threads = record["device"], record["threads"]
    lines = [f"device {device}, batch {BATCH}, {threads} threads; {record['machine']}"]
    for network, results in record["networks"].items():
        base = next(iter(results.values()))["images_per_s"]["median"]
        rows = [row(name, result, base) for name, result in results.items()]
        lines += ["", network, "", _measure.table(rows)]
    return "\n".join(lines)


def row(name: str, result: dict, base: float) -> dict:
    speed = result["images_per_s"]
    return {
        "variant": name,
        "images/s": f"{speed['median']:,.0f}",
        "min-max": f"{speed['min']:,.0f}-{speed['max']:,.0f}",
        "n": speed["n"],
        "times the first": f"{speed['median'] / base:.2f}",
        "50,000 images in s (extrapolated)": f"{50_000 / speed['median']:.1f}",
        "mean loss of the first epoch": f"{result['first_loss']:.4f}",
    }


if __name__ == "__main__":
    _measure.run(main)
