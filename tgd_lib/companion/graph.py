"""A run as a graph of tasks, and how long it takes on N workers: nothing is run here.

    teachers -> banks -> students -> evaluations
                            └──────> corruptions

`tasks_of` makes the graph from specs, `of_run` from a lab; `simulate` lets N workers of a kind go
through it. No Dask and no clock. `companion.cluster` gives the same tasks to real workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from tgd_lib.config import InputError
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Spec

WORKERS = (1, 4, 16, 64)  # that a plan is made for
STAGES = 3  # maps of a teacher
RAW_MAPS = 4e9  # bytes of a teacher's maps; larger ones are kept merged, and in float16
MERGED_ROOM = 0.8  # part of the memory that merged maps may take
FEATURES = 86016  # numbers that a WRN-16-3 sees of one image of 32 x 32, in all its stages
GRAM = 2e11  # operations a second of the product F F^T (measured on two cores in float32: 2.2e11)
FORWARD = 1 / 3  # of a training step: there is no backward pass, which costs twice that
SEVERITIES = 5
CORRUPT = 2e-3  # seconds to corrupt one image once: a guess, they differ by a hundred times


@dataclass(frozen=True)
class Task:
    """One piece of work for one worker.

    name: of this task in its graph. needs: names of the tasks that must be over before it starts.
    seconds: about how long it takes. memory: bytes it must have for itself. gpu: whether it wants
    one. read, written: bytes that it takes from the store and puts there.
    kind, specs, corruption: what there is to do, see `tasks_of`.
    """

    name: str
    needs: tuple[str, ...] = ()
    seconds: float = 1.0
    memory: float = 0.0
    gpu: bool = False
    read: float = 0.0
    written: float = 0.0
    kind: str = "network"
    specs: tuple[Spec, ...] = ()
    corruption: str | None = None


# ---------------------------------------------------------------- any graph


def in_order(tasks: Sequence[Task]) -> list[Task]:
    """`tasks`, each after those it needs.

    Raises ValueError (graphlib.CycleError) for a circle, KeyError for a need that is no task.
    """
    by_name = {t.name: t for t in tasks}
    sorter = TopologicalSorter({t.name: t.needs for t in tasks})
    return [by_name[name] for name in sorter.static_order()]


def tails(tasks: Sequence[Task]) -> dict[str, float]:
    """For each task the seconds of the longest chain that starts with it, itself included."""
    longest = {t.name: 0.0 for t in tasks}  # of what comes after it
    found = {}
    # From the last to the first, so that what comes after a task is known when it is its turn.
    for task in reversed(in_order(tasks)):
        found[task.name] = task.seconds + longest[task.name]
        for need in task.needs:
            longest[need] = max(longest[need], found[task.name])
    return found


def longest_chain(tasks: Sequence[Task]) -> list[Task]:
    """The tasks one after another that no number of workers can shorten; their seconds add up."""
    tail, after = tails(tasks), _followers(tasks)
    by_name = {t.name: t for t in tasks}
    chain, choices = [], [t.name for t in tasks if not t.needs]
    while choices:
        name = max(choices, key=lambda name: tail[name])
        chain.append(by_name[name])
        choices = after[name]
    return chain


def priorities(tasks: Sequence[Task]) -> dict[str, int]:
    """A number a task, the higher the sooner it should start: no two are the same.

    First what the longest chain waits for, as is usual; of equal chains, what the most tasks
    wait for; of equals, what comes first in `tasks`.
    """
    tail, waiting = tails(tasks), _waiting(tasks)
    place = {t.name: -i for i, t in enumerate(tasks)}
    ranked = sorted(place, key=lambda name: (tail[name], waiting[name], place[name]))
    return {name: rank for rank, name in enumerate(ranked)}


def _followers(tasks: Sequence[Task]) -> dict[str, list[str]]:
    """For each task those that need it."""
    after: dict[str, list[str]] = {t.name: [] for t in tasks}
    for task in tasks:
        for need in task.needs:
            after[need].append(task.name)
    return after


def _waiting(tasks: Sequence[Task]) -> dict[str, int]:
    """For each task how many wait for it, at whatever distance."""
    after = _followers(tasks)
    beyond: dict[str, set[str]] = {}
    for task in reversed(in_order(tasks)):
        found = set(after[task.name])
        for name in after[task.name]:
            found |= beyond[name]
        beyond[task.name] = found
    return {name: len(found) for name, found in beyond.items()}


@dataclass(frozen=True)
class Forecast:
    """What N workers make of a graph: seconds in all, of the longest chain, of all work."""

    workers: int
    makespan: float
    chain: float
    work: float
    traffic: float  # bytes to and from the store

    @property
    def busy(self) -> float:
        """The part of the time that a worker works, 0 to 1."""
        return self.work / (self.workers * self.makespan) if self.makespan else 1.0

    @property
    def limit(self) -> str:
        """What another worker could not shorten, in words."""
        if self.makespan <= 1.01 * self.chain:
            return "the longest chain"
        return "the work" if self.busy > 0.9 else "chains and work"


def simulate(tasks: Sequence[Task], workers: int) -> Forecast:
    """List scheduling: whenever a worker is free it takes the ready task of the highest priority.

    The makespan is at least the longest chain and at least work / workers, and at most
    their weighted sum, work / N + (1 - 1 / N) chain (Graham 1966). InputError for workers < 1.
    """
    check_workers(workers)
    rank, after = priorities(tasks), _followers(tasks)
    by_name = {t.name: t for t in tasks}
    # How many needs of each are not over yet; what lacks none is ready, the most urgent on top.
    lacking = {t.name: len(set(t.needs)) for t in tasks}
    ready = [(-rank[name], name) for name, count in lacking.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []  # (when it ends, name)
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + by_name[name].seconds, name))
        # Nothing changes before the next one ends: the clock goes there at once.
        now, ended = heapq.heappop(running)
        for name in set(after[ended]):
            lacking[name] -= 1
            if not lacking[name]:
                heapq.heappush(ready, (-rank[name], name))
    chain = max(tails(tasks).values(), default=0.0)
    work, traffic = sum(t.seconds for t in tasks), sum(t.read + t.written for t in tasks)
    return Forecast(workers, now, chain, work, traffic)


def parse_workers(text: str) -> int:
    """The number that `--workers` was given; InputError if it is none, or there is nobody."""
    try:
        workers = int(text)
    except ValueError:
        raise InputError(f"--workers {text}: a whole number is needed") from None
    check_workers(workers)
    return workers


def check_workers(workers: int) -> None:
    """InputError unless there is somebody to do the work."""
    if workers < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed")


# ---------------------------------------------------------------- memory


def shares(room: float, workers: int, needs: Sequence[float]) -> list[float]:
    """Bytes of memory for each of the workers of one machine that has `room` bytes.

    As many as the machine can bear get what the largest task needs, one at least; the others share
    what is left, for the smaller tasks. So two banks of 15 GB are never made at once in 24 GB.
    """
    largest, least = max(needs, default=0.0), min([*needs, room / workers])
    if workers * largest <= room:
        return [room / workers] * workers
    # As many as can have it while the others still have what the smallest task needs.
    large = 1
    while (large + 1) * largest + (workers - large - 1) * least <= room:
        large += 1
    most = min(largest, room - (workers - large) * least)
    rest = (room - large * most) / max(1, workers - large)
    return [most] * large + [rest] * (workers - large)


def bank_memory(n: int, sets: int, room: float) -> float:
    """Bytes that must be free for the maps of n images, where a worker has at most `room`.

    As `bank.choose` decides: float32 where twice that is there (merging takes the other half),
    else float16, else none, as teachers are asked online. sets: how often three maps are kept.
    """
    numbers = float(sets * STAGES * n * n)
    if 4 * numbers <= RAW_MAPS * max(1, sets) and 8 * numbers <= room:
        return 8 * numbers
    half = 2 * numbers / MERGED_ROOM
    return half if half <= room else 0.0


# ---------------------------------------------------------------- the graph of a run


@dataclass(frozen=True)
class Size:
    """What the tasks of a run depend on beside its specs.

    images: how many there are to train, test, hold out and corrupt. image: bytes of one.
    room: bytes of memory of the largest worker. seconds: of training a spec, about.
    """

    train: int
    test: int
    holdout: int
    corrupted: int
    image: int
    room: float
    seconds: Callable[[Spec], float]
    gpu: bool = False


def guessed_seconds(n: int) -> Callable[[Spec], float]:
    """Seconds of training a spec on n images, by its size alone: enough to say what to start first.

    1,400 images a second of a WRN-16-1 on two cores in float32, and a width of 3 5.6 times slower
    (3 ** 1.6), are measured; persistence images have more pixels.
    """

    def seconds(spec: Spec) -> float:
        side = spec.view.params.resolution if spec.view.params else 32
        larger = (spec.network.depth - 4) / 12 * spec.network.width**1.6 * (side / 32) ** 2
        return spec.schedule.epochs * n * larger / 1400

    return seconds


def tasks_of(
    specs: Sequence[Spec],
    size: Size,
    *,
    there: Callable[[Spec], bool],
    examined: Sequence[Spec] = (),
    corruptions: Sequence[str] = (),
    banks: bool = True,
) -> list[Task]:
    """The tasks that train, evaluate and corrupt: a task is named by its kind and what it is about.

    specs: the students of a run. there: whether a network need not be trained. examined: those of
    `specs` that are asked about `corruptions`, a task each, so that images are corrupted once.
    banks: False where nothing is shared, and each worker makes its own.
    """
    # By key, as teachers and starts are needed by many.
    missing: dict[str, Spec] = {}
    for spec in specs:
        _collect(spec, missing, there)
    made = _banks(list(missing.values()), missing, size) if banks else {}
    networks = [_network(s, missing, made, size) for s in missing.values()]
    evaluations = [_evaluation(s, missing, size) for s in specs]
    corrupted = [_corruption(name, examined, missing, size) for name in corruptions if examined]
    unique = {t.name: t for t in [*made.values(), *networks, *evaluations, *corrupted]}
    return [replace(t, gpu=size.gpu) for t in unique.values()]


def _collect(spec: Spec, missing: dict[str, Spec], there: Callable[[Spec], bool]) -> None:
    """Add `spec` and all it needs to `missing`, needs first, but for what is there."""
    if spec.key in missing or there(spec):
        return
    for needed in spec.needs:
        _collect(needed, missing, there)
    missing[spec.key] = spec


def _trained(specs: Sequence[Spec], missing: Mapping[str, Spec]) -> tuple[str, ...]:
    """Names of the tasks that train those of `specs` that are missing."""
    return tuple(f"network {s.key}" for s in dict.fromkeys(specs) if s.key in missing)


def _has_maps(spec: Spec) -> bool:
    return bool(spec.guidance and spec.guidance.gamma and any(spec.teachers))


def _sets(spec: Spec) -> int:
    """How often three maps are held: those of two teachers stay apart if normalised first."""
    if not _has_maps(spec):
        return 0
    return 2 if spec.guidance.order and all(spec.teachers) else 1


def _merged(n: int) -> bool:
    """Whether maps of n images are kept merged only, those of each teacher being too large."""
    return STAGES * 4.0 * n * n > RAW_MAPS


def bank_of(spec: Spec, n: int) -> str | None:
    """Name of the bank that `spec` learns from, None if it needs no maps.

    Small maps are stored a teacher each, whatever the weights; large ones as they are merged.
    """
    if not _has_maps(spec):
        return None
    # The same names for the same teachers and weights: seeds and methods then share a bank.
    keys = [t.key for t in spec.teachers if t]
    if _merged(n):
        keys += [str(spec.guidance.alpha), str(spec.guidance.order)]
    return " ".join(["bank", *keys])


def _banks(students: Sequence[Spec], missing: Mapping[str, Spec], size: Size) -> dict[str, Task]:
    """The banks of `students`, by name, those of one teacher first.

    A bank needs the first one that has a teacher of its own, whose maps it will then find in the
    store: else two workers would want to make them at once, and one would wait.
    """
    banks: dict[str, Task] = {}
    first: dict[str, str] = {}  # of each teacher
    for spec in sorted(students, key=lambda s: sum(map(bool, s.teachers))):
        name = bank_of(spec, size.train)
        if name is None or name in banks:
            continue
        teachers = [t for t in spec.teachers if t]
        shared = [first[t.key] for t in teachers if t.key in first]
        new = [t for t in teachers if t.key not in first]
        if not _merged(size.train):  # else each is made from the beginning
            first |= {t.key: name for t in new}
        needs = (*_trained(teachers, missing), *dict.fromkeys(shared))
        banks[name] = _bank(name, spec, needs, new, size)
    return banks


def _bank(name: str, spec: Spec, needs, teachers: Sequence[Spec], size: Size) -> Task:
    """A look at all images and a Gram matrix for each of `teachers`: those without maps yet."""
    # A teacher looks at each image once; then every image is multiplied with every other.
    look = sum(_look(t, size) for t in teachers) * size.train
    gram = 2.0 * FEATURES * size.train**2 / GRAM * len(teachers)
    return Task(
        name,
        needs,
        seconds=look + gram,
        memory=bank_memory(size.train, _sets(spec), size.room) + _pictures(spec, size),
        read=sum(weight_bytes(t) + _pictures(t, size) for t in teachers),
        written=_map_bytes(size.train) * (1 if _merged(size.train) else len(teachers)),
        kind="bank",
        specs=(spec,),
    )


def _network(
    spec: Spec, missing: Mapping[str, Spec], banks: Mapping[str, Task], size: Size
) -> Task:
    """Training `spec`."""
    bank = bank_of(spec, size.train)
    needs = _trained(spec.needs, missing) + ((bank,) if bank in banks else ())
    memory = bank_memory(size.train, _sets(spec), size.room) if _has_maps(spec) else 0.0
    if spec.baseline:  # it remembers features, where half of the memory is enough
        memory = min(size.room / 2, 4.0 * FEATURES * size.train)
    maps = _sets(spec) * _map_bytes(size.train)
    if not _merged(size.train) and _has_maps(spec):
        maps = sum(map(bool, spec.teachers)) * _map_bytes(size.train)
    weights = weight_bytes(spec)
    return Task(
        f"network {spec.key}",
        needs,
        seconds=size.seconds(spec),
        memory=memory + _pictures(spec, size),
        read=sum(weight_bytes(s) for s in spec.needs) + maps + _pictures(spec, size),
        written=weights * (1 + 2 * spec.schedule.epochs),  # after every epoch, with momentum
        kind="network",
        specs=(spec,),
    )


def _evaluation(spec: Spec, missing: Mapping[str, Spec], size: Size) -> Task:
    """Test and held-out images."""
    looked_at = size.test + size.holdout
    return Task(
        f"evaluation {spec.key}",
        _trained([spec], missing),
        seconds=_look(spec, size) * looked_at,
        memory=float(looked_at * size.image),
        read=weight_bytes(spec),
        written=4.0 * looked_at * spec.network.classes,
        kind="evaluation",
        specs=(spec,),
    )


def _corruption(name: str, specs: Sequence[Spec], missing: Mapping[str, Spec], size: Size) -> Task:
    """One corruption in all its strengths, shown to all of `specs`."""
    looks = sum(_look(s, size) for s in specs)
    return Task(
        f"corruption {name}",
        _trained(specs, missing),
        seconds=SEVERITIES * size.corrupted * (CORRUPT + looks),
        memory=8.0 * size.corrupted * size.image,  # in floating point while it is made
        read=sum(weight_bytes(s) for s in specs),
        kind="corruption",
        specs=tuple(specs),
        corruption=name,
    )


def _look(spec: Spec, size: Size) -> float:
    """Seconds that the network of `spec` takes to look at one image."""
    return FORWARD * size.seconds(spec) / (spec.schedule.epochs * max(1, size.train))


def _pictures(spec: Spec, size: Size) -> float:
    """Bytes of what `spec` sees of the training images."""
    one = spec.view.channels * spec.view.params.resolution**2 if spec.view.params else size.image
    return float(size.train * one)


def _map_bytes(n: int) -> float:
    """Bytes of a teacher's maps in the store."""
    return STAGES * n * n * (2.0 if _merged(n) else 4.0)


def weight_bytes(spec: Spec) -> float:
    """Bytes of a wide residual network in float32, with what its batch norms remember."""
    depth, width, classes = spec.network
    widths = [16, 16 * width, 32 * width, 64 * width]
    numbers = 9 * spec.view.channels * 16 + 4 * widths[3] + widths[3] * classes + classes
    for n_in, n_out, stride in zip(widths, widths[1:], (1, 2, 2), strict=False):
        for block in range((depth - 4) // 6):
            before = n_out if block else n_in
            numbers += 9 * before * n_out + 9 * n_out * n_out + 4 * before + 4 * n_out
            if not block and (before != n_out or stride > 1):
                numbers += before * n_out
    return 4.0 * numbers


def of_run(
    lab: Lab,
    *,
    room: float,
    seconds: Callable[[Spec], float] | None = None,
    gpu: bool = False,
    banks: bool = True,
) -> list[Task]:
    """The tasks that a lab's run has left, with `room` bytes of memory for the largest worker.

    seconds: of training a spec; None guesses by its size. gpu, banks: see `Size`, `tasks_of`.
    """
    from tgd_lib.study import methods, questions  # torch, and only here
    from tgd_lib.study.specs import specs_of

    data, settings = lab.data, lab.settings
    n, test = len(data.train.labels), len(data.test.labels)
    size = Size(
        train=n,
        test=test,
        holdout=len(data.holdout.labels) if settings.holdout else 0,
        corrupted=min(test, settings.n_corrupted or test),
        image=data.train.images[0].nbytes,
        room=room,
        seconds=seconds or guessed_seconds(n),
        gpu=gpu,
    )
    students = specs_of(lab).students(methods.of(settings))
    return tasks_of(
        students,
        size,
        there=lambda spec: lab.store.find("network", spec.question) is not None,
        examined=[s for s in students if s.method in methods.EXAMINED],
        corruptions=questions.corruption_names(lab),
        banks=banks,
    )


# ---------------------------------------------------------------- in words


def forecast(tasks: Sequence[Task], counts: Sequence[int] = WORKERS) -> list[str]:
    """The lines of `--plan --workers N`: a table, a line for each of `counts`, and what limits."""
    if not tasks:
        return ["There is nothing left to do."]
    lines = ["workers       time   busy  store MB/s  limited by"]
    for workers in sorted(set(counts)):
        f = simulate(tasks, workers)
        rate = f.traffic / 1e6 / max(f.makespan, 1e-9)
        lines.append(
            f"{workers:7d}  {_time(f.makespan):>9}  {100 * f.busy:3.0f} %  {rate:10.1f}  {f.limit}"
        )
    chain = longest_chain(tasks)
    steps = [f"{title(t)} {_time(t.seconds)}" for t in chain]
    read, written = sum(t.read for t in tasks), sum(t.written for t in tasks)
    return [
        *lines,
        f"The longest chain, {_time(sum(t.seconds for t in chain))}: {', then '.join(steps)}.",
        f"Through the store go {written / 1e9:.2f} GB to it and {read / 1e9:.2f} GB from it.",
    ]


def title(task: Task) -> str:
    """What a task does, for people."""
    if task.kind == "corruption":
        return f"corruption {task.corruption}"
    about = task.specs[0].label if task.specs else task.name
    if task.kind == "bank":
        return f"bank for {about}"
    return about if task.kind == "network" else f"{task.kind} of {about}"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.1f} s"
