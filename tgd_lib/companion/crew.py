"""The workers of a run, by Dask: processes of this machine, or those of a running scheduler.

    local    a process each, on a GPU or a share of the cores and of the memory
    remote   whoever has joined a scheduler
    greet    all of them have our source and see the store's folder, or one line says who has not

Dask (`distributed`) is an extra, imported only where it is used. `companion.cluster` gives the
workers their tasks.
"""

from __future__ import annotations

import logging
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tgd_lib import config
from tgd_lib.companion import schedule, worker
from tgd_lib.companion.schedule import Task
from tgd_lib.companion.worker import Job
from tgd_lib.config import InputError
from tgd_lib.lab.lab import Lab

INSTALL = "python -m pip install -r requirements-cluster.txt"
MEMORY, GPU = "MEMORY", "GPU"  # resources that a worker declares and a task asks for
DEATHS = 2  # of its workers that a task survives
CONFIG = {
    "logging.distributed": "critical",
    "distributed.scheduler.allowed-failures": DEATHS,
    # Dask's own has glibc give freed memory back at once (MALLOC_TRIM_THRESHOLD_): a training step
    # then asks the system for all of it again, and takes nearly twice as long.
    "distributed.nanny.pre-spawn-environ": {},
}
CONNECT = 10.0  # seconds until a scheduler counts as unreachable


def check_installed() -> None:
    """InputError unless Dask is there."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise InputError(
            f"--workers and --scheduler need Dask, which is not installed: {INSTALL}"
        ) from None


# ---------------------------------------------------------------- here


class Crew(NamedTuple):
    """Workers to give tasks to. memory: bytes that the largest has; count: how many there are."""

    client: object
    memory: float
    count: int
    gpu: bool


@contextmanager
def local(lab: Lab, workers: int, tasks: Callable[[float, bool], list[Task]]) -> Iterator[Crew]:
    """Workers on this machine, a process each, on a GPU or a share of the cores and of the memory.

    tasks: of the run, for a worker's bytes of memory and whether it has a GPU.
    """
    import dask
    from distributed import Client, Scheduler, SpecCluster

    gpu = lab.compute.device == "cuda"
    memory = _gpu_memory(workers) if gpu else _memory(workers, tasks)
    crew = {i: _nanny(i, memory[i], threads(workers), gpu) for i in range(workers)}
    # Everything listens on loopback alone; the dashboard takes another port if this one is taken.
    options = {"host": "127.0.0.1", "port": 0, "dashboard": True}
    options["dashboard_address"] = "127.0.0.1:8787"
    scheduler = {"cls": Scheduler, "options": options}
    _hush()
    with dask.config.set(CONFIG), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        with SpecCluster(crew, scheduler, silence_logs=logging.CRITICAL) as cluster:
            with Client(cluster) as client:
                client.wait_for_workers(workers, timeout=120)
                yield Crew(client, max(memory), workers, gpu)


def _nanny(i: int, memory: float, threads: int, gpu: bool) -> dict:
    """Worker i of this machine, and the process that starts it again when it dies."""
    from distributed import Nanny

    # Its own value is 1: Dask counts on many tasks at a time, and we have one.
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment: dict[str, object] = dict.fromkeys(names, threads)
    environment["DASK_LOGGING__DISTRIBUTED"] = "critical"
    resources = {MEMORY: memory}
    if gpu:
        # Of those that this process may use, where it was told which.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[i] if visible else i
        resources[GPU] = 1
    options = {
        "name": i,
        "env": environment,
        "resources": resources,
        "nthreads": 1,  # tasks at a time
        "host": "127.0.0.1",
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
        # No limit by Dask: it counts mapped files as a worker's own, and would stop it.
        "memory_limit": 0,
    }
    return {"cls": Nanny, "options": options}


def threads(workers: int) -> int:
    """Of PyTorch in each worker of this machine: OMP_NUM_THREADS, or a share of the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    return max(1, config.cores() // workers)


def _memory(workers: int, tasks: Callable[[float, bool], list[Task]]) -> list[float]:
    """Bytes for each of the workers of this machine."""
    from tgd_lib import bank  # torch, and only here
    from tgd_lib.compute import Compute

    room = float(bank.available(Compute("cpu")))
    return schedule.shares(room, workers, [t.memory for t in tasks(room, False)])


def _gpu_memory(workers: int) -> list[float]:
    """Bytes on the GPU of each worker."""
    import torch

    there = torch.cuda.device_count()
    if workers > there:
        raise InputError(
            f"--workers {workers}: there are {there} GPUs here, and a worker has one to itself"
        )
    return [float(torch.cuda.get_device_properties(i).total_memory) for i in range(workers)]


# ---------------------------------------------------------------- elsewhere


@contextmanager
def remote(lab: Lab, address: str) -> Iterator[Crew]:
    """The workers of a running scheduler; waits for the first of them."""
    from distributed import Client
    from distributed.comm import parse_address
    from distributed.comm.registry import get_backend

    _hush()
    try:
        # Looked at before, as a client that could not be made complains when Python ends.
        get_backend(parse_address(address)[0])
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        raise InputError(
            f"--scheduler {address}: cannot be reached ({reason}); is it running?"
        ) from None
    with client:
        # SLURM may take hours to start one, so there is no limit: Ctrl-C is one.
        if not workers_of(client):
            print(f"{address} has no workers yet; waiting for the first", flush=True)
            client.wait_for_workers(1)
        workers = workers_of(client)
        for declared in workers.values():
            _check_declared(declared)
        memory = max(w["resources"][MEMORY] for w in workers.values())
        yield Crew(client, memory, len(workers), _on_gpus(lab.settings.device, workers))


def _on_gpus(device: str, workers: Mapping[str, Mapping]) -> bool:
    """Whether tasks ask for a GPU; InputError if they must and no worker has one."""
    having = [w for w in workers.values() if w["resources"].get(GPU)]
    if device == "cuda" and not having:
        raise InputError(f"device 'cuda': no worker declares a {GPU}; use device 'cpu'")
    # Of "auto" each worker would make its own; networks would come from here and there.
    return device == "cuda" or (device == "auto" and len(having) == len(workers))


def _hush() -> None:
    """What Dask logs of lost connections, we say ourselves."""
    for name in ("distributed", "distributed.client"):  # the second has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)


def workers_of(client) -> dict[str, dict]:
    """What the scheduler says of its workers, by address."""
    return client.scheduler_info(n_workers=-1)["workers"]


def _check_declared(said: Mapping) -> None:
    """InputError unless a worker does one task at a time and says how much memory it has."""
    ask = f'start it with --nthreads 1 --resources "{MEMORY}=24e9" (docs/cluster.md)'
    if said["nthreads"] != 1:
        raise InputError(f"worker {said['name']}: {said['nthreads']} tasks at a time; {ask}")
    if MEMORY not in said["resources"]:
        raise InputError(f"worker {said['name']}: does not say how much memory it has; {ask}")


# ---------------------------------------------------------------- fit for the run


def greet(client, job: Job) -> None:
    """InputError unless the scheduler (which unpacks tasks) and every worker have our source, and
    every worker the store's folder before it.
    """
    try:
        scheduler = client.run_on_scheduler(worker.introduce, None, "")
    except Exception as error:  # whatever importing tgd_lib raises there
        scheduler = error
    problem = _problem(job, scheduler)
    if problem:
        raise InputError(f"scheduler: {problem}")
    # A folder of the same name may be another: only in the same one is the file that we make now.
    token = f"cluster-{uuid.uuid4().hex}"
    if job.root:
        Path(job.root).mkdir(parents=True, exist_ok=True)
        (Path(job.root) / token).touch()
    try:
        answers = client.run(worker.introduce, job.root, token, on_error="return")
    finally:
        if job.root:
            (Path(job.root) / token).unlink()
    names = {address: w["name"] for address, w in workers_of(client).items()}
    for address, answer in answers.items():
        problem = _problem(job, answer)
        if problem:
            raise InputError(f"worker {names.get(address, address)}: {problem}")


def _problem(job: Job, answer) -> str | None:
    """Why the worker that gave `answer` cannot help; None if it can."""
    if isinstance(answer, BaseException):
        what = str(answer).split("\n")[0][:120]
        if "tgd_lib" in str(answer):
            return f"tgd_lib cannot be imported there ({what}); install this version on it"
        return f"does not answer as it should ({what})"
    theirs, sees_store = answer
    problem = worker.difference(job.source, theirs)
    if problem:
        return f"{problem}; bring it to the same state"
    if not sees_store:
        return f"does not see {job.root}; mount it there, or add --no-shared-store"
    return None
