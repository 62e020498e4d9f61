"""Several workers: the same bytes as one process; workers killed, of another version, full, or not
there.
"""

import errno
import fcntl
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import filelock
import psutil
import pytest

from tgd_lib import bank, config
from tgd_lib.companion import cluster, crew, graph, schedule, worker
from tgd_lib.companion.worker import Job, Outcome, Source, source
from tgd_lib.config import ROOT, InputError, resolve
from tgd_lib.files import read_json
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.store import Store, key_of
from tgd_lib.study import methods
from tgd_lib.study.specs import specs_of

needs_dask = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("distributed") is None,
        reason=f"Dask is not installed: {crew.INSTALL}",
    ),
]
NETWORK = "network/*/MANIFEST.json"  # the first of these: something has been trained
TIMES = {"made", "made_unix", "seconds", "training_seconds", "history", "worker"}  # what may differ


# ---------------------------------------------------------------- without Dask


def test_workers_share_the_cores_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(config, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [crew.threads(n) for n in (1, 3, 9)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert crew.threads(3) == 5


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert config.cores() == 6


def test_workers_take_no_more_memory_than_the_container_leaves(monkeypatch):
    monkeypatch.setattr(bank, "_left_in_container", lambda: 6e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2e11))
    asked = []
    shares = crew._memory(2, lambda room, gpu: asked.append(room) or [])
    assert asked == [6e9] and sum(shares) <= 6e9


HERE = Source("aaa", "c0ffee", (("numpy", "2.0"), ("torch", "2.15")))


def test_what_differs_is_said_in_a_line():
    assert worker.difference(HERE, HERE) is None
    assert "sources bbb, here aaa" in worker.difference(HERE, replace(HERE, code="bbb"))
    assert "another commit (deadbeef" in worker.difference(HERE, replace(HERE, commit="deadbeef01"))
    assert worker.difference(HERE, replace(HERE, commit=None)) is None  # a copy without git
    older = replace(HERE, versions=(("numpy", "2.0"), ("torch", "2.14")))
    assert worker.difference(HERE, older) == "torch 2.14, here 2.15"
    assert worker.difference(HERE, replace(HERE, versions=())) == "numpy None, here 2.0"


def test_records_get_a_workers_number_and_no_machines_name():
    names = [3, "3", "SLURMCluster-12", "tcp://10.0.0.1:4001", "node.site.org-4:1", None]
    assert [worker.number(n) for n in names] == [3, 3, 12, None, None, None]


@pytest.fixture
def made(tmp_path):
    """An artefact in a store of its own."""
    store = Store(tmp_path / "theirs", newer_than=0)

    def build(folder):
        (folder / "x.bin").write_bytes(bytes(range(9)))
        return {"answer": 42}

    return store.make("evaluation", {"q": 1}, build)


def test_what_is_sent_arrives_and_is_found(made, tmp_path):
    ours = Store(tmp_path / "ours", newer_than=0)
    for _ in range(2):  # the second time it is there already
        worker.unpack(worker.pack(made), ours.root)
    assert ours.find("evaluation", {"q": 1}).record == made.record
    assert [p.name for p in (ours.root / "evaluation").iterdir()] == [made.key]


def test_a_network_of_other_bits_takes_the_place_of_one_s_own(tmp_path):
    """Trained here, lost, and trained again elsewhere: what stood on the first one goes as well."""
    stores = [Store(tmp_path / name, newer_than=0) for name in ("ours", "theirs")]

    def network(value):
        def build(folder):
            (folder / "weights.safetensors").write_bytes(bytes([value]))
            return {"value": value}

        return build

    ours, theirs = (s.make("network", {"q": 1}, network(i)) for i, s in enumerate(stores))
    student = stores[0].make("network", {"teachers": [ours.key]}, network(7))
    for asked in ({"network": student.key}, {"network": ours.key}, {"network": "another"}):
        stores[0].make("evaluation", asked, network(3))
    assert worker.unpack(worker.pack(ours), stores[0].root) is False  # the very one
    assert worker.unpack(worker.pack(theirs), stores[0].root) is True
    now = Store(stores[0].root, newer_than=0)
    assert now.find("network", {"q": 1}).record["value"] == 1
    assert now.find("network", {"teachers": [ours.key]}) is None
    assert [p.name for p in (now.root / "evaluation").iterdir()] == [
        key_of("evaluation", {"network": "another"})
    ]
    assert len(list((now.root / "set-aside").iterdir())) == 4  # nothing is deleted
    assert worker.unpack(worker.pack(theirs), now.root) is False
    parcel = worker.pack(ours)
    parcel.files["MANIFEST.json"] = b"{"
    with pytest.raises(InputError, match="arrived damaged"):
        worker.unpack(parcel, now.root)
    assert now.find("network", {"q": 1}).record["value"] == 1


@pytest.mark.parametrize("name", ["x.bin", "record.json", "MANIFEST.json"])
def test_what_arrives_damaged_is_refused(made, tmp_path, name):
    parcel = worker.pack(made)
    parcel.files[name] = parcel.files[name][:-3] + b"???"
    with pytest.raises(InputError, match="arrived damaged") as error:
        worker.unpack(parcel, tmp_path / "ours")
    assert "\n" not in str(error.value)
    assert Store(tmp_path / "ours", newer_than=0).find("evaluation", {"q": 1}) is None


def test_what_arrives_stays_in_its_folder(made, tmp_path):
    parcel = worker.pack(made)
    parcel.files["../outside"] = b""
    with pytest.raises(InputError, match="no file's"):
        worker.unpack(parcel, tmp_path / "ours")


def test_what_cannot_be_asked_for_is_one_line():
    for options in (
        {"workers": 0},
        {"workers": -2},
        {"scheduler": "x", "force": True, "shared": False},
    ):
        with pytest.raises(InputError) as error:
            cluster.train(resolve("smoke"), **options)
        assert "\n" not in str(error.value)


def test_a_student_can_do_without_its_bank_and_not_without_its_teacher():
    kinds = {"t": "network", "bank": "bank", "student": "network", "seen": "evaluation"}
    needs = {"t": (), "bank": ("t",), "student": ("t", "bank"), "seen": ("student",)}
    tasks = [schedule.Task(n, needs[n], kind=kinds[n]) for n in kinds]
    run = cluster.Run(None, None, tasks, None, memory=1e9, workers=1)
    run.outcomes |= {"t": Outcome("done"), "bank": Outcome("failed")}
    assert run._hopeless(run.tasks["student"]) is None
    run.outcomes["t"] = Outcome("diverged")
    assert run._hopeless(run.tasks["bank"]) == run._hopeless(run.tasks["student"]) == "needs t"


def test_without_dask_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="requirements-cluster.txt") as error:
        cluster.train(resolve("smoke"), workers=2)
    assert "\n" not in str(error.value)


def test_the_time_left_is_that_of_the_rest_at_the_speed_so_far():
    tasks = {
        t.name: t
        for t in [
            schedule.Task("a", (), 2.0),
            schedule.Task("b", ("a",), 3.0),
            schedule.Task("c", ("a",), 3.0),
        ]
    }
    done = {"a": Outcome("done", seconds=4.0)}
    assert cluster.remaining(tasks, {}, 1) == 8
    assert cluster.remaining(tasks, done, 1) == 12
    assert cluster.remaining(tasks, done, 2) == 6


def test_the_progress_counts_every_task_once():
    tasks = {str(i): schedule.Task(str(i)) for i in range(6)}
    outcomes = {"0": Outcome("done"), "1": Outcome("diverged"), "2": Outcome("skipped")}
    line = cluster.Progress(tasks, outcomes, workers=2).line(started=3)
    assert line.startswith("1 done, 2 running, 1 waiting, 2 failed; end about ")


# ---------------------------------------------------------------- locks, as docs/cluster.md says

MAKER = """
import sys, time
from pathlib import Path
from tgd_lib.lab.store import Store
def build(folder):
    with open(sys.argv[2], "a") as log: log.write(str(Path(Store.__module__)))
    time.sleep(0.5)
    return {}
Store(Path(sys.argv[1]), newer_than=0).make("evaluation", {"q": 1}, build)
"""


def test_two_clones_on_one_folder_make_a_thing_once(tmp_path):
    log, makers = tmp_path / "log", []
    for name in ("one", "two"):
        clone = tmp_path / name
        shutil.copytree(
            ROOT / "tgd_lib", clone / "tgd_lib", ignore=shutil.ignore_patterns("__pycache__")
        )
        command = [sys.executable, "-P", "-c", MAKER, str(tmp_path / "store"), str(log)]
        makers.append(
            subprocess.Popen(
                command, env=os.environ | {"PYTHONPATH": str(clone)}, stdout=subprocess.DEVNULL
            )
        )
    assert [m.wait(timeout=60) for m in makers] == [0, 0]
    assert log.read_text() == "tgd_lib.lab.store"


def test_the_lock_file_of_a_dead_host_holds_nobody_up(tmp_path):
    store = Store(tmp_path, newer_than=0)
    with store.claim("evaluation", {"q": 1}) as claim:
        key = claim.folder.name.removesuffix(".partial")
    (tmp_path / "locks").mkdir(exist_ok=True)
    (tmp_path / "locks" / f"evaluation-{key}.lock").write_text("99999\nanother-host\n")
    assert store.make("evaluation", {"q": 1}, lambda folder: {"answer": 42}).record["answer"] == 42


@pytest.mark.filterwarnings("ignore")
def test_where_there_is_no_flock_a_marker_of_another_host_must_be_removed_by_hand(
    tmp_path, monkeypatch
):
    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    made = Store(tmp_path, newer_than=0).make("evaluation", {"q": 1}, lambda folder: {"answer": 42})
    assert made.record["answer"] == 42
    marker = tmp_path / "marker.lock"
    marker.write_text("99999\nanother-host\n")
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(marker).acquire(timeout=0.2)
    marker.unlink()
    with filelock.FileLock(marker).acquire(timeout=0.2):
        pass


# ---------------------------------------------------------------- with Dask, on loopback


def settings_of(**changed):
    """The main methods at toy size, on one core."""
    small = {
        "grid": "main",
        "corruptions": ("fog", "contrast"),
        "n_corrupted": 20,
    }
    return replace(resolve("smoke", n_train=64, n_test=40, holdout=20), **small | changed)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """In workers and here: the last bits depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def test_workers_without_the_data_are_not_asked_for_official_corruptions(tmp_path, monkeypatch):
    from tgd_lib.study import questions

    lab = Lab(settings_of(), store=Store(tmp_path), say=lambda line: None)
    monkeypatch.setattr(questions, "official_corruptions", lambda lab: True)
    kinds = {t.kind for t in graph.of_run(lab, room=1e10, shared=True)}
    assert "corruption" in kinds
    kinds = {t.kind for t in graph.of_run(lab, room=1e10, shared=False)}
    assert "network" in kinds and "corruption" not in kinds


def test_a_teacher_of_other_images_is_trained_where_the_data_are(tmp_path, monkeypatch, capsys):
    lab = Lab(settings_of(), store=Store(tmp_path), say=lambda line: None)
    teachers = [replace(specs_of(lab).teacher(name), data="more") for name in ("image", "pi")]
    students = [specs_of(lab).student("scratch", 0)]
    trained = []
    monkeypatch.setattr(Lab, "missing", lambda self, specs: [*teachers, *students])
    monkeypatch.setattr(Lab, "train", lambda self, specs: trained.extend(specs))
    cluster._train_teachers_of_more(lab)
    assert trained == teachers
    assert capsys.readouterr().out.startswith("trained here first: ")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The store of one process that has done all."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("alone")
    lab = Lab(settings_of(), store=Store(root, newer_than=0), say=lambda line: None)
    for task in schedule.in_order(graph.of_run(lab, room=1e10)):
        worker.do(lab, task)
    torch.set_num_threads(before)
    return root


def contents(root, kinds=("network", "evaluation", "robustness", "teacher_maps", "teacher_logits")):
    """All that artefacts hold, but for times and places."""
    found = {}
    for kind in kinds:
        for path in sorted((root / kind).glob("*/*")) if (root / kind).is_dir() else []:
            if path.name == "record.json":
                record = read_json(path)
                losses = [h["loss"] for h in record.get("history", [])]
                found[str(path.relative_to(root))] = (
                    {k: v for k, v in record.items() if k not in TIMES},
                    losses,
                )
            elif path.name != "MANIFEST.json":
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


class TestOnThisMachine:
    pytestmark = needs_dask

    @pytest.mark.parametrize("workers", [1, 2])
    def test_the_same_bytes_as_one_process(self, alone, tmp_path, monkeypatch, capsys, workers):
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
        assert cluster.train(settings_of(), workers=workers) == 0
        assert contents(tmp_path) == contents(alone)
        said = capsys.readouterr().out
        students = len(methods.of(settings_of()))  # of one seed
        assert "dashboard http://127.0.0.1:" in said and said.count("test images") == students
        records = [read_json(p) for p in (tmp_path / "network").glob("*/record.json")]
        assert {r["worker"] for r in records} <= set(range(workers)) and {
            r["threads"] for r in records
        } == {1}
        assert not list(tmp_path.glob("cluster-*"))
        # As one process does at the end, calibration is asked of those that the text compares.
        examined = specs_of(Lab(settings_of(), say=lambda line: None)).examined()
        asked = {read_json(p)["network"] for p in (tmp_path / "calibration").glob("*/spec.json")}
        assert examined and asked == {spec.key for spec in examined}

    def test_workers_keep_the_memory_that_they_free(self):
        """Dask would have them ask the system for it again in every step."""
        lab = Lab(settings_of(), say=lambda line: None)
        with crew.local(lab, 1, lambda room, gpu: [schedule.Task("a")]) as hired:
            (found,) = hired.client.run(os.environ.get, "MALLOC_TRIM_THRESHOLD_").values()
            (threads,) = hired.client.run(os.environ.get, "OMP_NUM_THREADS").values()
        assert found is None and threads == "1"

    def test_a_killed_worker_s_training_goes_on_from_its_last_epoch(self, tmp_path):
        settings = settings_of(epochs=60)
        lab = Lab(settings, store=Store(tmp_path, newer_than=0), say=lambda line: None)
        scratch = [
            t
            for t in graph.of_run(lab, room=1e9)
            if t.kind == "network" and not t.needs and t.specs[0].method == "scratch"
        ]
        job = Job(settings, source(), str(tmp_path), 0.0, threads=1)
        killed = {}
        with crew.local(lab, 1, lambda room, gpu: scratch) as hired:
            killer = threading.Thread(
                target=_kill_in_training, args=(hired.client, tmp_path, killed)
            )
            killer.start()
            run = cluster.Run(hired.client, job, scratch, lab, memory=hired.memory, workers=1)
            outcomes = run.go()
            killer.join()
        assert [o.status for o in outcomes.values()] == ["done"]
        history = lab.store.find("network", scratch[0].specs[0].question).record["history"]
        before = killed["history"]
        assert 0 < len(before) < len(history) == 60
        # With its seconds: those epochs were not trained again.
        assert history[: len(before)] == before

    def test_a_worker_that_dies_of_its_task_is_not_asked_for_ever(
        self, tmp_path, monkeypatch, capsys
    ):
        lab = Lab(settings_of(), store=Store(tmp_path, newer_than=0), say=lambda line: None)
        tasks = [
            schedule.Task("network 1"),
            schedule.Task("evaluation 1", ("network 1",), kind="evaluation"),
        ]
        monkeypatch.setattr(worker, "work", _deadly)
        with crew.local(lab, 1, lambda room, gpu: tasks) as hired:
            job = Job(lab.settings, source(), str(tmp_path), 0.0)
            outcomes = cluster.Run(hired.client, job, tasks, lab, memory=1e9, workers=1).go()
        assert [o.status for o in outcomes.values()] == ["failed", "skipped"]
        assert "its worker died" in outcomes["network 1"].line
        assert cluster.report(outcomes) == 1

    def test_what_diverges_is_reported_and_what_stands_on_it_left_out(
        self, tmp_path, monkeypatch, capsys
    ):
        settings = settings_of(gamma=1e30, corruptions=("fog",))
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
        assert cluster.train(settings, workers=1) == 0
        said = capsys.readouterr().out
        assert said.count("TGD, seed 0: diverged") == 1 and "training diverged" in said
        assert "Scratch, seed 0: " in said and "corruption fog: done" in said

    def test_another_version_is_refused(self, tmp_path):
        lab = Lab(settings_of(), store=Store(tmp_path, newer_than=0), say=lambda line: None)
        other = replace(source(), code="000000000000")
        with crew.local(lab, 1, lambda room, gpu: [schedule.Task("a")]) as hired:
            with pytest.raises(InputError, match="scheduler: another version of tgd_lib") as error:
                crew.greet(hired.client, Job(lab.settings, other, str(tmp_path), 0.0))
            late = hired.client.submit(
                worker.work, schedule.Task("a"), Job(lab.settings, other, None, 0.0)
            )
            assert late.result(timeout=60).status == "refused"
            blind = Job(lab.settings, source(), str(tmp_path), 0.0)
            crew.greet(hired.client, blind)
        assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def _deadly(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_in_training(client, root, told):
    """Kill the only worker once its training has saved some epochs; tells the history so far."""
    from safetensors import safe_open

    deadline = time.monotonic() + 80
    while time.monotonic() < deadline:
        for state in root.glob("network/*.partial/state.safetensors"):
            with safe_open(state, "pt") as file:
                told["history"] = json.loads(file.metadata()["history"])
            if len(told["history"]) >= 3:
                (pid,) = client.run(os.getpid).values()
                with safe_open(state, "pt") as file:
                    told["history"] = json.loads(file.metadata()["history"])
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.02)


class TestElsewhere:
    pytestmark = needs_dask

    def test_an_unreachable_scheduler_is_one_line(self, monkeypatch, tmp_path):
        monkeypatch.setattr(crew, "CONNECT", 1.0)
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
        for address in ("tcp://127.0.0.1:9", "127.0.0.1:9", "nonsense://x"):
            with pytest.raises(InputError, match="cannot be reached") as error:
                cluster.train(settings_of(), scheduler=address)
            assert "\n" not in str(error.value)

    def test_without_a_shared_folder_the_same_bytes_come_back(
        self, alone, dask_at, tmp_path, monkeypatch
    ):
        address = dask_at("scheduler")
        dask_at("worker", "--name", "1", "--resources", "MEMORY=1e9", store=tmp_path / "there")
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "here"))
        assert cluster.train(settings_of(), scheduler=address, shared=False) == 0
        sent = worker.SENT
        assert contents(tmp_path / "here", sent) == contents(alone, sent)
        assert not (tmp_path / "here" / "teacher_maps").exists()  # each machine makes its own

    def test_a_full_disk_on_one_worker_leaves_the_work_to_another(
        self, alone, dask_at, tmp_path, monkeypatch, capsys
    ):
        address = dask_at("scheduler")
        for name, limit in (("1", 100_000), ("2", None)):
            dask_at(
                "worker",
                "--name",
                name,
                "--resources",
                "MEMORY=1e9",
                store=tmp_path / name,
                limit=limit,
            )
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "here"))
        _wait_for_workers(address, 2)
        assert cluster.train(settings_of(), scheduler=address, shared=False) == 0
        assert capsys.readouterr().out.count("worker 1: ") >= 1
        assert contents(tmp_path / "here", worker.SENT) == contents(alone, worker.SENT)

    @pytest.mark.parametrize(
        "options, said",
        [
            (["--nthreads", "2", "--resources", "MEMORY=1e9"], "2 tasks at a time"),
            ([], "does not say how much memory"),
        ],
    )
    def test_workers_that_are_of_no_use_are_one_line(
        self, dask_at, tmp_path, monkeypatch, options, said
    ):
        address = dask_at("scheduler")
        dask_at("worker", "--name", "1", *options, store=tmp_path)
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
        with pytest.raises(InputError, match=said) as error:
            cluster.train(settings_of(), scheduler=address)
        assert "\n" not in str(error.value)

    def test_a_worker_without_the_package_is_one_line(self, dask_at, tmp_path, monkeypatch):
        (tmp_path / "empty" / "tgd_lib").mkdir(parents=True)
        (tmp_path / "empty" / "tgd_lib" / "__init__.py").write_text(
            "raise ImportError('No module named tgd_lib')"
        )
        address = dask_at("scheduler")
        dask_at("worker", "--name", "1", "--resources", "MEMORY=1e9", path=tmp_path / "empty")
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
        with pytest.raises(InputError, match="worker 1: tgd_lib cannot be imported there") as error:
            cluster.train(settings_of(), scheduler=address)
        assert "\n" not in str(error.value)

    def test_a_worker_with_other_sources_is_one_line(self, dask_at, tmp_path, monkeypatch):
        clone = tmp_path / "clone"
        shutil.copytree(ROOT / "tgd_lib", clone / "tgd_lib")
        with open(clone / "tgd_lib" / "losses.py", "a") as file:
            file.write("# changed\n")
        address = dask_at("scheduler")
        dask_at("worker", "--name", "1", "--resources", "MEMORY=1e9", path=clone)
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
        with pytest.raises(InputError, match="worker 1: another version of tgd_lib") as error:
            cluster.train(settings_of(), scheduler=address)
        assert "\n" not in str(error.value)

    def test_a_scheduler_that_goes_is_one_line_and_its_work_can_be_gone_on_with(
        self, alone, dask_at, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(crew, "CONNECT", 1.0)
        monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
        address = dask_at("scheduler")
        dask_at("worker", "--name", "1", "--resources", "MEMORY=1e9")
        killer = threading.Thread(
            target=_when_there_is, args=(NETWORK, tmp_path, dask_at.started[0].kill)
        )
        killer.start()
        with pytest.raises(InputError, match="the scheduler is gone") as error:
            cluster.train(settings_of(), scheduler=address)
        killer.join()
        assert "\n" not in str(error.value)
        assert cluster.train(settings_of(), workers=1) == 0  # whoever asks again
        assert contents(tmp_path) == contents(alone)


class TestFaults:
    """With work that needs no network, so that all that takes time is Dask."""

    pytestmark = needs_dask

    @pytest.fixture
    def run(self, tmp_path, dask_at, monkeypatch):
        """Six tasks for the workers of `dask_at`; gives how they ended, and the client."""
        lab = SimpleNamespace(
            settings=resolve("smoke"), store=SimpleNamespace(root=tmp_path), data=[1]
        )

        def go(address, work, root=str(tmp_path)):
            monkeypatch.setattr(worker, "work", work)
            tasks = [schedule.Task(f"network {i}") for i in range(6)]
            with crew.remote(lab, address) as hired:
                job = Job(lab.settings, source(), root, 0.0)
                crew.greet(hired.client, job)
                return cluster.Run(
                    hired.client, job, tasks, lab, memory=1e9, workers=hired.count
                ).go()

        return go

    def two_workers(self, dask_at):
        address = dask_at("scheduler")
        for name in ("1", "2"):
            dask_at("worker", "--name", name, "--resources", "MEMORY=1e9")
        _wait_for_workers(address, 2)
        return address

    def test_a_scheduler_that_comes_back_is_given_its_tasks_again(self, dask_at, run, tmp_path):
        address = dask_at("scheduler")
        dask_at("worker", "--name", "1", "--resources", "MEMORY=1e9")

        def restart():
            dask_at.started[0].kill()
            dask_at.started[0].wait()
            dask_at("scheduler", "--port", address.rsplit(":")[-1])
            dask_at("worker", "--name", "2", "--resources", "MEMORY=1e9")

        # Not before the work has begun, however slow the machine is.
        thread = threading.Thread(target=_when_there_is, args=("begun", tmp_path, restart))
        thread.start()
        outcomes = run(address, _slow)
        thread.join()
        assert [o.status for o in outcomes.values()] == ["done"] * 6
        assert {o.worker for o in outcomes.values()} <= {1, 2}

    def test_the_tasks_of_a_worker_that_is_not_heard_of_go_to_another(
        self, dask_at, run, tmp_path, monkeypatch
    ):
        """As when it loses the network: its connection stands, and nothing comes any more."""
        # Dask's own patience is five minutes.
        monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "3s")
        address = dask_at("scheduler")
        for name in ("1", "2"):
            dask_at("worker", "--no-nanny", "--name", name, "--resources", "MEMORY=1e9")
        _wait_for_workers(address, 2)
        silent = dask_at.started[1]

        def stop():
            silent.send_signal(signal.SIGSTOP)

        thread = threading.Thread(target=_when_there_is, args=("begun", tmp_path, stop))
        thread.start()
        outcomes = run(address, _slow)
        thread.join()
        silent.send_signal(signal.SIGCONT)
        assert [o.status for o in outcomes.values()] == ["done"] * 6
        assert len([o for o in outcomes.values() if o.worker == 2]) >= 4

    def test_a_full_worker_gets_no_more_tasks(self, dask_at, run, capsys):
        outcomes = run(self.two_workers(dask_at), _full_on_1, root=None)
        assert {(o.status, o.worker) for o in outcomes.values()} == {("done", 2)}
        assert capsys.readouterr().out.count("worker 1: no room left; it gets no more tasks") == 1

    def test_on_a_shared_store_a_full_disk_is_everybody_s(self, dask_at, run):
        with pytest.raises(InputError, match="no room left"):
            run(self.two_workers(dask_at), _full_on_1)

    def test_one_of_another_version_that_comes_late_is_sent_away(self, dask_at, run, capsys):
        outcomes = run(self.two_workers(dask_at), _refused_on_1)
        assert {(o.status, o.worker) for o in outcomes.values()} == {("done", 2)}
        assert "worker 1: torch 1.0, here 2.15; it gets no more tasks" in capsys.readouterr().out


def _on_worker(status_on_1, line_on_1, seconds):
    from distributed import get_worker

    time.sleep(seconds)
    here = get_worker()
    first = worker.number(here.name) == 1
    status, line = (status_on_1, line_on_1) if first else ("done", "")
    return Outcome(status, line, worker=worker.number(here.name), address=here.address)


def _slow(task, job, *_):
    (Path(job.root) / "begun").touch()
    return _on_worker("done", "", 0.5)


def _full_on_1(*_):
    return _on_worker("no room", "no room left", 0.2)


def _refused_on_1(*_):
    return _on_worker("refused", "torch 1.0, here 2.15", 0.2)


def _when_there_is(pattern, root, act):
    deadline = time.monotonic() + 80
    while time.monotonic() < deadline and not list(root.glob(pattern)):
        time.sleep(0.02)
    act()


def _wait_for_workers(address, count):
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)


@pytest.fixture
def dask_at(tmp_path):
    """Starts `dask scheduler` (gives its address) and `dask worker`s for it, and ends them all."""
    where = tmp_path / "scheduler.json"
    started = []

    def start(role, *options, store=None, path=f"{ROOT}{os.pathsep}{ROOT / 'tests'}", limit=None):
        command = [sys.executable, "-P", "-m", "dask", role, "--scheduler-file", str(where)]
        if role == "scheduler":
            command += ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", *options]
        else:
            quiet = ["--nthreads", "1"] if "--nthreads" not in options else []
            command += [*quiet, "--memory-limit", "0", "--no-dashboard", "--host", "127.0.0.1"]
            command += ["--local-directory", str(tmp_path / "scratch"), *options]
        environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
        if store:
            environment["TGD_ARTIFACTS"] = str(store)
        started.append(
            subprocess.Popen(
                command,
                env=environment,
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=limit
                and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
            )  # fmt: skip
        )
        deadline = time.monotonic() + 30
        while not where.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)  # until it is whole
        return read_json(where)["address"]

    start.started = started
    yield start
    for process in reversed(started):
        process.terminate()
    for process in started:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


# ---------------------------------------------------------------- docs/cluster.md


@pytest.mark.skipif(
    importlib.util.find_spec("dask_jobqueue") is None,
    reason=f"dask-jobqueue is not installed: {crew.INSTALL}",
)
@pytest.mark.slow
def test_the_example_for_slurm_asks_for_what_workers_must_have(tmp_path):
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("    cluster.scale(")[0]
    (tmp_path / "slurm.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "slurm.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert {"#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=8", "export OMP_NUM_THREADS=8"} <= set(
        done.stdout.splitlines()
    )
    assert (
        "--nthreads 1 " in done.stdout
        and "--resources GPU=1,MEMORY=75e9 --memory-limit 0" in done.stdout
        and "--no-nanny" in done.stdout
    )
