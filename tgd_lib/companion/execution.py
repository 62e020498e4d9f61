"""One notebook, executed: its source checked, a kernel of this very Python, memory watched.

papermill does the work; what is added here is that the right kernel is started whatever the
machine has registered, that Ctrl-C leaves none behind, and that a failure says where in the
*source* it was.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tgd_lib.companion import twins
from tgd_lib.config import ROOT, Diverged, InputError, artifacts_dir
from tgd_lib.files import no_room

PARAMETERS = ("profile", "overrides")  # what the parameters cell of a notebook assigns to
FOR_PEOPLE = (InputError.__name__, Diverged.__name__)  # errors that say it all in one line
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Failure:
    """Where a notebook failed: its cell (counted from 1 in the source, if known), and how.

    kind: "error", something to mend in the notebook or the library; "input", what was given cannot
    be used; "full", the disk is full. Of the last two, `traceback` is one line for people.
    """

    cell: int | None
    source: str
    traceback: str
    kind: str = "error"


@dataclass(frozen=True)
class Outcome:
    """How one notebook went. The status is "ok", "failed", or "skipped: ..." with the reason."""

    notebook: str
    status: str
    seconds: float = 0.0
    peak_mb: int = 0
    failure: Failure | None = None


# ---------------------------------------------------------------- before


def prepare(source: Path):
    """The notebook in `source`, with one cell of exactly the two parameters; else InputError."""
    place = short_path(source)
    if not source.exists():
        raise InputError(f"{place}: missing; restore it (git checkout -- {place})")
    notebook = twins.read(source)
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f'{place}: {len(cells)} cells tagged "parameters"; there must be one')
    names = parameter_names(cells[0].source)
    if names != list(PARAMETERS):
        found, wanted = ", ".join(names), " and ".join(PARAMETERS)
        raise InputError(f"{place}: its parameters are {found}; must be {wanted}")
    notebook.metadata["kernelspec"] = dict(twins.KERNELSPEC)
    return notebook


def parameter_names(code: str) -> list[str]:
    """The names that a parameters cell assigns to, in order."""
    names = []
    for statement in ast.parse(code).body:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        names += [t.id for t in targets if isinstance(t, ast.Name)]
    return names


def check_loopback() -> None:
    """InputError where this machine cannot speak to itself: that is how kernels are spoken to.

    papermill would wait for minutes, and then not say why.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise InputError(
            f"no loopback network ({LOOPBACK}: {error.strerror or error}): notebooks cannot run "
            "without it; allow it (ip link set lo up), or use --train, which needs none"
        ) from None


# ---------------------------------------------------------------- execution


def execute_one(name: str, notebook, output: Path, parameters: dict, kernels: Kernels) -> Outcome:
    """Runs one notebook in a thread of its own, while this one watches memory and the keyboard."""
    import nbformat
    import papermill

    logging.getLogger("papermill").disabled = True  # what it says is in the exception, too
    options = dict(
        kernel_name="python3", progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr,
        start_timeout=300, iopub_timeout=120, kernel_manager_class=kernels.manager(),
        # Kernels note each Ctrl-C that they survive, also the one that they are shut down with.
        extra_arguments=[f"--Application.log_level={logging.CRITICAL}"],
    )  # fmt: skip
    start, peak = time.perf_counter(), 0
    try:
        nbformat.write(notebook, output)
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(papermill.execute_notebook, output, output, parameters, **options)
            peak = _watch(job, kernels)
        error = job.exception()
    except OSError as full:
        error = full
    failure = failure_of(error, output) if error else None
    status = "failed" if failure else "ok"
    return Outcome(name, status, time.perf_counter() - start, round(peak / 2**20), failure)


def _watch(job: Future, kernels: Kernels) -> int:
    """Waits for a notebook; the most bytes that its kernel held. On Ctrl-C no kernel is left."""
    peak = 0
    try:
        while not wait([job], timeout=0.25).done:
            peak = max(peak, kernels.memory())
    except KeyboardInterrupt:
        while not wait([job], timeout=0.1).done:  # also one that is only starting
            kernels.kill()
        raise
    return peak


def failure_of(error: BaseException, output: Path) -> Failure:
    """What went wrong, from papermill's exception and the notebook as far as it got."""
    number, source = _place(output)
    name = getattr(error, "ename", type(error).__name__)  # of what a cell raised, or papermill
    said = getattr(error, "evalue", None) or str(error)
    if no_room(said):
        return Failure(number, source, f"error: {room_wanted(said)}", "full")
    if name in FOR_PEOPLE:
        return Failure(number, source, f"error: {said}", "input")
    traceback = "\n".join(getattr(error, "traceback", [])) or f"{type(error).__name__}: {error}"
    return Failure(number, source, re.sub(r"\x1b\[[0-9;]*m", "", traceback))


def _place(output: Path) -> tuple[int | None, str]:
    """The last cell that was begun: its number in the source, from 1, and its code.

    (None, "") where that cannot be told.
    """
    added = {twins.INJECTED, "papermill-error-cell-tag"}
    try:
        cells = twins.read(output).cells
    except (OSError, ValueError, AttributeError):  # half written, when the disk was full
        return None, ""
    own = [c for c in cells if not added & set(c.metadata.get("tags", []))]
    begun = [n for n, c in enumerate(own, 1) if c.metadata.get("papermill", {}).get("start_time")]
    if not begun:
        return None, ""
    return begun[-1], own[begun[-1] - 1].source


def room_wanted(said: str) -> str:
    """One line about a full disk, for people."""
    if "no room left" in said:  # the store's own words
        return said
    reason = " ".join(said.split())  # on one line
    return f"no room left on the disk ({reason}); make some and give the same command again"


# ---------------------------------------------------------------- kernels


class Kernels:
    """Kernels of this very interpreter, whatever kernels the machine has registered."""

    def __init__(self, environment: dict[str, str], cwd: Path):
        self.environment, self.cwd, self.processes = environment, str(cwd), []

    def manager(self):
        """The class of manager for nbclient to start a kernel with."""
        import psutil
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager

        kernels = self

        class Manager(AsyncKernelManager):
            def _kernel_spec_manager_default(self):
                return KernelSpecManager(kernel_dirs=[])  # leaves ipykernel's own: sys.executable

            async def start_kernel(self, **options):
                self.transport_encryption = "auto"  # others on this machine cannot listen
                options |= {"env": kernels.environment, "cwd": kernels.cwd}
                await super().start_kernel(**options)
                kernels.processes.append(psutil.Process(self.provisioner.pid))

        return Manager

    def tree(self) -> list:
        """The running kernels, and all processes below them."""
        import psutil

        found = []
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                found += [process, *process.children(recursive=True)]
        return found

    def memory(self) -> int:
        """Resident bytes of the tree."""
        import psutil

        total = 0
        for process in self.tree():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def kill(self) -> None:
        """Ends the tree at once: whatever it was writing is written whole or not at all."""
        import psutil

        for process in self.tree():
            with suppress(psutil.Error):
                process.kill()


def kernel_environment(scratch: str, force: bool) -> dict[str, str]:
    """What the kernels inherit: our environment, less what would make readers' notebooks differ."""
    environment = dict(os.environ)
    environment.pop("MPLBACKEND", None)  # else no figure in the notebook
    inherited = os.environ.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
    environment["TGD_ARTIFACTS"] = str(artifacts_dir().resolve())
    environment["IPYTHONDIR"] = scratch
    environment["TGD_STATIC"] = "1"  # nobody plays: pictures stand still (companion.play)
    if force:
        environment["TGD_FORCE_SINCE"] = repr(time.time())
    return environment


def short_path(path: Path) -> Path:
    """`path` as seen from the repository's root, if it lies there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
