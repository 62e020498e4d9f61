"""One notebook, executed: its source checked, a kernel of this very Python, memory watched.

papermill does the work; what is added here is that the right kernel is started whatever the machine
has registered, that Ctrl-C leaves none behind, and that a failure says where in the *source* it was.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tgd_lib.companion import twins
from tgd_lib.config import PARAMETERS, ROOT, InputError, artifacts_dir


@dataclass(frozen=True)
class Failure:
    """Where a notebook failed: its cell (counted from 1 in the source, if known), and how."""

    cell: int | None
    source: str
    traceback: str


@dataclass(frozen=True)
class Outcome:
    """How one notebook went. The status is "ok", "failed", or "skipped: needs ..."."""

    notebook: str
    status: str
    seconds: float = 0.0
    peak_mb: int = 0
    failure: Failure | None = None


def prepare(source: Path):
    """The notebook in `source`, with one cell of exactly the parameters there are; else InputError."""
    if not source.exists():
        raise InputError(f"{short_path(source)}: missing; restore it (git checkout -- {short_path(source)})")
    notebook = twins.read(source)
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f'{short_path(source)}: {len(cells)} cells tagged "parameters"; there must be one')
    names = parameter_names(cells[0].source)
    if names != list(PARAMETERS):
        known = ", ".join(PARAMETERS)
        raise InputError(f"{short_path(source)}: its parameters are {', '.join(names)}; must be {known}")
    notebook.metadata["kernelspec"] = dict(twins.KERNELSPEC)
    return notebook


def parameter_names(code: str) -> list[str]:
    """The names that a parameters cell assigns to, in order."""
    statements = ast.parse(code).body
    targets = [t for s in statements for t in getattr(s, "targets", [getattr(s, "target", None)])]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def execute_one(name: str, notebook, output: Path, parameters: dict, kernels: Kernels) -> Outcome:
    """Runs one notebook in a thread of its own, while this one watches memory and the keyboard."""
    import nbformat
    import papermill

    nbformat.write(notebook, output)
    start, peak = time.perf_counter(), 0
    options = dict(
        kernel_name="python3", progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr,
        start_timeout=300, iopub_timeout=120, kernel_manager_class=kernels.manager(),
    )  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(papermill.execute_notebook, output, output, parameters, **options)
        try:
            while not wait([job], timeout=0.25).done:
                peak = max(peak, kernels.memory())
        except KeyboardInterrupt:
            while not wait([job], timeout=0.1).done:  # also one that is only starting
                kernels.kill()
            raise
    seconds, error = time.perf_counter() - start, job.exception()
    failure = _failure(error, output) if error else None
    return Outcome(name, "failed" if failure else "ok", seconds, round(peak / 2**20), failure)


def _failure(error: BaseException, output: Path) -> Failure:
    """What went wrong, from papermill's exception and the notebook as far as it got."""
    added = {twins.INJECTED, "papermill-error-cell-tag"}
    cells = [c for c in twins.read(output).cells if not added & set(c.metadata.get("tags", []))]
    begun = [n for n, c in enumerate(cells, 1) if c.metadata.get("papermill", {}).get("start_time")]
    number = max(begun, default=None)
    traceback = "\n".join(getattr(error, "traceback", [])) or f"{type(error).__name__}: {error}"
    if getattr(error, "ename", "") == "InputError":  # says all there is to say in one line
        traceback = f"error: {error.evalue}"
    source = cells[number - 1].source if number else ""
    return Failure(number, source, re.sub(r"\x1b\[[0-9;]*m", "", traceback))


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
                await super().start_kernel(**options | {"env": kernels.environment, "cwd": kernels.cwd})
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
    """What the kernels inherit: our environment, less what would make them differ from reader to reader."""
    kept = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}  # else no figure in the notebook
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    fixed = {"TGD_ARTIFACTS": str(artifacts_dir().resolve()), "IPYTHONDIR": scratch}
    forced = {"TGD_FORCE_SINCE": repr(time.time())} if force else {}
    return kept | {"PYTHONPATH": os.pathsep.join(path)} | fixed | forced


def short_path(path: Path) -> Path:
    """`path` as seen from the repository's root, if it lies there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
