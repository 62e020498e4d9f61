"""What things cost: parameters, operations, seconds. Measured where it runs, kept in the store.

Timings are taken in turn (`interleaved`), so that a busy minute of the machine falls on all alike,
and are to be read as ratios within one measurement.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Spec
from tgd_lib.study.specs import specs_of

BATCHES = (1, 128)
WARM_UP = 4  # steps that are not timed: the first make buffers and pick kernels


def interleaved(
    calls: dict[str, Callable[[int], object]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times in turn.

    A call is made with the number of the repetition; a first call of each is not counted.
    """
    for call in calls.values():
        call(0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repeats):
        for name, call in calls.items():
            start = clock()
            call(repetition)
            seconds[name].append(clock() - start)
    return seconds


def summary(values: list[float]) -> dict:
    """n, median, and the spread as smallest and largest value."""
    return {"n": len(values), "median": median(values), "min": min(values), "max": max(values)}


def multiply_adds(network, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one forward pass on one image of shape (C, H, W); convolutions and products
    count.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, *shape, device=device))
    return counter.get_total_flops() // 2


def measure(lab: Lab, *, repeats: int = 7) -> dict:
    """The record of what this run's networks, topology and training steps cost on this machine.

    Returns {networks: {name: {parameters, multiply_adds, batch_1, batch_128}}, topology: {batch_1,
    batch_128}, steps}: seconds as {n, median, min, max}; batch_b an image, steps a whole step of
    SGD.
    """
    import torch

    specs = {
        "student": specs_of(lab).student("tgd", 0),
        "image teacher": specs_of(lab).teacher("image"),
        "PI teacher": specs_of(lab).teacher("pi"),
    }
    place = {
        "device": lab.compute.name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    question = {"specs": {k: s.key for k, s in specs.items()}, "repeats": repeats, **place}

    def build(folder: Path) -> dict:
        lab.say("measuring what networks, topology and steps cost")
        seconds = interleaved(_calls(lab, specs), repeats, clock=lambda: _now(lab))
        return place | {
            "networks": {name: _network(lab, spec, name, seconds) for name, spec in specs.items()},
            "topology": {
                f"batch_{b}": summary([s / b for s in seconds[f"topology, batch {b}"]])
                for b in BATCHES
            },
            "steps": {
                k: summary(seconds[k])
                for k in ("plain step", "bank step", "online step")
                if k in seconds
            },
        }

    for spec in specs.values():  # outside the lock
        lab.trained(spec)
    return lab.store.make("cost", question, build).record


def _calls(lab: Lab, specs: dict[str, Spec]) -> dict[str, Callable[[int], object]]:
    from tgd_lib import bank, topology

    view, calls = specs_of(lab).view("pi"), {}
    for batch in BATCHES:
        images = lab.data.test.images[_first(batch, lab)]
        calls[f"topology, batch {batch}"] = lambda _, images=images: topology.persistence_images(
            images, view.orientation, view.params, n_jobs=None
        )
        for name, spec in specs.items():
            calls[f"{name}, batch {batch}"] = _forward(lab, spec, batch)
    student = specs["student"]
    calls["plain step"] = _step(lab, student.start)
    n = len(lab.data.train.labels)
    free = bank.available(lab.compute)
    fits = bank.choose("auto", n=n, free=free, device=lab.compute.device).mode == "bank"
    for how in ("bank", "online") if fits else ("online",):
        quiet = Lab(lab.settings, store=lab.store, teachers=how, say=lambda line: None)
        calls[f"{how} step"] = _step(quiet, student)
    return calls


def _first(batch: int, lab: Lab):
    """Indices of the first `batch` test images, over again if there are fewer."""
    import numpy as np

    return np.arange(batch) % len(lab.data.test.labels)


def _forward(lab: Lab, spec: Spec, batch: int) -> Callable[[int], object]:
    """A forward pass of the trained network on `batch` test images, their
    normalisation included."""
    import torch

    network, pixels = lab.network(spec), lab.pixels(lab.view(spec), "test")
    index = torch.from_numpy(_first(batch, lab)).to(lab.compute.device)  # as an evaluation has it

    def forward(_: int) -> None:
        with torch.inference_mode(), lab.compute.autocast():
            network(pixels[index])

    return forward


def _step(lab: Lab, spec: Spec) -> Callable[[int], object]:
    """A step of SGD as in training, past what is special about the first ones."""
    run = lab.run(spec)
    run.begin()
    whole = max(1, run.steps - 1)  # without the last batch, which may be short
    for number in range(WARM_UP):
        run.advance(number % whole)
    return lambda number: run.advance(number % whole)


def _network(lab: Lab, spec: Spec, name: str, seconds: dict) -> dict:
    from tgd_lib.networks import parameter_count

    network, pixels = lab.network(spec), lab.pixels(lab.view(spec), "test")
    depth, width, _ = spec.network
    shape = tuple(pixels.array.shape[1:])
    return {
        "network": f"WRN-{depth}-{width} on {'x'.join(map(str, shape))}",
        "parameters": parameter_count(network),
        "multiply_adds": multiply_adds(network, shape),
        **{f"batch_{b}": summary([s / b for s in seconds[f"{name}, batch {b}"]]) for b in BATCHES},
    }


def _now(lab: Lab) -> float:
    if lab.compute.device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()
