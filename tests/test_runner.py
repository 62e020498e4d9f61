"""The runner on toy notebooks: what runs, in which order, and what happens when something goes wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tgd_lib.companion import runner
from tgd_lib.config import PARAMETERS, ROOT, InputError, resolve, run_dir
from tgd_lib.companion.execution import parameter_names, prepare

PARAMETERS_CELL = "\n".join(
    ['# %% tags=["parameters"]', 'profile: str = "quick"']
    + [f"{name}: {p.kind.__name__} = None" for name, p in PARAMETERS.items() if name != "profile"]
)


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
def notebooks(tmp_path) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    return folder


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
    order = runner.in_order(runner.NEEDS)
    assert sorted(order) == sorted(runner.NEEDS)
    assert order.index("00_start_here") > order.index("03_distillation") > order.index("02_teachers")
    assert runner.in_order(["00_start_here", "01_persistence_images"])[0] == "00_start_here"


# ---------------------------------------------------------------- what is refused before anything runs


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "epoch", "3"], "did you mean 'epochs'"),
        (["-p", "epochs", "three"], "not a whole number"),
        (["-p", "alpha", "1.2"], "at most 1"),
        (["--profile", "quik"], "did you mean 'quick'"),
        (["--device", "gpu"], "choose from auto, cpu, cuda"),
        (["--only", "55"], "no such notebook"),
        (["--record", "-p", "epochs", "3"], "--record"),
        (["--record", "--only", "01"], "--record"),
        (["--data", "/not/there"], "does not exist"),
        (["-p", "dataset", "folder"], "needs data_dir"),
        (["--profile", "smoke", "--test"], "must come first"),
        ([], "missing"),  # no notebook is there
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, says, artifacts, notebooks, capsys):
    assert runner.main(arguments, notebooks=notebooks) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not list(artifacts.rglob("*.ipynb"))


def test_unwritable_artifacts_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "file"))
    assert runner.main([]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_cuda_where_there_is_none_is_one_line(artifacts, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runner.main(["--device", "cuda"]) == 2
    assert "PyTorch finds no CUDA device here" in capsys.readouterr().err and not artifacts.exists()


def test_a_notebook_whose_parameters_differ_is_refused(notebooks):
    source = toy(notebooks, "01_a")
    assert [c.cell_type for c in prepare(source).cells] == ["markdown", "code"]
    source.write_text(source.read_text().replace("epochs: int", "epoch: int"))
    with pytest.raises(InputError, match="parameters are profile, .*epoch, "):
        prepare(source)
    source.write_text("# %%\nprint(1)\n")
    with pytest.raises(InputError, match='0 cells tagged "parameters"'):
        prepare(source)


def test_parameter_names_come_from_the_syntax_tree():
    assert parameter_names("a: int | None = None  # it's here\nb = 2\n") == ["a", "b"]


def test_data_folder_counts_from_where_the_caller_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    settings = runner._settings(runner._arguments(["--data", "photos", "-p", "epochs", "3"]))
    assert settings.data_dir == str(tmp_path / "photos") and settings.epochs == 3


def test_starts_without_heavy_imports():
    code = "import sys, tgd_lib.companion.runner as r; r.main(['--list']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    *listed, modules = done.stdout.splitlines()
    assert not {"torch", "numpy", "papermill", "matplotlib"} & set(modules.split())
    assert {"notebooks", "profiles (--profile)", "parameters (-p NAME VALUE)"} <= set(listed)
    assert all(any(line.split()[:1] == [name] for line in listed) for name in [*runner.NEEDS, *PARAMETERS])


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
        "print('given', profile, epochs, alpha, seeds)\nprint(os.getcwd())\nprint(os.environ['MPLBACKEND'])",
        "import time\nprint('to stderr', file=sys.stderr)\ntime.sleep(1)",
    )  # fmt: skip
    arguments = ["--profile", "smoke", "-p", "epochs", "3", "-p", "alpha", "0.5", "--force"]
    assert runner.main(arguments, notebooks=notebooks, needs={"01_a": ()}) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    folder = run_dir(resolve("smoke", epochs=3, alpha=0.5))
    assert sys.executable in lines and f"env {artifacts} True" in lines and str(notebooks) in lines
    assert "given smoke 3 0.5 None" in lines and "to stderr" in err
    assert any("inline" in line for line in lines)
    assert lines.index("[1/1] 01_a") < lines.index(sys.executable)
    assert (folder / "01_a.ipynb").exists() and folder.is_relative_to(artifacts)
    (row,) = csv.DictReader(open(folder / "timings.csv"))
    assert row["notebook"] == "01_a" and row["status"] == "ok"
    assert 0 < float(row["seconds"]) < 120 and 300 < int(row["peak_mb"]) < 2000
    assert (folder / "run.json").exists()


def test_a_failure_stops_those_that_need_it_and_no_others(artifacts, notebooks, capsys):
    needs = {"01_a": (), "02_b": ("01_a",), "03_c": ("02_b",), "04_d": (), "05_e": ()}
    toy(notebooks, "01_a", "x = 1", "1 / (x - 1)", "print('never')")
    toy(notebooks, "02_b")
    toy(notebooks, "03_c")
    toy(notebooks, "04_d", "print('still done')")
    toy(notebooks, "05_e", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)", "print('never')")
    assert runner.main([], notebooks=notebooks, needs=needs) == 1
    out = capsys.readouterr().out
    rows = list(csv.DictReader(open(run_dir(resolve()) / "timings.csv")))
    assert [r["status"] for r in rows] == [
        "failed", "skipped: needs 01_a", "skipped: needs 02_b", "ok", "failed",
    ]  # fmt: skip
    assert "never" not in out and "still done" in out and "\x1b" not in out
    assert "--- 01_a failed, cell 4 ---\n1 / (x - 1)\n" in out and "ZeroDivisionError" in out
    assert "--- 05_e failed, cell 4 ---\nos.kill" in out and "DeadKernelError" in out


def test_bad_input_found_in_a_notebook_is_one_line_too(artifacts, notebooks, capsys):
    toy(notebooks, "01_a", "from tgd_lib.config import InputError", "raise InputError('what, where, what to do')")
    assert runner.main([], notebooks=notebooks, needs={"01_a": ()}) == 1
    out = capsys.readouterr().out
    assert "\nerror: what, where, what to do\n" in out and "Traceback" not in out


def test_what_is_not_selected_does_not_block(artifacts, notebooks):
    toy(notebooks, "02_b")
    run_dir(resolve()).mkdir(parents=True)
    needs = {"01_a": (), "02_b": ("01_a",)}
    outcomes = runner.execute(["02_b"], resolve(), needs=needs, notebooks=notebooks)
    assert [o.status for o in outcomes] == ["ok"]


# ---------------------------------------------------------------- interruption and company


def start(notebooks: Path, *arguments: str) -> subprocess.Popen:
    """The runner on one notebook, 01_a, in a process of its own (that does not ignore Ctrl-C)."""
    code = (
        "import sys; from pathlib import Path; from tgd_lib.companion.runner import main;"
        f"sys.exit(main({list(arguments)}, notebooks=Path({str(notebooks)!r}), needs={{'01_a': ()}}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
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
    """A notebook that writes its kernel's process ids (and a child's) to the file returned, then sleeps."""
    pids = notebooks / "pids"
    toy(
        notebooks, "01_a", "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '600'])",
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} ')",
        "time.sleep(600)",
    )  # fmt: skip
    return pids


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_process_and_says_how_to_go_on(how, artifacts, notebooks):
    pids = sleeping(notebooks)
    process = start(notebooks)
    written = wait_for(lambda: pids.exists() and pids.read_text().endswith(" ") and pids.read_text())
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command" in err and "Traceback" not in err
    assert not [p for p in written.split() if alive(p)]


def test_killed_outright_it_leaves_no_kernel(artifacts, notebooks):
    pids = sleeping(notebooks)
    process = start(notebooks)
    written = wait_for(lambda: pids.exists() and pids.read_text().endswith(" ") and pids.read_text())
    process.kill()
    process.wait()
    kernel, child = map(int, written.split())
    wait_for(lambda: not alive(kernel), 20)
    os.kill(child, signal.SIGKILL)  # the toy's own


def test_a_second_run_of_the_same_is_refused_and_does_no_harm(artifacts, notebooks, capsys):
    go_on = notebooks / "go_on"
    toy(notebooks, "01_a", f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.05)")
    first = start(notebooks)
    wait_for((run_dir(resolve()) / "01_a.ipynb").exists)
    assert runner.main([], notebooks=notebooks, needs={"01_a": ()}) == 2
    assert "another run is writing there" in capsys.readouterr().err
    other = start(notebooks, "--profile", "smoke")  # another folder: welcome
    go_on.write_text("")
    assert first.wait(60) == 0 and other.wait(60) == 0
    assert runner.main([], notebooks=notebooks, needs={"01_a": ()}) == 0


# ---------------------------------------------------------------- records


def test_record_brings_figures_and_twins_and_replaces_older_ones(artifacts, notebooks, tmp_path, capsys):
    figures = tmp_path / "figures"
    (figures / "quick").mkdir(parents=True)
    (figures / "quick" / "stale.svg").write_text("")
    toy(
        notebooks, "01_a", "from tgd_lib import config\nout = config.run_dir(config.resolve(profile))",
        "(out / 'figures').mkdir(exist_ok=True)\nprint(out)",
        "(out / 'figures' / 'a.svg').write_text(f'<svg>{out}</svg>')",
    )  # fmt: skip
    options = dict(notebooks=notebooks, needs={"01_a": ()}, figures=figures)
    assert runner.main(["--record", "--data", str(tmp_path)], **options) == 0
    kept = sorted(str(p.relative_to(figures)) for p in figures.rglob("*") if p.is_file())
    assert kept == ["quick/figures/a.svg", "quick/run.json", "quick/timings.csv"]
    assert (figures / "quick/figures/a.svg").read_text() == "<svg>artifacts/runs/quick</svg>"
    assert "somewhere" not in (figures / "quick/run.json").read_text()
    assert runner.twins.check(notebooks / "01_a.py", notebooks / "01_a.ipynb") == []
    assert "artifacts/runs/quick" in (notebooks / "01_a.ipynb").read_text()
    assert runner.main(["--twins"], **options) == 0 and "01_a.ipynb: as it was" in capsys.readouterr().out


def test_twins_go_on_showing_a_more_telling_record(artifacts, notebooks, tmp_path, capsys):
    figures = tmp_path / "figures"
    (figures / "cifar10-small").mkdir(parents=True)
    toy(notebooks, "01_a", "print(profile)")
    assert runner.main(["--record"], notebooks=notebooks, needs={"01_a": ()}, figures=figures) == 0
    assert (figures / "quick" / "run.json").exists() and not list(notebooks.glob("*.ipynb"))
    assert "the notebooks go on showing cifar10-small" in capsys.readouterr().out


def test_a_failed_run_is_not_recorded(artifacts, notebooks, tmp_path, capsys):
    toy(notebooks, "01_a", "raise SystemError")
    figures = tmp_path / "figures"
    assert runner.main(["--record"], notebooks=notebooks, needs={"01_a": ()}, figures=figures) == 1
    assert "not recorded" in capsys.readouterr().out
    assert not figures.exists() and not list(notebooks.glob("*.ipynb"))


# ---------------------------------------------------------------- without notebooks


def test_train_makes_every_network_and_a_plan_then_finds_them(artifacts, monkeypatch, capsys):
    from tgd_lib.study import methods

    monkeypatch.setitem(methods.GRIDS, "all", ("tgd_logits",))
    size = ["--profile", "smoke", "-p", "n_train", "64", "-p", "n_test", "40", "-p", "holdout", "0"]
    assert runner.main(["--train", *size]) == 0
    said = capsys.readouterr().out
    assert said.count("% of 40 test images") == len(methods.TABLE) + 1 and "TGD, logits only, seed 0" in said
    assert runner.main(["--plan", *size]) == 0
    assert "9 networks, 9 of them there" in capsys.readouterr().out


def test_verify_says_when_nothing_is_recorded(tmp_path, capsys):
    assert runner.main(["--verify"], figures=tmp_path) == 2
    assert "recorded: none" in capsys.readouterr().err
