"""Killed at random moments, several at once, no room, no right to write: no byte is another one."""

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import campaign_work as tools
import pytest

NOBODY = 65534


class Reference(NamedTuple):
    """The work undisturbed: its store, its bytes, and how long it took."""

    root: Path
    contents: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    import torch  # noqa: F401  the processes of the campaign are copies of this one
    from tgd_lib.lab import lab, objectives, trained  # noqa: F401

    folder = tmp_path_factory.mktemp("reference")
    started = time.monotonic()
    ending = tools.run(tools.work, folder / "store", log=folder / "log")
    assert ending.code == 0, ending.said
    return Reference(folder / "store", tools.contents(folder / "store"), time.monotonic() - started)


def test_undisturbed_it_comes_to_the_same_bytes_twice(reference, tmp_path, tally):
    ending = tools.run(tools.work, tmp_path / "store", log=tmp_path / "log")
    tally("undisturbed", *tools.verdict(ending, tmp_path / "store", reference.contents))


@pytest.mark.parametrize("series", range(4))
def test_killed_at_random_moments(reference, tmp_path, tally, dice, series):
    """Five kills, then to the end: the same bytes as without."""
    root, log = tmp_path / "store", tmp_path / "log"
    kills = []
    for _ in range(5):
        pid = tools.start(tools.work, root, log=log)
        kills.append(round(dice.uniform(0, 0.7 * reference.seconds), 3))
        time.sleep(kills[-1])
        os.kill(pid, signal.SIGKILL)
        tools.ended(pid, log)
    outcome, what = tools.verdict(tools.run(tools.work, root, log=log), root, reference.contents)
    for _ in kills:
        tally("kill -9", outcome, f"after {kills} s: {what}")


def test_four_at_once_on_one_store(reference, tmp_path, tally, dice):
    root = tmp_path / "store"
    logs = [tmp_path / f"log{i}" for i in range(4)]
    pids = []
    for log in logs:
        pids.append(tools.start(tools.work, root, log=log))
        time.sleep(dice.uniform(0, 0.3))
    for pid, log in zip(pids, logs, strict=True):
        ending = tools.ended(pid, log, patience=300)
        tally("four runs on one store", *tools.verdict(ending, root, reference.contents))


def test_one_is_killed_while_another_waits_for_it(reference, tmp_path, tally, dice):
    for series in range(3):
        root, logs = tmp_path / f"store{series}", [tmp_path / f"log{i}" for i in range(2)]
        first, second = (tools.start(tools.work, root, log=log) for log in logs)
        time.sleep(dice.uniform(0.2, 0.6 * reference.seconds))
        os.kill(first, signal.SIGKILL)
        tools.ended(first, logs[0])
        ending = tools.ended(second, logs[1], patience=300)
        tally("the other one is killed", *tools.verdict(ending, root, reference.contents))


# ---------------------------------------------------------------- no room, no right


def limited(root: Path, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    tools.work(root)


def test_no_file_may_grow_beyond_ten_sizes(reference, tmp_path, tally):
    """As on a full disk, at another file each time; every try goes on where the last one stopped."""
    largest = max(map(len, reference.contents.values()))
    root, log = tmp_path / "store", tmp_path / "log"
    for size in [int(largest * (i / 10) ** 3) for i in range(10)]:
        ending = tools.run(limited, root, size, log=log)
        # The line itself may not be written where no file may grow; then only the status tells.
        clear = ending.clear or (ending.code == 2 and size < 500)
        tally(
            "no room for a file", "clear" if clear else "unclear", f"{size}: {ending.said[-500:]}"
        )
    ending = tools.run(tools.work, root, log=log)
    tally("no room for a file", *tools.verdict(ending, root, reference.contents))


@pytest.fixture
def small_disk(tmp_path):
    """`mount(bytes)`: a file system of that size (again: resized), where that is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int) -> Path:
        mounted = os.path.ismount(folder)
        option = f"{'remount,' if mounted else ''}size={size}"
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("file systems cannot be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_disk_of_ten_sizes(reference, tmp_path, tally, small_disk):
    whole = sum(f.stat().st_size for f in reference.root.rglob("*") if f.is_file())
    log = tmp_path / "log"
    for i in range(10):
        root = small_disk(max(4096, whole * i // 10)) / "store"
        ending = tools.run(tools.work, root, log=log)
        tally("disk full", "clear" if ending.clear else "unclear", f"{i}/10: {ending.said[-500:]}")
    root = small_disk(4 * whole) / "store"
    ending = tools.run(tools.work, root, log=log)
    tally("disk full", *tools.verdict(ending, root, reference.contents))


def as_nobody(root: Path) -> None:
    if os.geteuid() == 0:  # who may write everywhere
        os.seteuid(NOBODY)
    tools.work(root)


def test_a_store_that_may_only_be_read(reference, tmp_path, tally):
    root, log = tmp_path / "store", tmp_path / "log"
    tmp_path.chmod(0o755)
    if os.geteuid() == 0 and any(not os.stat(p).st_mode & 0o001 for p in tmp_path.parents):
        pytest.skip("nobody else may enter the folder of this test")
    root.mkdir(mode=0o555)
    ending = tools.run(as_nobody, root, log=log)
    clear = ending.code == 2 and ending.clear
    tally("read-only, empty", "clear" if clear else "unclear", ending.said[-500:])
    root.chmod(0o755)
    shutil.copytree(reference.root, root, dirs_exist_ok=True)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555)
    ending = tools.run(as_nobody, root, log=log)  # everything is there: nothing need be written
    tally("read-only, complete", *tools.verdict(ending, root, reference.contents))
