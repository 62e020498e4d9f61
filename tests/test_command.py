"""The command line: what is refused before anything runs, and that help is cheap."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tgd_lib.companion import arguments, command, runner, twins
from tgd_lib.companion.arguments import arguments_of, settings_of
from tgd_lib.companion.command import main
from tgd_lib.config import PARAMETERS, PROFILES, ROOT


@pytest.fixture(autouse=True)
def artifacts(tmp_path, monkeypatch) -> Path:
    """An empty store, and no notebook anywhere."""
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr(twins, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path / "artifacts"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # what does not exist, or cannot be
        ("-p epoch 3", "did you mean 'epochs'"),
        ("-p epochs three", "not a whole number"),
        ("-p alpha 1.2", "at most 1"),
        ("--profile quik", "did you mean 'quick'"),
        ("--device gpu", "choose from auto, cpu, cuda"),
        ("--only 55", "no such notebook"),
        ("--data /not/there", "does not exist"),
        ("-p dataset folder", "needs data_dir"),
        ("--prof quick", "unrecognized arguments: --prof quick; --help"),
        ("quick", "unrecognized arguments: quick; --help"),
        ("-p epochs", "expected 2 arguments; --help"),
        ("", "missing"),  # no notebook is there
        # nothing, as "$UNSET" gives it
        ("--profile ''", "--profile '': empty"),
        ("--data ''", "--data '': empty"),
        ("--device ' '", "--device ' ': empty"),
        ("--only ''", "--only '': empty"),
        ("-p data_dir ''", "-p data_dir '': empty"),
        ("--verify --profile ''", "--profile '': empty"),
        ("--drop-banks --twins", "--twins and --drop-banks: one at a time"),
        ("--drop-banks --force", "--drop-banks and --force: do not go together"),
        # twice
        ("-p epochs 2 -p epochs 3", "epochs: given twice (2, 3)"),
        ("--data a -p data_dir b", "data_dir: given twice"),
        ("--device cpu -p device cpu", "device: given twice"),
        ("--profile smoke --profile quick", "--profile: given twice"),
        # what would be left undone
        ("--plan --train", "--plan and --train: one at a time"),
        ("--list --twins --verify", "--list and --verify and --twins: one at a time"),
        ("--plan --record", "--plan and --record: do not go together"),
        ("--train --only 01", "--train and --only: do not go together"),
        ("--plan --force", "--plan and --force: do not go together"),
        ("--twins --profile smoke", "--twins and --profile: do not go together"),
        ("--list -p epochs 3", "--list and -p: do not go together"),
        ("--verify --no-wait", "--verify and --no-wait: do not go together"),
        ("--record -p epochs 3", "--record"),
        ("--profile smoke --test", "must come first"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, says, artifacts, capsys):
    assert main(shlex.split(arguments)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and error.startswith("error: ")
    made = {path.name for path in artifacts.rglob("*") if path.is_file()}
    assert made <= {".lock"}  # of what was refused at the last moment, holding the run's folder


def test_unwritable_artifacts_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "file"))
    assert main([]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_cuda_where_there_is_none_is_one_line(artifacts, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda"]) == 2
    assert "PyTorch finds no CUDA device here" in capsys.readouterr().err and not artifacts.exists()


def test_data_folder_counts_from_where_the_caller_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    settings = settings_of(arguments_of(["--data", "photos", "-p", "epochs", "3"]))
    assert settings.data_dir == str(tmp_path / "photos") and settings.epochs == 3


def test_every_verb_has_somebody_to_do_it():
    assert set(command.DO) == set(arguments.TAKES) - {"test"}
    assert all(
        set(arguments.TAKES[verb]) <= {*arguments.TAKES["run"], *arguments.TAKES["train"]}
        for verb in arguments.TAKES
    )


# ---------------------------------------------------------------- without packages, and at once


@pytest.mark.parametrize("asked", ["--list", "--help"])
def test_words_need_the_standard_library_alone(asked):
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "tgd_lib.companion", asked],  # -S: no installed package
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    if asked == "--list":
        assert {"notebooks", "profiles (--profile)", "parameters (-p NAME VALUE)"} <= set(lines)
        first = {line.split()[0] for line in lines if line}
        assert first >= {*runner.NEEDS, *PROFILES, *PARAMETERS} and "(missing)" not in done.stdout
    else:
        statuses = [line.split()[0] for line in lines[lines.index("exit status:") + 1 :][:6]]
        assert statuses == ["0", "1", "2", "129", "130", "143"]


def test_an_exit_status_of_the_help_is_the_signal_s():
    assert [128 + number for number in sorted(command.STOPPING)] == [129, 130, 143]


@pytest.mark.parametrize("held", [True, False], ids=["held back", "not"])
def test_ctrl_c_in_the_first_moment_is_answered(held):
    """Held back by run_all.sh until there is somebody to answer; or it comes amid the imports."""
    code = """
import os, runpy, signal, sys

class Importing:
    def find_spec(name, path, target=None):
        if name == "tgd_lib.companion.command":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Importing)
sys.argv = ["x", "--list"]
"""
    if held:
        code += "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
    code += "runpy.run_module('tgd_lib.companion', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 130 and not done.stdout
    assert (
        done.stderr.strip().startswith("interrupted: the same command")
        and "Traceback" not in done.stderr
    )


def test_a_signal_that_was_ignored_stays_ignored(monkeypatch):
    """nohup's way to outlive a terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        seen = []
        monkeypatch.setitem(
            command.DO, "list", lambda _: seen.append(signal.getsignal(signal.SIGHUP))
        )
        main(["--list"])
        assert seen == [signal.SIG_IGN]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nobody_reads_on():
    code = "import sys; from tgd_lib.companion.command import main; sys.exit(main(['--list']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    )
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_a_full_disk_anywhere_is_one_line(monkeypatch, capsys):
    def full(_):
        raise RuntimeError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setitem(command.DO, "list", full)
    assert main(["--list"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no room left on the disk (") and error.count("\n") == 1


def test_a_bug_is_not_taken_for_bad_input(monkeypatch):
    def bug(_):
        raise ValueError("a bug")

    monkeypatch.setitem(command.DO, "list", bug)
    with pytest.raises(ValueError, match="a bug"):
        main(["--list"])


@pytest.mark.parametrize(
    "given, said",
    [
        (["--train", "--workers", "0"], "at least 1"),
        (["--train", "--workers", "two"], "a whole number"),
        (["--train", "--workers", ""], "empty"),
        (["--train", "--workers", "2", "--scheduler", "tcp://x:1"], "do not go together"),
        (["--train", "--no-shared-store"], "with --scheduler only"),
        (["--workers", "2"], "goes with --train"),
        (["--plan", "--scheduler", "tcp://x:1"], "do not go together"),
    ],
)
def test_workers_are_asked_for_with_care(given, said, capsys):
    assert main(given) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_banks_are_dropped_and_nothing_else(artifacts, capsys):
    from tgd_lib.lab.store import Store

    def build(folder):
        (folder / "x").write_bytes(bytes(50_000_000))
        return {}

    store = Store()
    for kind in ("teacher_bank", "network"):
        store.make(kind, {"q": 1}, build)
    assert main(["--drop-banks"]) == 0
    assert "0.1 GB freed" in capsys.readouterr().out
    assert not list((store.root / "teacher_bank").iterdir())
    assert list((store.root / "network").glob("*/x"))
