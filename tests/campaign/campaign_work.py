"""The work that the campaign disturbs, the processes it runs in, and the bytes it comes to."""

import fcntl
import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.lab.store import MANIFEST, Store, damage

# Of everything that is drawn at random; a run prints it.
SEED = int(os.environ.get("CAMPAIGN_SEED") or random.SystemRandom().randrange(1_000_000))

KINDS = (
    "persistence_images",
    "network",
    "teacher_logits",
    "teacher_maps",
    "teacher_bank",
    "evaluation",
)
VARIABLE = ("seconds", "made", "made_unix", "training_seconds", "modified", "commit")


def work(root: Path) -> None:
    """Persistence images, two teachers, a scratch student, two TGD students, and their evaluations.

    The first TGD student takes its teachers' maps from memory, the second from tiles.
    """
    import torch

    from tgd_lib import bank, tiles
    from tgd_lib.lab.lab import Lab
    from tgd_lib.study import methods
    from tgd_lib.study.specs import specs_of

    torch.set_num_threads(1)  # the bits of a sum depend on their number
    settings = replace(
        config.resolve("smoke", n_train=40, n_test=20, holdout=0, epochs=2, teacher_epochs=2),
        teacher=(10, 1),
        batch_size=16,
    )
    store = Store(root, newer_than=0, published=[])
    lab = Lab(settings, store=store, say=print)
    specs = specs_of(lab)
    lab.evaluation(specs.student("tgd", 0))
    # Maps of any size are now built in files, in four blocks of 10 images.
    bank.MAPS_KEPT, bank.GLANCE["cpu"], tiles.FEATURES["cpu"] = 0, 10, 1
    other = replace(methods.method("tgd"), name="tiles", label="Tiles", alpha=0.5)
    lab.evaluation(specs.student(other, 0))


class Process(NamedTuple):
    """A process at work, and the end of the pipe that it speaks into."""

    pid: int
    pipe: int


class Ending(NamedTuple):
    """How a process ended: its exit status (negative: killed by that signal), and what it said."""

    code: int
    said: str

    @property
    def clear(self) -> bool:
        """It did its work, or ended in one line that says what is wrong."""
        errors = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return self.code == 0 or (self.code == 2 and len(errors) == 1)


def start(function, *arguments) -> Process:
    """Begin `function(*arguments)` in a process of its own, a copy of this one.

    A fork, because a fresh interpreter takes seconds to import torch. It ends as a run does: with
    0, 2 for an InputError, 1 for anything else. It speaks into a pipe, which no full disk stops.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pipe, mouth = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # large enough that nobody need read meanwhile
        fcntl.fcntl(mouth, fcntl.F_SETPIPE_SZ, 2**20)
    pid = os.fork()
    if pid:
        os.close(mouth)
        return Process(pid, pipe)
    code = 1
    try:
        signal.alarm(0)  # the parent's
        os.dup2(mouth, 1)
        os.dup2(mouth, 2)
        sys.stdout = sys.stderr = open(mouth, "w", buffering=1, closefd=False)
        function(*arguments)
        code = 0
    except InputError as error:
        code = 2
        print(f"error: {error}")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(process: Process, *, patience: float = 120) -> Ending:
    """Wait for a process; one that takes longer than `patience` seconds is killed."""
    until = time.monotonic() + patience
    found = 0
    while not found and time.monotonic() < until:
        found, status = os.waitpid(process.pid, os.WNOHANG)
        time.sleep(0.01)
    if not found:
        os.kill(process.pid, signal.SIGKILL)
        _, status = os.waitpid(process.pid, 0)
    os.set_blocking(process.pipe, False)  # another copy may still hold its mouth
    with open(process.pipe, "rb", buffering=0) as pipe:
        said = (pipe.read(2**20) or b"").decode(errors="replace")
    if not found:
        return Ending(-9, f"it hung: killed after {patience} s. {said}")
    return Ending(os.waitstatus_to_exitcode(status), said)


def kill(process: Process) -> Ending:
    """End it at once, in whatever it does; its exit status is 0 if it had done its work before."""
    os.kill(process.pid, signal.SIGKILL)
    return ended(process)


def run(function, *arguments, patience: float = 120) -> Ending:
    """`start` and `ended` in one."""
    return ended(start(function, *arguments), patience=patience)


# ---------------------------------------------------------------- notebooks, and their record


def run_notebooks(root: Path) -> Process:
    """Begin 01 to 03 at smoke size, by papermill, with everything they leave under `root`."""
    command = [sys.executable, "-m", "tgd_lib.companion", "--profile", "smoke", "--only", "01-03"]
    environment = os.environ | {"TGD_ARTIFACTS": str(root), "OMP_NUM_THREADS": "1"}
    # In this process's group nobody would survive: its kernels have groups of their own anyway.
    return start(lambda: os.execve(sys.executable, command, environment))


def notebook_contents(root: Path) -> dict[str, bytes]:
    """The bytes of the store and of the figures; of executed notebooks, that they are whole.

    AssertionError if an artefact is damaged, or something unfinished is left.
    """
    from tgd_lib.companion import twins

    found = contents(root)
    run = root / "runs" / "smoke"
    for path in sorted(run.rglob("*.png")):
        found[str(path.relative_to(root))] = path.read_bytes()
    for path in sorted(run.glob("*.ipynb")):
        assert twins.executed(path), f"{path.name} has cells without outputs"
        found[path.name] = b"whole"
    left = [p.name for p in run.rglob("*") if p.name.endswith(".tmp")]
    assert not left, f"{left} are left"
    return found


def record(root: Path, target: Path) -> None:
    """Record the notebooks that ran under `root`, with the folder `target` for the repository."""
    from tgd_lib.companion import recording, twins

    os.environ["TGD_ARTIFACTS"] = str(root)
    recording.FIGURES, recording.RESULTS = target / "figures", target / "results"
    sources, twins.NOTEBOOKS = twins.NOTEBOOKS, target / "notebooks"
    twins.NOTEBOOKS.mkdir(exist_ok=True)
    names = sorted(p.stem for p in (root / "runs" / "smoke").glob("*.ipynb"))
    for name in names:
        text = (sources / f"{name}.py").read_text(encoding="utf-8")
        (twins.NOTEBOOKS / f"{name}.py").write_text(text, encoding="utf-8")
    recording.record(names, config.resolve("smoke"))


def files(folder: Path) -> dict[str, bytes]:
    """Path: bytes of every file in a folder."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


# ---------------------------------------------------------------- what it comes to


class Reference(NamedTuple):
    """The work undisturbed: its store, its bytes, and how long it took."""

    root: Path
    contents: dict[str, bytes]
    seconds: float


def contents(root: Path) -> dict[str, bytes]:
    """Path: bytes of every file of every finished artefact; of records what does not vary.

    AssertionError if an artefact is damaged, or something unfinished is left.
    """
    found = {}
    for kind in KINDS:
        for folder in sorted((root / kind).glob("*")):
            assert not folder.name.endswith(".partial"), f"{folder} is left"
            assert damage(folder) is None, f"{folder}: {damage(folder)}"
            for path in folder.iterdir():
                if path.name != MANIFEST:  # it holds the sum of the record, whose times vary
                    found[str(path.relative_to(root))] = _fixed(path)
    return found


def _fixed(path: Path) -> bytes:
    if path.name != "record.json":
        return path.read_bytes()
    record = json.loads(path.read_text())
    for name in VARIABLE:
        record.pop(name, None)
    for epoch in record.get("history", []):
        epoch.pop("seconds", None)
    return json.dumps(record, sort_keys=True).encode()


def verdict(ending: Ending, root: Path, wanted: dict[str, bytes], look=contents) -> tuple[str, str]:
    """The outcome of work that should have ended well, for the tally; `look`: what it has made."""
    if ending.code:
        return "unclear", f"exit {ending.code}: {ending.said[-400:]}"
    try:
        found = look(root)
    except (AssertionError, OSError) as error:
        return "lost", str(error)
    odd = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    return ("lost", f"other bytes: {odd[:3]}") if odd else ("clear", "")
