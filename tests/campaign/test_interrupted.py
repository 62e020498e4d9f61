"""Killed at random moments, several at once, no room, no right to write: no byte is another one."""

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import campaign_work as tools
import pytest


def test_undisturbed_it_comes_to_the_same_bytes_twice(reference, tmp_path, tally):
    ending = tools.run(tools.work, tmp_path / "store")
    tally("undisturbed", *tools.verdict(ending, tmp_path / "store", reference.contents))


@pytest.mark.parametrize("series", range(8))
def test_killed_at_random_moments(reference, tmp_path, tally, dice, series):
    """Killed again and again, at most five times, then to the end: the same bytes as without."""
    root, kills = tmp_path / "store", []
    while len(kills) < 5:
        process = tools.start(tools.work, root)
        moment = dice.uniform(0, 0.6 * reference.seconds)
        time.sleep(moment)
        if tools.kill(process).code == 0:  # it was quicker
            break
        kills.append(round(moment, 3))
    outcome, what = tools.verdict(tools.run(tools.work, root), root, reference.contents)
    for _ in kills:
        tally("kill -9", outcome, f"after {kills} s: {what}")


def test_four_at_once_on_one_store(reference, tmp_path, tally, dice):
    root, processes = tmp_path / "store", []
    for _ in range(4):
        processes.append(tools.start(tools.work, root))
        time.sleep(dice.uniform(0, 0.3))
    endings = [tools.ended(process, patience=300) for process in processes]
    for ending in endings:
        tally("four runs on one store", *tools.verdict(ending, root, reference.contents))


@pytest.mark.parametrize("series", range(3))
def test_one_is_killed_while_another_waits_for_it(reference, tmp_path, tally, dice, series):
    root = tmp_path / "store"
    first, second = (tools.start(tools.work, root) for _ in range(2))
    time.sleep(dice.uniform(0.2, 0.6 * reference.seconds))
    tools.kill(first)
    ending = tools.ended(second, patience=300)
    tally("the other one is killed", *tools.verdict(ending, root, reference.contents))


# ---------------------------------------------------------------- notebooks, and their record


def test_notebooks_killed_at_random_moments(notebooks_run, tmp_path, tally, dice):
    """Killed four times, then to the end: the same bytes, whole notebooks, nothing half made."""
    root, kills = tmp_path / "store", []
    for _ in range(4):
        process = tools.run_notebooks(root)
        moment = dice.uniform(0, 0.8 * notebooks_run.seconds)
        time.sleep(moment)
        tools.kill(process)
        kills.append(round(moment, 1))
    ending = tools.ended(tools.run_notebooks(root), patience=400)
    outcome, what = tools.verdict(
        ending, root, notebooks_run.contents, look=tools.notebook_contents
    )
    for _ in kills:
        tally("notebooks, kill -9", outcome, f"after {kills} s: {what}")


def test_recording_killed_at_random_moments(notebooks_run, tmp_path, tally, dice):
    """At any moment there is no record or a whole one, and the next recording leaves no trace."""
    target, wanted = tmp_path / "killed", tmp_path / "wanted"
    for folder in (target, wanted):
        folder.mkdir()
    started = time.monotonic()
    assert tools.run(tools.record, notebooks_run.root, wanted).code == 0
    seconds, record = time.monotonic() - started, Path("figures") / "smoke"
    for _ in range(12):
        process = tools.start(tools.record, notebooks_run.root, target)
        time.sleep(dice.uniform(0, seconds))
        tools.kill(process)
        found = tools.files(target / record)
        whole = found in ({}, tools.files(wanted / record))
        tally("recording, kill -9", "clear" if whole else "lost", f"half a record: {list(found)}")
    ending = tools.run(tools.record, notebooks_run.root, target)
    what = tools.verdict(ending, target, tools.files(wanted), look=tools.files)
    tally("recording, kill -9", *what)


# ---------------------------------------------------------------- no room, no right


def limited(root: Path, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    tools.work(root)


def test_no_file_may_grow_beyond_ten_sizes(reference, tmp_path, tally):
    """As on a full disk, at another file each time; a try goes on where the last one stopped."""
    largest, root = max(map(len, reference.contents.values())), tmp_path / "store"
    for i in range(10):
        size = int(largest * (i / 10) ** 3)
        ending = tools.run(limited, root, size)
        what = f"files up to {size}: exit {ending.code}: {ending.said[-600:]}"
        tally("no room for a file", "clear" if ending.clear else "unclear", what)
    ending = tools.run(tools.work, root)
    tally("no room for a file", *tools.verdict(ending, root, reference.contents))


@pytest.fixture
def disk(tmp_path):
    """`mount(options)`: a file system in memory (again: changed), where that is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("file systems cannot be mounted here")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_of_ten_sizes(reference, tally, disk):
    whole = sum(f.stat().st_size for f in reference.root.rglob("*") if f.is_file())
    for i in range(10):
        root = disk(f"size={max(4096, whole * i // 10)}") / "store"
        ending = tools.run(tools.work, root)
        what = f"{i} tenths of the room: exit {ending.code}: {ending.said[-600:]}"
        tally("disk full", "clear" if ending.clear else "unclear", what)
    root = disk(f"size={4 * whole}") / "store"
    tally("disk full", *tools.verdict(tools.run(tools.work, root), root, reference.contents))


@pytest.mark.parametrize("complete", [False, True])
def test_a_store_that_may_only_be_read(reference, tmp_path, tally, request, complete):
    """Complete, it answers everything; otherwise one line says that it cannot be written to."""
    if os.geteuid() == 0:  # whom no permission stops
        mount = request.getfixturevalue("disk")
        root = mount("size=1g") / "store"
    else:
        root = tmp_path / "store"
    root.mkdir()
    if complete:
        shutil.copytree(reference.root, root, dirs_exist_ok=True)
    if os.geteuid() == 0:
        mount("ro")
    else:
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555)
    ending = tools.run(tools.work, root)
    if complete:
        tally("read-only", *tools.verdict(ending, root, reference.contents))
        return
    clear = ending.code == 2 and ending.clear
    tally("read-only", "clear" if clear else "unclear", f"exit {ending.code}: {ending.said[-600:]}")
