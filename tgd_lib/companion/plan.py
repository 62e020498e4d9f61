"""What a run would train, what of it is there already, and about how long the rest takes: nothing is trained.

Keys are known before anything is made, so the store can be asked for every network. Seconds are those of a
few training steps of each kind of network on random pixels, timed here and now, times the steps to be done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tgd_lib import bank, tiles
from tgd_lib.study import methods
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule, Settings
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of
from tgd_lib.networks import wide_resnet
from tgd_lib.lab.spec import Spec
from tgd_lib.training import Run

STEPS = 3  # that are timed, after one that is not
BANK_STEP, ONLINE_STEP, FEATURES_STEP = 1.2, 9.0, 1.4  # times a plain step (measured: benchmarks/recorded); with features: a guess


@dataclass(frozen=True)
class Line:
    """The networks of one name: how many, how many are there, seconds for each that is not."""

    label: str
    networks: int
    there: int
    seconds: float


def lines(lab: Lab) -> list[Line]:
    """A line a teacher and a method of this run's profile, in the order of training."""
    all_specs: dict[str, Spec] = {}
    for spec in specs_of(lab).students(methods.of(lab.settings)):
        for needed in (*spec.needs, spec):
            all_specs.setdefault(needed.key, needed)
    groups: dict[str, list[Spec]] = {}
    for spec in sorted(all_specs.values(), key=lambda s: s.method in methods.METHODS):  # teachers first
        groups.setdefault(spec.name, []).append(spec)
    timed: dict[tuple, float] = {}
    found = []
    for label, specs in groups.items():
        there = sum(lab.store.find("network", s.question) is not None for s in specs)
        seconds = _seconds(lab, specs[0], timed) if there < len(specs) else 0.0
        found.append(Line(label, len(specs), there, seconds))
    return found


def _seconds(lab: Lab, spec: Spec, timed: dict[tuple, float]) -> float:
    """Training `spec`: its steps times the seconds of one."""
    kind = (spec.network, _shape(lab, spec))
    if kind not in timed:
        timed[kind] = _step(lab.compute, *kind, lab.settings.batch_size)
    n = len(lab.data.train.labels)
    steps = math.ceil(n / lab.settings.batch_size) * spec.schedule.epochs
    choice = bank.choose("auto", n=n, free=bank.available(lab.compute), device=lab.compute.device)
    maps = BANK_STEP if choice.mode == "bank" else ONLINE_STEP
    factor = FEATURES_STEP if spec.baseline else maps if spec.guidance and spec.guidance.gamma else 1.0
    return steps * timed[kind] * factor


def _shape(lab: Lab, spec: Spec) -> tuple[int, int, int]:
    """(C, H, W) of what the network looks at."""
    images = spec.view.kind in ("image", "image_map")
    side = lab.data.train.images.shape[1:3] if images else 2 * (spec.view.params.resolution,)
    return spec.view.channels, *side


def _step(compute: Compute, network: tuple[int, int, int], shape: tuple[int, int, int], batch: int) -> float:
    """Seconds of a plain training step, the least of a few."""
    depth, width, classes = network
    pixels = Pixels(
        torch.randint(0, 256, (batch, *shape), dtype=torch.uint8).numpy(), (0.5,) * shape[0], (0.25,) * shape[0], compute
    )
    module = wide_resnet(depth, width, shape[0], classes, seed=0)
    run = Run(module, pixels, torch.zeros(batch, dtype=torch.int64), Schedule(1, 1, batch), seed=0)
    index, seconds = torch.arange(batch, device=compute.device), []
    run.network.train()
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        run.step(index)
        if compute.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def memory(lab: Lab) -> dict[str, float]:
    """Bytes, at most, of the similarity maps, of the features they are made of, and of what the networks look at."""
    n, specs = len(lab.data.train.labels), specs_of(lab).students(methods.of(lab.settings))
    apart = any(s.guidance and s.guidance.order and all(s.teachers) for s in specs)
    features = 4.0 * n * 86016  # of one WRN-16-3 on 32 x 32, less for others
    baselines = min(bank.available(lab.compute) / 2, features) if any(s.baseline for s in specs) else 0.0  # who remember them
    return {
        "similarity maps": (2 * bank.STAGES if apart else bank.STAGES + 1) * 4.0 * n * n,  # normalised first, both are held
        "features": max(baselines, min(tiles.FEATURES[lab.compute.device], 2 * features)),
        "images and persistence images": sum(
            len(p.labels) * (p.images[0].nbytes + 6 * 50 * 50) for p in (lab.data.train, lab.data.test)
        ),
    }


def text(settings: Settings) -> str:
    """The plan of a run in words, for `./run_all.sh --plan`."""
    lab = Lab(settings, say=lambda line: None)
    found = lines(lab)
    left = sum((x.networks - x.there) * x.seconds for x in found)
    head = f"{settings.run_name}: {len(lab.data.train.labels)} training images, {lab.compute.name}, {settings.precision}"
    return "\n".join([head, "", *_table(found), "", *_summary(lab, found, left)])


def _table(found: Sequence[Line]) -> list[str]:
    width = max(len(x.label) for x in found)
    lines_ = [f"{'network':<{width}}  all  there  to train  minutes each"]
    for x in found:
        missing = x.networks - x.there
        each = f"{x.seconds / 60:12.1f}" if missing else f"{'-':>12}"
        lines_.append(f"{x.label:<{width}}  {x.networks:3d}  {x.there:5d}  {missing:8d}  {each}")
    return lines_


def _summary(lab: Lab, found: Sequence[Line], left: float) -> list[str]:
    networks, there = sum(x.networks for x in found), sum(x.there for x in found)
    sizes = ", ".join(f"{size / 1e9:.1f} GB of {what}" for what, size in memory(lab).items())
    return [
        f"{networks} networks, {there} of them there; the rest takes about {_time(left)} one after another on this machine,",
        "measured just now on a few steps of each kind; persistence images, teacher banks, evaluations and corruptions come on top.",
        f"Memory: up to {sizes} (in half precision or online where that does not fit); {bank.available(lab.compute) / 1e9:.1f} GB are free.",
    ]


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
