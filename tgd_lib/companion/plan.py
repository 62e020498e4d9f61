"""What a run would train, what of it is there already, and what the rest takes: nothing is trained.

Keys are known before anything is made, so the store can be asked for every network. Seconds are
those of a few training steps of each kind of network on random pixels, timed here and now, times
the steps to be done; memory and disk follow from the networks' shapes.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tgd_lib import bank, tiles
from tgd_lib.baselines import NEEDS
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule, Settings
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.objectives import merges
from tgd_lib.lab.spec import Spec, View
from tgd_lib.networks import WideResNet, parameter_count, wide_resnet
from tgd_lib.study import methods
from tgd_lib.study.cost import multiply_adds
from tgd_lib.study.specs import specs_of
from tgd_lib.training import Run

STEPS = 3  # that are timed, after one that is not
BACKWARD = 2  # a backward pass takes the operations of two forward passes
# Steps of the student in units of plain ones, both measured on a CPU: with maps from a bank
# (benchmarks/recorded/distillation.md, n = 5,000 to 50,000), and with a loss on stage
# features (mean of such baselines by KD's, in a study on 2,500 images).
BANK_STEP, FEATURES_STEP = 1.1, 1.5
FLOAT = 4  # bytes
# Bytes of what evaluation and corruptions import (torchmetrics, scikit-image) and hold: measured,
# 0.3 GB above the rest.
EVALUATION = 4e8

Shape = tuple[int, int, int]  # channels, height, width of what a network looks at


@dataclass(frozen=True)
class Line:
    """The networks of one name: how many, how many are there, seconds for each that is not (the
    mean, where some are half trained).
    """

    label: str
    networks: int
    there: int
    seconds: float


def text(lab: Lab, timed: dict[tuple, float] | None = None) -> str:
    """The plan of a run in words, for `./run_all.sh --plan`; `timed` as for `seconds_of`."""
    settings = lab.settings
    found = lines(lab, timed)
    head = (
        f"{settings.run_name}: {len(lab.data.train.labels)} training images, "
        f"{lab.compute.name}, {settings.precision}"
    )
    return "\n".join([head, "", *_table(found), "", *_time_words(found), *_room_words(lab)])


# ---------------------------------------------------------------- networks


def networks(lab: Lab) -> list[Spec]:
    """Every network of this run's profile, once: teachers, then students."""
    found: dict[str, Spec] = {}
    for spec in specs_of(lab).asked():
        for needed in (*spec.needs, spec):
            found.setdefault(needed.key, needed)
    return sorted(found.values(), key=lambda spec: spec.method in methods.METHODS)


def lines(lab: Lab, timed: dict[tuple, float] | None = None) -> list[Line]:
    """A line a teacher and a method, in the order of training; `timed` as for `seconds_of`."""
    timed = {} if timed is None else timed
    groups: dict[str, list[Spec]] = {}
    for spec in networks(lab):
        groups.setdefault(spec.method, []).append(spec)
    left = _left(lab)
    found = []
    for specs in groups.values():
        missing = [s for s in specs if s.key in left]
        seconds = [_share_left(lab, s) * seconds_of(lab, s, timed) for s in missing]
        each = sum(seconds) / max(1, len(missing))
        found.append(Line(specs[0].name, len(specs), len(specs) - len(missing), each))
    return found


def _share_left(lab: Lab, spec: Spec) -> float:
    """The share of a training's epochs that are not behind it."""
    return 1 - lab.epochs_done(spec) / spec.schedule.epochs


def _left(lab: Lab) -> set[str]:
    """Keys of the networks that this run would train."""
    return {spec.key for spec in lab.missing(specs_of(lab).asked())}


def shape_of(lab: Lab, view: View) -> Shape:
    """What `view` shows of one image."""
    if view.kind in ("image", "image_map"):
        height, width = lab.data.train.images.shape[1:3]
    else:
        height = width = view.params.resolution
    return view.channels, height, width


def sketch(spec: Spec) -> WideResNet:
    """The network of a spec without weights: it has shapes and takes no memory."""
    depth, width, classes = spec.network
    with torch.device("meta"):
        return wide_resnet(depth, width, spec.view.channels, classes)


def feature_numbers(spec: Spec, shape: Shape) -> int:
    """How many numbers the three stages' features of one image are."""
    features = sketch(spec).stages(torch.empty(1, *shape, device="meta")).features
    return sum(f.numel() for f in features)


# ---------------------------------------------------------------- time


def seconds_of(lab: Lab, spec: Spec, timed: dict[tuple, float]) -> float:
    """Training `spec`: its steps times the seconds of one, and by the authors' rule a look at the
    test images after each epoch. `timed` remembers what was timed.
    """
    kind = (spec.network, shape_of(lab, spec.view))
    if kind not in timed:
        timed[kind] = _step(lab.compute, *kind, lab.settings.batch_size)
    steps = math.ceil(len(lab.data.train.labels) / lab.settings.batch_size) * _factor(lab, spec)
    if spec.selection == "authors":
        looks = len(lab.data.test.labels) / lab.settings.batch_size
        steps += looks / (1 + BACKWARD)  # a forward pass alone
    return spec.schedule.epochs * steps * timed[kind]


def _factor(lab: Lab, spec: Spec) -> float:
    """A training step of `spec` in units of a plain one."""
    if spec.baseline:
        return FEATURES_STEP if NEEDS[spec.baseline.loss] == "features" else 1.0
    if not spec.guidance or not spec.guidance.gamma:
        return 1.0
    if lab.objectives.choice(spec).mode == "bank":
        return BANK_STEP
    # Online, each teacher passes forward once a step, beside the student's forward and backward.
    step = (1 + BACKWARD) * multiply_adds(sketch(spec), shape_of(lab, spec.view))
    teachers = [t for t in spec.teachers if t]
    passes = sum(multiply_adds(sketch(t), shape_of(lab, t.view)) for t in teachers)
    return 1 + passes / step


def _step(compute: Compute, network: tuple[int, int, int], shape: Shape, batch: int) -> float:
    """Seconds of a plain training step, the least of a few."""
    depth, width, classes = network
    array = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8).numpy()
    pixels = Pixels(array, (0.5,) * shape[0], (0.25,) * shape[0], compute)
    labels = torch.zeros(batch, dtype=torch.int64)
    module = wide_resnet(depth, width, shape[0], classes, seed=0)
    run = Run(module, pixels, labels, Schedule(1, 1, batch), seed=0)
    index = torch.arange(batch, device=compute.device)
    run.network.train()
    seconds = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        run.step(index)
        if compute.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


# ---------------------------------------------------------------- memory and disk


def memory(lab: Lab) -> dict[str, float]:
    """Bytes at the worst moment, by what they are for, if all that could be held were held.

    Features and large maps are never held at once: those are built from features tile by tile into
    files, and mapped when the features are gone.
    """
    specs = networks(lab)
    maps, mapped = (max(found, default=0) for found in _maps(lab, guided(specs)))
    features = _features(lab, specs)
    worst = max((maps, features), (mapped, 0.0), key=sum)
    here = {}
    if lab.compute.device == "cpu":  # else this is about the GPU's memory
        here["Python and a training step"] = _own_peak()
        here["evaluation and corruptions"] = EVALUATION
    return here | {
        "images and persistence images": _pixels(lab, specs),
        "similarity maps": float(worst[0]),
        "features": float(worst[1]),
    }


def guided(specs: Sequence[Spec]) -> list[Spec]:
    """The students among `specs` that are guided by similarity maps."""
    return [s for s in specs if s.guidance and s.guidance.gamma]


def _maps(lab: Lab, specs: Sequence[Spec]) -> tuple[list[int], list[int]]:
    """Bytes of the maps of each guided student: of those held in memory, of those in files."""
    held, mapped, n = [], [], len(lab.data.train.labels)
    for spec in specs:
        choice, numbers = lab.objectives.choice(spec), len(merges(spec)) * bank.STAGES * n**2
        if choice.mode == "online":
            continue
        if choice.dtype == torch.float16:
            mapped.append(2 * numbers)
        else:  # while they are merged, one teacher's map of a stage stands beside the sum
            held.append(FLOAT * (numbers + n**2))
    return held, mapped


def _own_peak() -> float:
    """Bytes that this process has held at most; `lines` has timed a step of each network in it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)  # macOS counts bytes


def _pixels(lab: Lab, specs: Sequence[Spec]) -> float:
    """Bytes of the images, and of the largest other view (one is held at a time)."""
    parts = (lab.data.train, lab.data.test, lab.data.holdout)
    images = sum(len(part.labels) for part in parts if part is not None)
    sizes = {"image": 0, "other": 0}
    for spec in specs:
        kind = "image" if spec.view.kind == "image" else "other"
        sizes[kind] = max(sizes[kind], math.prod(shape_of(lab, spec.view)))
    return float(images * sum(sizes.values()))


def _features(lab: Lab, specs: Sequence[Spec]) -> float:
    """Bytes of teachers' features: while maps are made of them, or kept for a baseline."""
    n, largest, kept = len(lab.data.train.labels), 0, 0
    for spec in specs:
        for teacher in filter(None, spec.teachers):
            numbers = feature_numbers(teacher, shape_of(lab, teacher.view))
            largest = max(largest, numbers)
            if spec.baseline and NEEDS[spec.baseline.loss] == "features":
                kept = max(kept, numbers)
    making = min(tiles.FEATURES[lab.compute.device], FLOAT * n * largest)
    return float(max(making, min(bank.available(lab.compute) / 2, FLOAT * n * kept)))


def disk(lab: Lab) -> dict[str, float]:
    """Bytes that the store will take up, by kind, for what is not there yet."""
    left = _left(lab)
    missing = [spec for spec in networks(lab) if spec.key in left]
    weights = sum(FLOAT * parameter_count(sketch(s)) for s in missing)
    banks = lab.objectives.disk(guided(missing))
    return {"networks": float(weights), "teacher banks": float(banks)}


# ---------------------------------------------------------------- words


def _table(found: Sequence[Line]) -> list[str]:
    width = max(len(x.label) for x in found)
    rows = [f"{'network':<{width}}  all  there  to train  minutes each"]
    for x in found:
        missing = x.networks - x.there
        each = f"{x.seconds / 60:12.1f}" if missing else f"{'-':>12}"
        rows.append(f"{x.label:<{width}}  {x.networks:3d}  {x.there:5d}  {missing:8d}  {each}")
    return rows


def _time_words(found: Sequence[Line]) -> list[str]:
    total, there = sum(x.networks for x in found), sum(x.there for x in found)
    left = sum((x.networks - x.there) * x.seconds for x in found)
    return [
        f"{total} networks, {there} of them there; the rest takes about {_time(left)} one after "
        "another on this machine,",
        "measured just now on a few steps of each kind; persistence images, teacher banks, "
        "evaluations and corruptions come on top.",
    ]


def _room_words(lab: Lab) -> list[str]:
    lab.store.root.mkdir(parents=True, exist_ok=True)
    room = shutil.disk_usage(lab.store.root).free
    held, free = memory(lab), bank.available(lab.compute)
    on_gpu = lab.compute.device == "cuda"
    return [
        _sizes(
            "Memory", held, free, "maps are kept in half precision, or teachers run in every step"
        ),
        # A ceiling of main memory says nothing of a GPU's.
        *([] if on_gpu else _ceiling_words(lab.settings, sum(held.values()))),
        _sizes("Disk", disk(lab), room, "make room, or set TGD_ARTIFACTS to a larger disk"),
    ]


def _ceiling_words(settings: Settings, needed: float) -> list[str]:
    """A line if a run needs more than its profile states."""
    if needed <= 1e9 * settings.memory_gb:
        return []
    return [f"That is more than the {settings.memory_gb:g} GB that {settings.profile} states."]


def _sizes(name: str, sizes: dict[str, float], free: float, otherwise: str) -> str:
    """A line on how much is needed, of what, how much is free, and what happens if that is less."""
    needed = sum(sizes.values())
    parts = ", ".join(f"{_size(size)} of {what}" for what, size in sizes.items() if size)
    line = f"{name}: up to {_size(needed)} ({parts or 'nothing more'}); {_size(free)} are free"
    return f"{line}, which is less: {otherwise}." if needed > free else f"{line}."


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
