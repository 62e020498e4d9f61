"""Tasks that wait for one another: their order, and how long they take on N workers.

    in_order · priorities · longest_chain     of any tasks
    simulate                                  N workers go through them
    forecast                                  that, in words

No Dask, no clock, and nothing is run. `companion.graph` makes the tasks of a run.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from tgd_lib.config import InputError
from tgd_lib.lab.spec import Spec

WORKERS = (1, 4, 16, 64)  # that a plan is made for


@dataclass(frozen=True)
class Task:
    """One piece of work for one worker.

    name: of this task in its graph. needs: names of the tasks that must be over before it starts.
    seconds: about how long it takes. memory: bytes it must have for itself. gpu: whether it wants
    one. read, written: bytes that it takes from the store and puts there.
    kind, specs, corruption: what there is to do, see `graph.tasks_of`.
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


# ---------------------------------------------------------------- order


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


# ---------------------------------------------------------------- N workers


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
