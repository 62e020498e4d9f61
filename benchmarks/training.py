"""Training throughput: precision, memory layout, and on CUDA captured steps and networks side by side.

    python -m benchmarks.training [--quick] [--data DIR] [--out DIR] [--device cpu|cuda]

Images a second of whole training steps at batch 128, all variants in turn in one process: WRN-16-1 and
WRN-16-3 on images, WRN-16-3 on 6x50x50 persistence images; on a CPU fp32 and bf16, contiguous and
channels last; on CUDA eager, captured, and several networks at once. Variants of one network start from
the same weights, and their first losses are compared in the same run. --quick: a tiny network, agreement
asserted, no time asserted.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch

from benchmarks import _measure
from tgd_lib import config, datasets, topology, training
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule
from tgd_lib.study.cost import interleaved, summary
from tgd_lib.networks import wide_resnet

PACKAGES = ("torch", "numpy")
BATCH = 128


class Contiguous(Pixels):
    """Pixels whose batches are contiguous (N, C, H, W) in memory: the rival of channels last."""

    def __getitem__(self, index):
        return super().__getitem__(index).contiguous()


def contiguous(pixels: Pixels) -> Contiguous:
    """The same pixels, in contiguous batches."""
    view = copy.copy(pixels)
    view.__class__ = Contiguous
    return view


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny; asserts agreement, not times")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10 (default: the sample)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: artifacts/benchmarks/training")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    folder = options.out or config.artifacts_dir() / "benchmarks" / "training"
    train = datasets.load("cifar10" if options.data else "sample", "train", options.data, download=False)
    n = 256 if options.quick else 1280
    images, labels = train.images[:n], torch.from_numpy(train.labels[:n])
    arrays = {"image": images.transpose(0, 3, 1, 2), "pi": topology.persistence_images(images, n_jobs=None)}
    networks = {"WRN-10-1 on images": (10, 1, "image")} if options.quick else {
        "WRN-16-1 on images": (16, 1, "image"),
        "WRN-16-3 on images": (16, 3, "image"),
        "WRN-16-3 on persistence images": (16, 3, "pi"),
    }  # fmt: skip
    variants = cuda_variants() if options.device == "cuda" else cpu_variants()
    record = {"machine": _measure.machine(*PACKAGES), "device": Compute.choose(options.device).name}
    record |= {"quick": options.quick, "threads": torch.get_num_threads(), "networks": {}}
    for name, (depth, width, view) in networks.items():
        cases = {v: Case(arrays[view], labels, depth, width, device=options.device, **o) for v, o in variants.items()}
        record["networks"][name] = measure(cases, 2 if options.quick else 7)
    _measure.write(folder, "training", record, report(record))


def cpu_variants() -> dict[str, dict]:
    """The rivals on a CPU."""
    return {
        f"{precision}, {'channels last' if last else 'contiguous'}": {"precision": precision, "last": last}
        for precision in ("fp32", "bf16")
        for last in (False, True)
    }


def cuda_variants() -> dict[str, dict]:
    """The rivals on CUDA."""
    made = {"fp32, eager": {"precision": "fp32", "captured": False}, "fp32, captured": {"precision": "fp32"}}
    made["bf16, eager"] = {"precision": "bf16", "captured": False}
    return made | {f"bf16, captured, {k} at once": {"precision": "bf16", "together": k} for k in (1, 3, 6, 12)}


class Case:
    """Some networks of one shape that take their steps in turn, on one variant of the device."""

    def __init__(self, array, labels, depth, width, *, device, precision, last=True, captured=True, together=1):
        compute = Compute.choose(device, precision)
        pixels = Pixels(array, (0.5,) * array.shape[1], (0.25,) * array.shape[1], compute)
        pixels = pixels if last else contiguous(pixels)
        self.captured, self.compute = captured, compute
        self.runs = [
            training.Run(wide_resnet(depth, width, array.shape[1], seed=s), pixels, labels, Schedule(1, 1), seed=s)
            for s in range(together)
        ]
        if not last:
            for run in self.runs:
                run.network.to(memory_format=torch.contiguous_format)
        self.images = together * (len(array) // BATCH) * BATCH
        self.first_loss: float | None = None

    def epoch(self, number: int) -> None:
        """An epoch of every network, the short last batch left out."""
        training.WARM_UP = 3 if self.captured else 10**9
        for run in self.runs:
            run.begin()
        for step in range(len(self.runs[0].pixels) // BATCH):
            for run in self.runs:
                run.advance(step)
        if self.compute.device == "cuda":
            torch.cuda.synchronize()
        if self.first_loss is None:
            self.first_loss = float(self.runs[0]._sums["loss"]) / self.images * len(self.runs)


def measure(cases: dict[str, Case], repeats: int) -> dict:
    """Images a second of each variant, and the mean loss of its first epoch."""
    seconds = interleaved({name: case.epoch for name, case in cases.items()}, repeats, clock=time.perf_counter)
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
    lines = [f"device {record['device']}, batch {BATCH}, {record['threads']} threads; {record['machine']}"]
    for network, variants in record["networks"].items():
        base = next(iter(variants.values()))["images_per_s"]["median"]
        rows = []
        for name, v in variants.items():
            s = v["images_per_s"]
            rows.append(
                {
                    "variant": name,
                    "images/s": f"{s['median']:,.0f}",
                    "min-max": f"{s['min']:,.0f}-{s['max']:,.0f}",
                    "n": s["n"],
                    "times the first": f"{s['median'] / base:.2f}",
                    "50,000 images in s (extrapolated)": f"{50_000 / s['median']:.1f}",
                    "mean loss of the first epoch": f"{v['first_loss']:.4f}",
                }
            )
        lines += ["", network, "", _measure.table(rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
