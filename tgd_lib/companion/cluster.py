"""The trainings of a run on several workers, by Dask: here, or wherever a scheduler has some.

The tasks and what they wait for are `graph`'s, the workers `crew`'s; Dask decides who does what,
and gives the task of a worker that dies to another. The store makes that safe: a network that was
begun goes on from its last whole epoch.

    ./run_all.sh --train --workers 4
    ./run_all.sh --train --scheduler tcp://10.0.0.1:8786
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter

from tgd_lib.companion import crew, graph, schedule, worker
from tgd_lib.companion.schedule import Task
from tgd_lib.companion.worker import Job, Outcome
from tgd_lib.config import InputError, Settings
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.store import Store

GONE = (
    "the scheduler is gone; start it again and give the same command (without --force): "
    "it goes on from what is in the store"
)
TICK = 1.0  # seconds between two looks at what has happened


# ---------------------------------------------------------------- a run


def train(
    settings: Settings,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    shared: bool = True,
    force: bool = False,
) -> int:
    """Train and evaluate every network of a profile on several workers; the exit status (0 or 1).

    workers: so many on this machine, or scheduler: those of a Dask scheduler. shared: they see the
    store's folder; else they are sent what they need and send back what they make. InputError (one
    line) when Dask is not installed, the scheduler cannot be reached or a worker is of no use.
    """
    if workers is not None:
        schedule.check_workers(workers)
    if force and not shared:
        raise InputError("--force and --no-shared-store: do not go together; empty the stores")
    crew.check_installed()
    store = Store(newer_than=time.time()) if force else None
    lab = Lab(settings, store=store, say=lambda line: None)

    def tasks(room: float, gpu: bool) -> list[Task]:
        return graph.of_run(lab, room=room, gpu=gpu, shared=shared)

    if not shared:
        _train_teachers_of_more(lab)
    # Elsewhere the number of threads is the worker's own affair: its machine may have more cores.
    count = None if workers is None else crew.threads(workers)
    root = str(lab.store.root.resolve()) if shared else None
    job = Job(settings, worker.source(), root, lab.store.newer_than, count)
    hired = crew.local(lab, workers, tasks) if scheduler is None else crew.remote(lab, scheduler)
    with hired as (client, memory, size, gpu):
        crew.greet(client, job)
        print(f"{settings.run_name}: {size} workers; dashboard {client.dashboard_link}", flush=True)
        run = Run(client, job, tasks(memory, gpu), lab, memory=memory, workers=size)
        try:
            outcomes = run.go()
        except OSError as error:
            if type(error).__name__ == "CommClosedError":  # in the midst of asking it something
                raise InputError(GONE) from error
            raise
    status = report(outcomes)
    if not status:
        _examine(lab)
    return status


def _examine(lab: Lab) -> None:
    """What workers are not asked, being a matter of seconds: calibration and transfer.

    Corruptions are in the store by now.
    """
    from tgd_lib.study import questions  # torch, and only here
    from tgd_lib.study.specs import specs_of

    lab = _on_this_machine(lab)
    there = [s for s in specs_of(lab).examined() if lab.result(s) or lab.find(s)]
    questions.examine(lab, there)


def _train_teachers_of_more(lab: Lab) -> None:
    """Those of other images than the run's: workers are not sent them, and may have no data."""
    from tgd_lib.study.specs import specs_of  # torch, and only here

    missing = lab.missing(specs_of(lab).asked())
    teachers = [spec for spec in missing if spec.data != lab.data.train.fingerprint]
    if teachers:
        print(f"trained here first: {', '.join(spec.label for spec in teachers)}", flush=True)
        _on_this_machine(lab).train(teachers)


def _on_this_machine(lab: Lab) -> Lab:
    """The lab for what is done here: where workers have GPUs there may be none."""
    if lab.settings.device != "cuda":
        return lab
    settings = replace(lab.settings, device="auto")
    return Lab(settings, store=lab.store, data=lab.data, say=lab.say)


def report(outcomes: Mapping[str, Outcome]) -> int:
    """Print what the evaluations say and what went wrong; the exit status, 1 if anything broke.

    A network that diverged is a result like others, as without workers: it does not make it 1.
    """
    for outcome in outcomes.values():
        if outcome.line and outcome.status != "skipped":
            print(outcome.line)
    skipped = sum(o.status == "skipped" for o in outcomes.values())
    if skipped:
        print(f"{skipped} tasks were left out, as they need one of those")
    return int(any(o.status == "failed" for o in outcomes.values()))


class Run:
    """The tasks of a run, given to the workers of a Dask client when what they need is done.

    A task is given to Dask when it could start, not before: so what stands on a network that
    diverged is never given, and what a worker could not do is given again.
    """

    def __init__(
        self, client, job: Job, tasks: Sequence[Task], lab: Lab, *, memory: float, workers: int
    ):
        self.client, self.job, self.lab = client, job, lab
        self.memory, self.workers = memory, workers
        self.tasks = {t.name: t for t in tasks}
        self.rank = schedule.priorities(tasks)
        self.outcomes: dict[str, Outcome] = {}
        self.lost: set[str] = set()  # keys of networks that there will not be
        self._running: dict[object, str] = {}  # futures and the tasks they are of
        self._tries = dict.fromkeys(self.tasks, 0)
        self._full: set[str] = set()  # addresses of workers whose disk is full
        self._sent: dict[object, object] = {}  # futures of what has been sent to workers

    def go(self) -> dict[str, Outcome]:
        """Do all tasks; how each ended. InputError if the scheduler is gone."""
        progress = Progress(self.tasks, self.outcomes, self.workers)
        sorter = TopologicalSorter({t.name: t.needs for t in self.tasks.values()})
        sorter.prepare()
        while sorter.is_active():
            for name in sorter.get_ready():
                reason = self._hopeless(self.tasks[name])
                if reason:
                    self._end(name, Outcome("skipped", reason))
                    sorter.done(name)
                else:
                    self._start(name)
            for name in self._ended():
                sorter.done(name)
                progress.ended(name, len(self._running))
            progress.show(len(self._running))
        progress.close()
        return self.outcomes

    # ---- starting

    def _hopeless(self, task: Task) -> str | None:
        """Why a task cannot be done; a corruption is shown to whatever networks there are."""
        if task.kind == "corruption":
            return None if self._left(task) else "no network to corrupt images for"
        # Without its bank a student takes longer; without its teacher it cannot be.
        hard = [n for n in task.needs if self.tasks[n].kind == "network"]
        bad = [n for n in hard if self.outcomes[n].status != "done"]
        return f"needs {schedule.title(self.tasks[bad[0]])}" if bad else None

    def _left(self, task: Task):
        return tuple(s for s in task.specs if s.key not in self.lost)

    def _start(self, name: str) -> None:
        """Give a task to Dask."""
        task = replace(self.tasks[name], specs=self._left(self.tasks[name]))
        self._tries[name] += 1
        # What would take more than anybody has makes do with the largest: `bank.choose` sees to it.
        resources = {crew.MEMORY: min(task.memory, self.memory)}
        if task.gpu:
            resources[crew.GPU] = 1
        elsewhere = None  # whoever can
        if self._full:
            elsewhere = [a for a in crew.workers_of(self.client) if a not in self._full]
        inputs = [self._parcel(spec) for spec in self._inputs(task)]
        # A key of its own for every try; what is before the dash groups tasks on the dashboard.
        future = self.client.submit(
            worker.work,
            task,
            self.job,
            inputs,
            self._data(),
            key=f"{task.kind}-{uuid.uuid4().hex}",
            priority=self.rank[name],
            resources=resources,
            workers=elsewhere,
            pure=False,
        )
        self._running[future] = name

    def _inputs(self, task: Task) -> list:
        """The networks that a task stands on, where they must be sent."""
        if self.job.root:
            return []
        found = [n for s in task.specs for n in s.needs] if task.kind == "network" else task.specs
        return list(dict.fromkeys(found))

    def _parcel(self, spec):
        """A trained network, sent once to whoever needs it."""
        return self._send(spec.key, lambda: worker.pack(self.lab.find(spec)))

    def _data(self):
        """The images, sent once; None where workers read them for themselves."""
        return None if self.job.root else self._send("data", lambda: self.lab.data)

    def _send(self, key: object, make: Callable[[], object]):
        """What `make` gives as a future; made again if it went down with a worker."""
        sent = self._sent.get(key)
        if sent is None or sent.status != "finished":
            # In a list, as Dask would scatter the fields of a tuple one by one.
            (self._sent[key],) = self.client.scatter([make()], hash=False, broadcast=key == "data")
        return self._sent[key]

    # ---- ending

    def _ended(self) -> list[str]:
        """Names of tasks that have ended since the last look; waits a moment for one."""
        self._wait()
        ended = []
        # Asked by status, one after another: a future that raises must not hide those that do not.
        for future in [f for f in self._running if f.status != "pending"]:
            name = self._running.pop(future)
            outcome = self._outcome(future, name)
            if outcome is None:
                self._start(name)
            else:
                self._end(name, outcome)
                ended.append(name)
        return ended

    def _wait(self) -> None:
        from distributed import TimeoutError, wait

        if not self._running:
            return
        try:
            wait(list(self._running), timeout=TICK, return_when="FIRST_COMPLETED")
        except TimeoutError:
            pass
        except Exception:  # of a task, or of all when the scheduler goes: told by their status
            time.sleep(0.1)

    def _outcome(self, future, name: str) -> Outcome | None:
        """How a task ended; None if it must be started again."""
        title = schedule.title(self.tasks[name])
        if future.status == "error":
            return Outcome("failed", f"{title}: {_reason(future.exception())}")
        result = _result(future)
        if result is not None:
            return self._judge(result, name)
        # The scheduler is gone, for a moment or for good, or what had been sent to the workers is.
        self._reconnect()
        if self._tries[name] > 2 * crew.DEATHS:
            return Outcome("failed", f"{title}: given up after {self._tries[name]} tries")
        return None

    def _reconnect(self) -> None:
        """Wait while Dask's client looks for its scheduler; InputError if it does not find it."""
        deadline = time.monotonic() + 2 * crew.CONNECT
        time.sleep(0.1)  # it notices a moment later than a result that does not come
        while self.client.status == "connecting" and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.client.status != "running":
            raise InputError(GONE)

    def _judge(self, outcome: Outcome, name: str) -> Outcome | None:
        """`outcome`, with what it means for the others; None if another worker should try."""
        about = f"{schedule.title(self.tasks[name])}: {outcome.line}"
        if outcome.status == "refused":  # one that came later: those of the beginning were greeted
            _say(f"worker {_who(outcome)}: {outcome.line}; it gets no more tasks")
            self.client.retire_workers([outcome.address])
            return None
        if outcome.status == "no room" and self.job.root:
            raise InputError(outcome.line)  # the store is everybody's
        if outcome.status == "no room":
            if outcome.address not in self._full:  # once: it may have been given several by then
                _say(f"worker {_who(outcome)}: {outcome.line}; it gets no more tasks")
            self._full.add(outcome.address)
            if set(crew.workers_of(self.client)) - self._full:
                return None
            return outcome._replace(status="failed", line=about)
        for parcel in outcome.parcels:
            worker.unpack(parcel, self.lab.store.root)
        if outcome.status == "done":
            return outcome._replace(parcels=())
        return outcome._replace(line=about)

    def _end(self, name: str, outcome: Outcome) -> None:
        task = self.tasks[name]
        self.outcomes[name] = outcome
        if task.kind == "network" and outcome.status != "done":
            self.lost |= {s.key for s in task.specs}


def _result(future) -> Outcome | None:
    """What a task gave; None if it is not to be had any more."""
    from distributed import CancelledError

    if future.status != "finished":
        return None
    try:
        return future.result()
    except (OSError, CancelledError):  # the scheduler, or the worker that had it, has just gone
        return None


def _reason(error: BaseException) -> str:
    """An error that a worker did not expect, in a line."""
    if type(error).__name__ == "KilledWorker":
        # A scheduler that runs already has a number of its own.
        deaths = getattr(error, "allowed_failures", crew.DEATHS) + 1
        return f"its worker died {deaths} times; is there enough memory?"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


# ---------------------------------------------------------------- progress


class Progress:
    """A line: done, running, waiting, failed, when it will be over; live if a person watches."""

    def __init__(self, tasks: Mapping[str, Task], outcomes: Mapping[str, Outcome], workers: int):
        self.tasks, self.outcomes, self.workers = tasks, outcomes, workers
        self.live = sys.stdout.isatty()
        self._left: tuple[int, float] = (-1, 0.0)  # how many had ended, and when all will have

    def line(self, started: int) -> str:
        """The line, with `started` tasks in the hands of Dask."""
        ended = list(self.outcomes.values())
        failed = sum(o.status != "done" for o in ended)
        # Dask has been given all that could start; no more run than there are workers.
        running = min(started, self.workers)
        waiting = len(self.tasks) - len(ended) - running
        end = time.strftime("%H:%M", time.localtime(self._end()))
        done = len(ended) - failed
        return (
            f"{done} done, {running} running, {waiting} waiting, {failed} failed; end about {end}"
        )

    def _end(self) -> float:
        """When all will be over, seconds since 1970: the rest simulated, at the speed so far."""
        if self._left[0] != len(self.outcomes):
            left = remaining(self.tasks, self.outcomes, self.workers)
            self._left = len(self.outcomes), time.time() + left
        return self._left[1]

    def show(self, started: int) -> None:
        if self.live:
            print(f"\r{self.line(started)}\x1b[K", end="", flush=True)

    def ended(self, name: str, started: int) -> None:
        """Where nobody watches, a line for each task that has ended."""
        if self.live:
            return
        outcome = self.outcomes[name]
        where = "" if outcome.worker is None else f" on worker {outcome.worker}"
        said = (
            f"{schedule.title(self.tasks[name])}: {outcome.status}, {outcome.seconds:.1f} s{where}"
        )
        print(f"{said}  [{self.line(started)}]", flush=True)

    def close(self) -> None:
        if self.live:
            print("\r\x1b[K", end="")


def remaining(tasks: Mapping[str, Task], outcomes: Mapping[str, Outcome], workers: int) -> float:
    """Seconds until all tasks will be done, as those took that are."""
    left = [t for name, t in tasks.items() if name not in outcomes]
    open_ = [replace(t, needs=tuple(n for n in t.needs if n not in outcomes)) for t in left]
    done = [name for name, o in outcomes.items() if o.status == "done"]
    expected = sum(tasks[name].seconds for name in done)
    taken = sum(outcomes[name].seconds for name in done)
    return schedule.simulate(open_, workers).makespan * (taken / expected if expected else 1.0)


def _who(outcome: Outcome) -> str:
    """Which worker a task was on, for a message."""
    return outcome.address if outcome.worker is None else str(outcome.worker)


def _say(line: str) -> None:
    print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, flush=True)
