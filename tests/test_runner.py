"""The runner on toy notebooks: what runs, in which order, and what happens when things go wrong."""

import csv
import dataclasses
import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tgd_lib import files
from tgd_lib.companion import execution, recording, runner, twins
from tgd_lib.companion.command import main
from tgd_lib.companion.execution import parameter_names, prepare
from tgd_lib.config import ROOT, InputError, resolve, run_dir

PARAMETERS_CELL = """\
# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}"""


def toy(folder: Path, name: str, *cells: str) -> Path:
    """A notebook's source in `folder`: a title, the parameters, and `cells`."""
    path = folder / f"{name}.py"
    title = f"# %% [markdown]\n# # Toy {name}\n"
    path.write_text("\n\n".join([title, PARAMETERS_CELL, *("# %%\n" + c for c in cells)]) + "\n")
    return path


@pytest.fixture
def artifacts(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


@pytest.fixture
def notebooks(tmp_path, monkeypatch) -> Path:
    """A folder for toy notebooks, the only ones that the runner knows; 01_a needs no other."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(twins, "NOTEBOOKS", folder)
    monkeypatch.setattr(runner, "NEEDS", {"01_a": ()})
    return folder


@pytest.fixture
def figures(tmp_path, monkeypatch) -> Path:
    """Where records go."""
    monkeypatch.setattr(recording, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(recording, "RESULTS", tmp_path / "docs" / "results")
    return tmp_path / "figures"


# ---------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["00_a", "01_b", "02_c", "03_d"]),
        ("03", ["03_d"]),
        ("3", ["03_d"]),
        ("03_d", ["03_d"]),
        ("01-03", ["01_b", "02_c", "03_d"]),
        ("01,03", ["01_b", "03_d"]),
        ("02-03,00,03", ["02_c", "03_d", "00_a"]),
    ],
)
def test_only_selects(text, expected):
    assert runner.select(text, ["00_a", "01_b", "02_c", "03_d"]) == expected


@pytest.mark.parametrize("text", ["09", "3-1", "x", "", "01,", "-", "01-x"])
def test_only_refuses(text):
    with pytest.raises(InputError, match="there are 01_b, 03_d"):
        runner.select(text, ["01_b", "03_d"])


def test_each_notebook_comes_after_what_it_needs():
    order = runner.in_order(list(runner.NEEDS), runner.NEEDS)
    assert sorted(order) == sorted(runner.NEEDS)
    assert (
        order.index("00_start_here") > order.index("03_distillation") > order.index("02_teachers")
    )
    alone = runner.in_order(["00_start_here", "01_persistence_images"], runner.NEEDS)
    assert alone == ["00_start_here", "01_persistence_images"]


# ---------------------------------------------------------------- what is checked before


def test_a_notebook_whose_parameters_differ_is_refused(notebooks):
    source = toy(notebooks, "01_a")
    assert [c.cell_type for c in prepare(source).cells] == ["markdown", "code"]
    source.write_text(source.read_text().replace("overrides: dict", "override: dict"))
    with pytest.raises(
        InputError, match="parameters are profile, override; must be profile and overrides"
    ):
        prepare(source)
    source.write_text("# %%\nprint(1)\n")
    with pytest.raises(InputError, match='0 cells tagged "parameters"'):
        prepare(source)


def test_parameter_names_come_from_the_syntax_tree():
    assert parameter_names("a: int | None = None  # it's here\nb = 2\nprint(3)\n") == ["a", "b"]


def refuse(*arguments, **options):
    raise OSError(101, "Network is unreachable")


def test_without_a_loopback_network_it_says_so_at_once(notebooks, monkeypatch, capsys):
    toy(notebooks, "01_a")
    monkeypatch.setattr(execution.socket, "create_connection", refuse)
    assert main([]) == 2
    assert capsys.readouterr().err == (
        "error: no loopback network (127.0.0.1: Network is unreachable): notebooks cannot run "
        "without it; allow it (ip link set lo up), or use --train, which needs none\n"
    )


def apart(*arguments: str) -> bool:
    """Whether this machine lets us have namespaces of our own."""
    try:
        return subprocess.run(["unshare", *arguments, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not apart("-rn"), reason="no network namespaces for us here")
def test_in_a_sandbox_without_a_network_too(artifacts, notebooks):
    toy(notebooks, "01_a")
    process = start(notebooks, before=["unshare", "-rn"])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.startswith("error: no loopback network (127.0.0.1: ")
    assert err.count("\n") == 1


# ---------------------------------------------------------------- execution


def test_runs_in_this_python_with_the_overrides(artifacts, notebooks, monkeypatch, capfd):
    """Live output, parameters, interpreter and environment, whatever is registered as python3."""
    registered = artifacts.parent / "jupyter" / "kernels" / "python3"
    registered.mkdir(parents=True)
    spec = {"argv": ["/nowhere/python"], "display_name": "x", "language": "x"}
    (registered / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(registered.parents[1]))
    monkeypatch.setenv("MPLBACKEND", "svg")
    toy(
        notebooks, "01_a", "import os, sys\nfrom tgd_lib import config\nblob = b'x' * 300_000_000",
        "print(sys.executable)",
        "print('env', os.environ['TGD_ARTIFACTS'], os.environ['TGD_FORCE_SINCE'] > '1')",
        "print('given', profile, overrides)\nprint(os.getcwd())\nprint(os.environ['MPLBACKEND'])",
        "import time\nprint('to stderr', file=sys.stderr)\ntime.sleep(1)",
        "get_ipython().kernel.log.error('KeyboardInterrupt caught in kernel')",
    )  # fmt: skip
    arguments = ["--profile", "smoke", "-p", "epochs", "3", "-p", "alpha", "0.5", "--force"]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    folder = run_dir(resolve("smoke", epochs=3, alpha=0.5))
    assert sys.executable in lines and f"env {artifacts} True" in lines and str(notebooks) in lines
    assert "given smoke {'epochs': 3, 'alpha': 0.5}" in lines and "to stderr" in err
    assert any("inline" in line for line in lines)
    assert "caught in kernel" not in out + err  # nothing of the Ctrl-C that ends a kernel
    assert lines.index("[1/1] 01_a") < lines.index(sys.executable)
    assert (folder / "01_a.ipynb").exists() and folder.is_relative_to(artifacts)
    (row,) = csv.DictReader(open(folder / "timings.csv"))
    assert row["notebook"] == "01_a" and row["status"] == "ok"
    assert float(row["seconds"]) > 1 and 300 < int(row["peak_mb"]) < 2000
    assert (folder / "run.json").exists()


def test_a_failure_stops_those_that_need_it_and_no_others(artifacts, notebooks, monkeypatch, capfd):
    needs = {"01_a": (), "02_b": ("01_a",), "03_c": ("02_b",), "04_d": (), "05_e": ()}
    monkeypatch.setattr(runner, "NEEDS", needs)
    toy(notebooks, "01_a", "x = 1", "1 / (x - 1)", "print('never')")
    toy(notebooks, "02_b")
    toy(notebooks, "03_c")
    toy(notebooks, "04_d", "print('still done')")
    toy(
        notebooks,
        "05_e",
        "import os, signal",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "print('never')",
    )
    assert main([]) == 1
    out, err = capfd.readouterr()
    rows = list(csv.DictReader(open(run_dir(resolve()) / "timings.csv")))
    assert [r["status"] for r in rows] == [
        "failed", "skipped: needs 01_a", "skipped: needs 02_b", "ok", "failed",
    ]  # fmt: skip
    assert "never" not in out and "still done" in out and "\x1b" not in out
    assert "--- 01_a failed, cell 4 ---\n1 / (x - 1)\n" in out and "ZeroDivisionError" in out
    assert "--- 05_e failed, cell 4 ---\nos.kill" in out and "DeadKernelError" in out
    assert "Kernel died" not in err  # it is in the report


@pytest.mark.parametrize("kind", ["InputError", "Diverged"])
def test_bad_input_found_in_a_notebook_is_one_line_and_status_2(kind, artifacts, notebooks, capsys):
    toy(
        notebooks, "01_a",
        f"from tgd_lib.config import {kind}", f"raise {kind}('what, where, what to do')",
    )  # fmt: skip
    assert main([]) == 2
    out = capsys.readouterr().out
    assert "\nerror: what, where, what to do (01_a, cell 4)\n" in out and "Traceback" not in out


def test_what_is_not_selected_does_not_block(artifacts, notebooks, monkeypatch):
    monkeypatch.setattr(runner, "NEEDS", {"01_a": (), "02_b": ("01_a",)})
    toy(notebooks, "02_b")
    run_dir(resolve()).mkdir(parents=True)
    assert [o.status for o in runner.execute(["02_b"], resolve())] == ["ok"]


# ---------------------------------------------------------------- a full disk

SAFETENSORS = "Error while serializing: I/O error: No space left on device (os error 28)"
HALF = '{"cells": [{"cell_type": "code", "sou'  # of a notebook


@pytest.mark.parametrize(
    "said",
    [
        SAFETENSORS,
        "[Errno 28] No space left on device",
        f"[Errno 122] {os.strerror(errno.EDQUOT)}: 'weights.safetensors'",  # "Disc ..." on macOS
        "[Errno 27] File too large",
        "1000000 requested and 4096 written",
        "artifacts: no room left on the disk; make some and start again",
    ],
)
def test_a_full_disk_is_known_by_its_words(said):
    assert files.no_room(said)
    line = execution.room_wanted(said)
    assert "no room left on the disk" in line and "make some" in line and "\n" not in line


def test_other_errors_are_not_a_full_disk():
    assert not files.no_room("[Errno 2] No such file or directory: 'a'")


def test_a_half_written_notebook_does_not_kill_the_runner(tmp_path):
    (tmp_path / "a.ipynb").write_text(HALF)
    failure = execution.failure_of(OSError(28, "No space left on device"), tmp_path / "a.ipynb")
    assert (failure.cell, failure.source, failure.kind) == (None, "", "full")
    failure = execution.failure_of(RuntimeError("x"), tmp_path / "a.ipynb")
    assert failure.traceback == "RuntimeError: x" and failure.kind == "error"


def test_a_full_disk_stops_the_run_with_one_line_and_the_table(
    artifacts, notebooks, monkeypatch, capsys
):
    monkeypatch.setattr(runner, "NEEDS", {"01_a": (), "02_b": ()})
    toy(
        notebooks, "01_a",
        "from tgd_lib import config\nhalf = config.run_dir(config.resolve(profile)) / '01_a.ipynb'",
        f"half.write_text({HALF!r})",
        f"class SafetensorError(Exception): pass\nraise SafetensorError({SAFETENSORS!r})",
    )  # fmt: skip
    toy(notebooks, "02_b", "print('never')")
    assert main([]) == 2
    out = capsys.readouterr().out
    assert "never" not in out and "Traceback" not in out
    assert out.count(f"error: no room left on the disk ({SAFETENSORS}); make some and give") == 1
    table = out[out.index("notebook  seconds") :].splitlines()
    assert [line.split()[0] for line in table[:4]] == ["notebook", "01_a", "02_b", "all"]
    assert "failed" in table[1] and "skipped: no room left on the disk" in table[2]


def test_where_the_timings_cannot_be_written_the_table_comes_first(
    artifacts, notebooks, monkeypatch, capsys
):
    def full(outcomes, settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recording, "write_timings", full)
    toy(notebooks, "01_a", "print(1)")
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert "notebook  seconds" in out and "01_a" in out
    assert err.startswith("error: no room left on the disk") and err.count("\n") == 1


def test_where_nothing_can_be_written_it_is_one_line(artifacts, notebooks):
    """Files of at most a byte: what a full disk does, to the runner and to the kernel."""
    toy(notebooks, "01_a", "print(1)")
    run_dir(resolve()).mkdir(parents=True)
    process = start(
        notebooks, setup="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))"
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in out + err
    assert err.startswith("error: ") and err.count("\n") == 1


# ---------------------------------------------------------------- interruption and company


def start(
    notebooks: Path, *arguments: str, setup: str = "", before: list[str] | None = None
) -> subprocess.Popen:
    """The command line on one notebook, 01_a, in a process that does not ignore Ctrl-C."""
    code = f"""
import sys; from pathlib import Path
from tgd_lib.companion import command, runner, twins
twins.NOTEBOOKS, runner.NEEDS = Path({str(notebooks)!r}), {{"01_a": ()}}
{setup}
sys.exit(command.main({list(arguments)}))"""
    return subprocess.Popen(
        [*(before or []), sys.executable, "-c", code], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for(condition, seconds: float = 60):
    """`condition`'s first true answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def alive(pid: str | int) -> bool:
    """Whether a process still runs (one that waits to be reaped does not)."""
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sleeping(notebooks: Path) -> Path:
    """A notebook that writes its kernel's and a child's process ids to a file, then sleeps."""
    pids = notebooks / "pids"
    toy(
        notebooks, "01_a",
        "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '600'])",
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} ')",
        "time.sleep(600)",
    )  # fmt: skip
    return pids


@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_it_leaves_no_process_and_says_how_to_go_on(how, status, artifacts, notebooks):
    pids = sleeping(notebooks)
    process = start(notebooks)
    written = wait_for(
        lambda: pids.exists() and pids.read_text().endswith(" ") and pids.read_text()
    )
    process.send_signal(how)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert "the same command" in err and "Traceback" not in err and "Kernel" not in err
    assert not [p for p in written.split() if alive(p)]
    assert not (run_dir(resolve()) / runner.HOLDER).exists()


def test_killed_outright_it_leaves_no_kernel(artifacts, notebooks):
    pids = sleeping(notebooks)
    process = start(notebooks)
    written = wait_for(
        lambda: pids.exists() and pids.read_text().endswith(" ") and pids.read_text()
    )
    process.kill()
    process.wait()
    kernel, child = map(int, written.split())
    wait_for(lambda: not alive(kernel), 20)
    os.kill(child, signal.SIGKILL)  # the toy's own


@pytest.mark.slow
def test_a_second_run_of_the_same_waits_and_says_for_whom(artifacts, notebooks, capsys):
    go_on = notebooks / "go_on"
    toy(
        notebooks,
        "01_a",
        f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.05)",
    )
    first = start(notebooks)
    wait_for((run_dir(resolve()) / "01_a.ipynb").exists)
    assert main(["--no-wait"]) == 2
    refused = capsys.readouterr().err
    assert (
        f"process {first.pid} on {platform.node()}, since 20" in refused
        and refused.count("\n") == 1
    )
    second = start(notebooks)
    line = second.stdout.readline()
    assert f"waiting for process {first.pid} on {platform.node()}, since 20" in line
    other = start(notebooks, "--profile", "smoke")  # another folder: welcome
    go_on.write_text("")
    assert [p.wait(60) for p in (first, second, other)] == [0, 0, 0]
    assert main(["--no-wait"]) == 0


def test_one_that_waits_can_be_interrupted(artifacts, notebooks):
    toy(notebooks, "01_a")
    with runner.alone(run_dir(resolve()), wait=False):
        second = start(notebooks)
        assert f"waiting for process {os.getpid()} on" in second.stdout.readline()
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 143
    with runner.alone(run_dir(resolve()), wait=False):  # it let go
        pass


# ---------------------------------------------------------------- records


def test_record_brings_figures_and_twins_and_replaces_older_ones(
    artifacts, notebooks, figures, tmp_path, capsys
):
    for name in ("stale.svg", "networks/0a/record.json"):
        (figures / "quick" / name).parent.mkdir(parents=True, exist_ok=True)
        (figures / "quick" / name).write_text(str(ROOT))
    toy(
        notebooks, "01_a",
        "from tgd_lib import config\nout = config.run_dir(config.resolve(profile))",
        "(out / 'figures').mkdir(exist_ok=True)\nprint(out)",
        "(out / 'figures' / 'a.svg').write_text(f'<svg>{out}</svg>')",
        "(out / 'scratch.txt').write_text('not part of a record')",
    )  # fmt: skip
    # Of an earlier run, whose notebook drew it; the one that is recorded does not.
    (run_dir(resolve("quick")) / "figures").mkdir(parents=True)
    (run_dir(resolve("quick")) / "figures" / "gone.svg").write_text("<svg/>")
    assert main(["--record", "--data", str(tmp_path)]) == 0
    kept = sorted(str(p.relative_to(figures)) for p in figures.rglob("*") if p.is_file())
    assert kept == [
        "quick/figures/a.svg", "quick/networks/0a/record.json",
        "quick/run.json", "quick/timings.csv",
    ]  # fmt: skip
    assert (figures / "quick/networks/0a/record.json").read_text() == str(ROOT)  # left alone
    assert (figures / "quick/figures/a.svg").read_text() == "<svg>artifacts/runs/quick</svg>"
    assert str(tmp_path) not in (figures / "quick/run.json").read_text()
    assert twins.check(notebooks / "01_a.py", notebooks / "01_a.ipynb") == []
    assert "artifacts/runs/quick" in (notebooks / "01_a.ipynb").read_text()
    assert main(["--twins"]) == 0 and "01_a.ipynb: as it was" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("profile", "ran", "published"),
    [("quick", "03_distillation", True), ("quick", "04_ablations", False),
     ("smoke", "03_distillation", False)],
)  # fmt: skip
def test_a_record_brings_the_networks_of_a_profile_that_publishes(
    artifacts, figures, monkeypatch, profile, ran, published
):
    """Those of the notebook that publishes; without it, what lies there is an older run's."""
    made = run_dir(resolve(profile)) / "networks"
    made.mkdir(parents=True)
    asked = []
    add = "tgd_lib.study.published.add"
    monkeypatch.setattr(add, lambda made, folder: asked.append((made, folder.parent.name)))
    recording._replace(figures / profile, resolve(profile), [ran], whole=True)
    assert asked == ([(made, f".{profile}.new")] if published else [])


def test_the_results_of_a_record_are_a_page_of_their_own(artifacts, figures, monkeypatch):
    """In docs/results; what people wrote around them stays."""
    from tgd_lib.report import summary

    shutil.copytree(ROOT / "figures" / "quick", run_dir(resolve()))
    page = figures.parent / "docs" / "results" / "quick.md"
    for said in ("old results", "new results"):
        monkeypatch.setattr(summary, "block", lambda folder, profile, said=said: f"{said}\n")
        recording.record([], resolve(), whole=True)
        marks = f"<!-- results:quick -->\n{said}\n<!-- /results -->"
        assert page.read_text().count(marks) == 1
        page.write_text(page.read_text() + "prose\n")
    assert page.read_text().count("prose") == 2 and "old results" not in page.read_text()
    page.write_text("no marks\n")
    with pytest.raises(
        InputError, match="quick.md: put back its lines <!-- results:quick --> and <!-- /"
    ):
        recording.record([], resolve(), whole=True)


def test_a_run_says_whether_it_went_on_from_results(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "kept_results", lambda profile: tmp_path)
    assert recording._described_run(resolve())["from_results"] is False  # asked for, and none there
    (tmp_path / "scratch_0.json").write_text("{}")
    assert recording._described_run(resolve())["from_results"] is True
    monkeypatch.undo()
    monkeypatch.delenv("TGD_FROM_RESULTS", raising=False)
    assert recording._described_run(resolve())["from_results"] is False


def test_a_recording_that_was_killed_leaves_the_older_record_and_no_trace(artifacts, figures):
    """Whether it was killed while it made the new one, or between its two renames."""
    run = run_dir(resolve())
    run.mkdir(parents=True)
    (run / "run.json").write_text("new")
    for killed in ("making", "renaming"):
        older = figures / ("quick" if killed == "making" else ".quick.old")
        shutil.rmtree(figures / "quick", ignore_errors=True)
        (older / "networks").mkdir(parents=True)
        (older / "networks" / "kept").write_text("published")
        (figures / ".quick.new").mkdir()
        (figures / ".quick.new" / "half").write_text("made")
        recording.record([], resolve(), whole=True)
        assert [p.name for p in figures.iterdir()] == ["quick"]
        kept = sorted(p.name for p in (figures / "quick").rglob("*") if p.is_file())
        assert kept == ["kept", "run.json"]


def test_twins_go_on_showing_a_more_telling_record(artifacts, notebooks, figures, capsys):
    """As long as they have its outputs: a change of the source leaves cells without any."""
    (figures / "study" / "records").mkdir(parents=True)
    toy(notebooks, "01_a", "print(profile)")
    assert main(["--record"]) == 0  # no twin yet: this run's is better than none
    twin = notebooks / "01_a.ipynb"
    assert (figures / "quick" / "run.json").exists() and twins.executed(twin)
    # A better record that the twin does not show is no reason to keep what it shows.
    assert main(["--record"]) == 0
    assert "goes on showing" not in capsys.readouterr().out
    first = twin.read_text().replace('"profile": "quick"', '"profile": "study"')
    twin.write_text(first)
    assert main(["--record"]) == 0
    assert "01_a goes on showing study" in capsys.readouterr().out
    assert twin.read_text() == first
    toy(notebooks, "01_a", "print(profile, 2)")
    assert main(["--twins"]) == 0 and not twins.executed(twin)
    assert main(["--record"]) == 0 and twins.executed(twin)


def test_notebooks_are_recorded_one_by_one(artifacts, notebooks, figures, monkeypatch, capsys):
    """--only: what others have drawn stays, and what there is to say of whole runs is not said."""
    monkeypatch.setattr(runner, "NEEDS", {"01_a": (), "02_b": ()})
    figure = "out = config.run_dir(config.resolve(profile)) / 'figures'\nout.mkdir(exist_ok=True)"
    for name in ("01_a", "02_b"):
        drawn = f"(out / '{name[:2]}_a.svg').write_text(profile)"
        toy(notebooks, name, "from tgd_lib import config", figure, drawn)
    older = figures / "quick" / "figures"
    older.mkdir(parents=True)
    for name in ("01_a.svg", "01_gone.svg", "02_a.svg"):
        (older / name).write_text("older")
    assert main(["--only", "01", "--record"]) == 0
    said = capsys.readouterr().out
    assert "quick, of 01_a alone; 1 notebooks in" in said
    kept = {p.name: p.read_text() for p in (figures / "quick").rglob("*") if p.is_file()}
    about = {name: kept.pop(name) for name in recording.ABOUT}  # there was none before
    assert '"profile": "quick"' in about["run.json"]
    assert kept == {"01_a.svg": "quick", "02_a.svg": "older"}
    assert twins.executed(notebooks / "01_a.ipynb") and not (notebooks / "02_b.ipynb").exists()


def test_what_is_said_of_a_run_follows_its_notebooks(artifacts, notebooks, figures, monkeypatch):
    """Timings notebook by notebook; versions are of the run that the page of results is of."""
    names = ["02_b", "04_ablations", "06_cost"]
    monkeypatch.setattr(runner, "NEEDS", dict.fromkeys(names, ()))
    runs = iter(names)
    monkeypatch.setattr(recording, "_described_run", lambda settings: {"run": next(runs)})
    said = []
    for name in names:
        toy(notebooks, name, "print(profile)")
        assert main(["--only", name[:2], "--record"]) == 0
        said.append(json.loads((figures / "quick/run.json").read_text())["run"])
    assert said == ["02_b", "04_ablations", "04_ablations"]
    with open(figures / "quick/timings.csv") as table:
        assert [row["notebook"] for row in csv.DictReader(table)] == names


@pytest.mark.parametrize(("name", "drawn"), [("04_ablations", True), ("06_cost", False)])
def test_the_page_of_results_follows_what_it_is_drawn_from(
    artifacts, notebooks, figures, monkeypatch, name, drawn
):
    written = []
    monkeypatch.setattr(recording, "_write_results", lambda *_: written.append(name))
    monkeypatch.setattr(runner, "NEEDS", {"01_a": (), name: ()})
    toy(notebooks, name, "print(profile)")
    assert main(["--only", name[:2], "--record"]) == 0
    assert written == [name] * drawn


@pytest.mark.slow
def test_each_twin_goes_on_showing_its_own_more_telling_record(
    artifacts, notebooks, figures, monkeypatch
):
    monkeypatch.setattr(runner, "NEEDS", {"01_a": (), "02_b": ()})
    (figures / "study" / "records").mkdir(parents=True)
    for name in ("01_a", "02_b"):
        toy(notebooks, name, "print(profile)")
    assert main(["--record"]) == 0
    first = notebooks / "01_a.ipynb"
    telling = first.read_text().replace('"profile": "quick"', '"profile": "study"')
    first.write_text(telling)
    (notebooks / "02_b.ipynb").unlink()
    assert main(["--record"]) == 0
    assert first.read_text() == telling and twins.executed(notebooks / "02_b.ipynb")


def test_a_failed_run_is_not_recorded(artifacts, notebooks, figures, capsys):
    toy(notebooks, "01_a", "raise SystemError")
    assert main(["--record"]) == 1
    assert "not recorded" in capsys.readouterr().out
    assert not figures.exists() and not list(notebooks.glob("*.ipynb"))


# ---------------------------------------------------------------- without notebooks


@pytest.mark.slow
def test_train_makes_every_network_and_a_plan_then_finds_them(artifacts, monkeypatch, capsys):
    from tgd_lib.study import methods

    monkeypatch.setitem(methods.GRIDS, "all", ("tgd_logits",))
    size = ["--profile", "smoke", "-p", "n_train", "64", "-p", "n_test", "40", "-p", "holdout", "0"]
    assert main(["--train", *size]) == 0
    said = capsys.readouterr().out
    assert (
        said.count("% of 40 test images") == len(methods.TABLE) + 1
        and "TGD, logits only, seed 0" in said
    )
    assert main(["--plan", *size]) == 0
    assert "10 networks, 10 of them there" in capsys.readouterr().out
    assert main(["--plan", *size, "--workers", "2"]) == 0
    assert "limited by" in capsys.readouterr().out


@pytest.mark.slow
def test_what_diverges_is_said_and_the_rest_is_trained(artifacts, monkeypatch, capsys):
    """And --force trains all of it again."""
    from tgd_lib.study import methods

    wild = dataclasses.replace(methods.METHODS["tgd_alpha1"], name="wild", gamma=1e30, start=None)
    monkeypatch.setitem(methods.METHODS, "wild", wild)
    monkeypatch.setattr(methods, "of", lambda settings: ("scratch", "wild"))
    monkeypatch.setattr(methods, "EXAMINED", ("scratch", "wild"))
    size = ["--profile", "smoke", "-p", "n_train", "64", "-p", "n_test", "40", "-p", "holdout", "0"]
    made = []
    for force in ([], ["--force"]):
        assert main(["--train", *size, *force]) == 0
        said = capsys.readouterr().out
        assert f"{wild.label}, seed 0: diverged, or its teacher or start did" in said
        assert "Scratch, seed 0: " in said
        records = [files.read_json(p) for p in artifacts.glob("network/*/record.json")]
        made.append(max(r["made_unix"] for r in records if r["method"] == "scratch"))
    assert made[1] > made[0]


def test_verify_takes_a_profile_that_is_named_in_either_way(figures, monkeypatch):
    from tgd_lib.study import published

    asked = []
    monkeypatch.setattr(published, "published_profiles", lambda folder: ["study", "quick"])
    monkeypatch.setattr(published, "verify", lambda s, folder: asked.append(s.profile) or 0)
    assert main(["--verify", "-p", "profile", "quick"]) == 0 and asked == ["quick"]
    assert main(["--verify", "--profile", "quick"]) == 0 and asked == ["quick"] * 2


def test_verify_says_when_nothing_is_recorded(figures, capsys):
    assert main(["--verify"]) == 2
    assert "published: none" in capsys.readouterr().err
