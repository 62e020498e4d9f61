"""The store: same question same key; whole or not at all; damage found; two makers do no harm."""

import errno
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.files import sha256
from tgd_lib.lab.store import Store, canonical, key_of, republish

KIND = "evaluation"


def build(folder):
    np.save(folder / "x.npy", np.arange(5))
    return {"answer": 42}


def never(folder):
    raise AssertionError("made again")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "artifacts", newer_than=0)


@dataclass(frozen=True)
class Question:
    a: int
    b: tuple[float, ...]


def test_canonical_form_is_golden():
    assert (
        canonical({"b": Question(1, (0.5, 2.0)), "a": None})
        == '{"a":null,"b":{"a":1,"b":[0.5,2.0]}}'
    )


def test_keys_depend_on_what_is_asked_only():
    assert key_of(KIND, {"a": 1, "b": 2}) == key_of(KIND, {"b": 2, "a": 1})
    assert len({key_of(KIND, {"a": 1}), key_of(KIND, {"a": 2}), key_of("network", {"a": 1})}) == 3


@pytest.mark.parametrize("spec", [{"a": float("nan")}, {"a": object()}, {"a": np.float32(1)}])
def test_what_has_no_canonical_form_has_no_key(spec):
    with pytest.raises((TypeError, ValueError)):
        key_of(KIND, spec)


def test_made_once_then_found(store):
    made = store.make(KIND, {"q": 1}, build)
    again = Store(store.root, newer_than=0).make(KIND, {"q": 1}, never)
    assert again.record == made.record and made.record["answer"] == 42
    assert again.array("x").tolist() == [0, 1, 2, 3, 4]
    assert json.loads((made.path / "spec.json").read_text()) == {"q": 1}


def test_record_says_with_what_it_was_made_and_names_no_path(store):
    record = store.make(KIND, {"q": 1}, build).record
    assert {"made", "seconds", "versions", "commit", "key"} <= record.keys()
    assert record["versions"]["numpy"] == np.__version__
    assert str(config.ROOT) not in json.dumps(record)


def test_a_failed_build_leaves_nothing(store):
    def broken(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.make(KIND, {"q": 1}, broken)
    assert list((store.root / KIND).iterdir()) == [] and store.find(KIND, {"q": 1}) is None


def claim(store):
    return store.claim(KIND, {"q": 1}, resumable=True)


def test_a_resumable_claim_keeps_its_state_until_all_else_is_safe(store):
    with pytest.raises(KeyboardInterrupt), claim(store) as first:
        (first.folder / "state").write_text("half")
        raise KeyboardInterrupt
    with claim(store) as second:
        assert (second.folder / "state").read_text() == "half"
        (second.folder / "left.tmp").touch()  # of a write that was cut off
        second.finish({}, drop=("state",))
    made = store.find(KIND, {"q": 1})
    assert {f.name for f in made.path.iterdir()} == {"spec.json", "record.json", "MANIFEST.json"}


@pytest.mark.parametrize("at", ["_flush", "sync", "rename", "write_json"])
def test_cut_off_while_finishing_nothing_is_lost(store, monkeypatch, at):
    """The state is there to go on with, or the artefact is whole; never a poisoned one."""
    from pathlib import Path

    from tgd_lib.lab import store as module

    with monkeypatch.context() as patch:
        where = (Path, at) if at == "rename" else (module, at)
        patch.setattr(*where, lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt), claim(store) as first:
            (first.folder / "state").write_text("whole")
            np.save(first.folder / "x.npy", np.arange(5))
            first.finish({"answer": 42}, drop=("state",))
    fresh = Store(store.root, newer_than=0)
    with claim(fresh) as second:
        if second:
            assert (second.folder / "state").read_text() == "whole"
            second.finish({"answer": 42}, drop=("state",))
    again = Store(store.root, newer_than=0).make(KIND, {"q": 1}, never)
    assert again.record["answer"] == 42 and again.array("x").tolist() == [0, 1, 2, 3, 4]


MANIFESTS = ("null", "[]", "{}", "1", '"x"', '{"x.npy": null}', "{", "", "[" * 100_000, "\udc80")


@pytest.mark.parametrize("name", ["MANIFEST.json", "record.json"])
@pytest.mark.parametrize("text", MANIFESTS, ids=range(len(MANIFESTS)))
def test_anything_but_what_we_write_is_damage(store, name, text):
    path = store.make(KIND, {"q": 1}, build).path
    (path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.warns(UserWarning, match="damaged") as caught:
        made = Store(store.root, newer_than=0).make(KIND, {"q": 1}, build)
    assert made.record["answer"] == 42 and "\n" not in str(caught[0].message)


@pytest.mark.parametrize("record", [None, {}, {"made_unix": "x"}, {"made_unix": 1.0}])
def test_a_record_with_right_sums_that_is_not_ours_is_damage(store, record):
    path = store.make(KIND, {"q": 1}, build).path
    (path / "record.json").write_text(json.dumps(record))
    sums = json.loads((path / "MANIFEST.json").read_text())
    sums["record.json"] = sha256(path / "record.json")
    (path / "MANIFEST.json").write_text(json.dumps(sums))
    with pytest.warns(UserWarning, match="damaged|another"):
        Store(store.root, newer_than=0).make(KIND, {"q": 1}, build)


def test_an_artefact_in_another_one_s_place_is_not_taken(store):
    one, two = (store.make(KIND, {"q": q}, build).path for q in (1, 2))
    shutil.rmtree(one)
    two.rename(one)
    fresh = Store(store.root, newer_than=0)
    assert fresh.find(KIND, {"q": 1}) is None
    with pytest.warns(UserWarning, match="is another one"):
        assert fresh.make(KIND, {"q": 1}, build).record["key"] == one.name


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "add", "record"])
def test_damage_is_found_set_aside_and_made_again(store, harm):
    path = store.make(KIND, {"q": 1}, build).path
    x = path / "x.npy"
    if harm == "flip":
        x.write_bytes(x.read_bytes()[:-1] + b"\x7f")
    elif harm == "cut":
        x.write_bytes(x.read_bytes()[:-1])
    elif harm == "remove":
        x.unlink()
    elif harm == "add":
        (path / "foreign").touch()
    else:
        (path / "record.json").write_text("{")
    fresh = Store(store.root, newer_than=0)
    with pytest.warns(UserWarning, match="damaged"):
        made = fresh.make(KIND, {"q": 1}, build)
    assert made.array("x").tolist() == [0, 1, 2, 3, 4]
    assert len(list((store.root / "set-aside").iterdir())) == 1  # nothing is lost


def test_force_makes_each_artefact_again_once(store):
    old = store.make(KIND, {"q": 1}, build)
    forced = Store(store.root, newer_than=time.time())
    with pytest.warns(UserWarning, match="made again"):
        new = forced.make(KIND, {"q": 1}, build)
    assert new.record["made_unix"] > old.record["made_unix"]
    assert (
        Store(store.root, newer_than=forced.newer_than).make(KIND, {"q": 1}, never).record
        == new.record
    )


def test_two_makers_at_once_build_once(store, capsys):
    built = []

    def slow(folder):
        built.append(1)
        time.sleep(0.3)
        return build(folder)

    makers = [
        threading.Thread(target=Store(store.root, newer_than=0).make, args=(KIND, {"q": 1}, slow))
        for _ in range(3)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    said = capsys.readouterr()
    # As all progress: what a notebook prints on stdout stands in its twin.
    assert len(built) == 1 and "waiting" in said.err and said.out == ""


def test_no_lock_files_are_left(store):
    store.make(KIND, {"q": 1}, build)
    with pytest.raises(RuntimeError), store.claim(KIND, {"q": 2}):
        raise RuntimeError
    assert list((store.root / "locks").iterdir()) == []


CONTENDER = """
import sys
from pathlib import Path
from tgd_lib.lab.store import Store

store, inside = Store(Path(sys.argv[1]), newer_than=0), Path(sys.argv[1]) / "inside"
for _ in range(150):
    with store._lock("evaluation", "same"):
        inside.touch(exist_ok=False)  # FileExistsError: two hold the lock
        inside.unlink()
"""


def test_removed_locks_still_keep_others_out(store):
    """The classical race: one removes the file that another has opened and is about to lock."""
    command = [sys.executable, "-c", CONTENDER, str(store.root)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    contenders = [subprocess.Popen(command, cwd=config.ROOT, **quiet) for _ in range(4)]
    errors = [c.communicate()[1].decode() for c in contenders]
    assert [c.returncode for c in contenders] == [0] * 4, errors
    assert list((store.root / "locks").iterdir()) == []


def test_a_killed_maker_does_not_block_the_next(store):
    code = (
        "import os, signal; from tgd_lib.lab.store import Store;"
        f"store = Store({str(store.root)!r}, newer_than=0);"
        f"store.make({KIND!r}, {{'q': 1}}, lambda f: os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=config.ROOT).returncode == -9
    assert store.find(KIND, {"q": 1}) is None
    assert store.make(KIND, {"q": 1}, build).record["answer"] == 42


def test_a_full_disk_is_one_line_and_leaves_nothing(store):
    def full(folder):
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="no room left") as e:
        store.make(KIND, {"q": 1}, full)
    assert "\n" not in str(e.value) and list((store.root / KIND).iterdir()) == []


def test_a_store_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="TGD_ARTIFACTS"):
        Store(tmp_path / "file" / "artifacts", newer_than=0).make(KIND, {"q": 1}, build)


def test_a_file_that_is_not_the_store_s_is_named_itself(tmp_path):
    store = Store(tmp_path / "store", newer_than=0)
    foreign, own = str(tmp_path / "begun/x"), str(tmp_path / "store/network/x")
    for path, said in (
        (foreign, f"{foreign}: cannot be read .Permission denied."),
        (own, "store: cannot be written to .*; set TGD_ARTIFACTS"),
        (str(tmp_path), "store: cannot be written to"),
        (None, "store: cannot be written to"),
    ):
        with pytest.raises(InputError, match=said):
            with store.claim("network", {"q": 1}):
                raise PermissionError(errno.EACCES, "Permission denied", path)


def test_a_kind_can_be_dropped_the_rest_stays(store):
    for number in (1, 2):
        store.make(KIND, {"q": number}, build)
    other = store.make("teacher_maps", {"q": 1}, build)
    with store.claim(KIND, {"q": 3}, resumable=True) as claim:
        (claim.folder / "begun").write_bytes(b"12345")
    size = sum(f.stat().st_size for f in (store.root / KIND).glob("*/*"))
    assert len(list((store.root / KIND).iterdir())) == 3
    assert store.drop(KIND) == size
    assert list((store.root / KIND).iterdir()) == [] and other.path.is_dir()
    assert store.drop(KIND) == 0 and store.drop("never made") == 0
    assert store.make(KIND, {"q": 1}, build).record["answer"] == 42


def test_what_is_being_made_is_not_dropped(store):
    with store.claim(KIND, {"q": 1}) as claim:
        (claim.folder / "data").write_bytes(b"1")
        assert Store(store.root, newer_than=0).drop(KIND) == 0
        claim.finish(build(claim.folder))
    assert store.find(KIND, {"q": 1}) is not None


def test_a_drop_that_was_cut_off_is_finished_by_the_next(store, monkeypatch):
    made = store.make(KIND, {"q": 1}, build)
    gone = made.path.with_name(made.key + ".dropped")
    made.path.rename(gone)
    assert store.find(KIND, {"q": 1}) is None
    store.make(KIND, {"q": 1}, build)
    assert store.drop(KIND) > 0
    assert list((store.root / KIND).iterdir()) == []


# ---------------------------------------------------------------- published networks


@pytest.fixture
def published(tmp_path):
    """A store that also answers from a folder of published networks, with one in it."""
    made = Store(tmp_path / "made", newer_than=0, published=[])
    path = made.make("network", {"q": 1}, build).path
    shutil.copytree(path, tmp_path / "networks" / path.name)
    return Store(tmp_path / "artifacts", newer_than=0, published=[tmp_path / "networks"])


def test_a_recording_under_way_publishes_nothing(tmp_path, monkeypatch):
    """Killed, it leaves a hidden folder with half of the networks in it."""
    for name in ("study", ".study.new"):
        (tmp_path / "figures" / name / "networks").mkdir(parents=True)
    monkeypatch.setattr(config, "ROOT", tmp_path)
    assert Store(tmp_path, newer_than=0).published == [tmp_path / "figures/study/networks"]


def test_a_published_network_is_found_and_stands_in_for_a_damaged_one(published):
    found = published.make("network", {"q": 1}, never)
    assert found.path.parent.name == "networks"
    own = published.root / "network" / found.key
    shutil.copytree(found.path, own)
    (own / "x.npy").write_bytes(b"")
    fresh = Store(published.root, newer_than=0, published=published.published)
    with pytest.warns(UserWarning, match="is damaged"):
        assert fresh.make("network", {"q": 1}, never).path == found.path


def test_a_damaged_published_network_is_said_and_made_again(published):
    (next(published.published[0].iterdir()) / "x.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="published network .* is damaged"):
        made = published.make("network", {"q": 1}, build)
    assert made.path.parent.parent == published.root and made.record["answer"] == 42


# ---------------------------------------------------------------- republished


def test_what_is_republished_is_there_whole_until_the_new_one_is(tmp_path, monkeypatch):
    """A full disk in the midst of the copy: the older one stays, and nothing looks like another."""
    made = Store(tmp_path).make("thing", {"a": 1}, lambda _: {}).path
    target = tmp_path / "networks" / "key"
    republish(made, target, {"about": 1})
    before = {p.name: p.read_bytes() for p in target.iterdir()}

    def full(source, folder):
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(OSError, match="No space"):
            republish(made, target, {"about": 2})
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert [p.name for p in target.parent.glob("[!.]*")] == ["key"]
    republish(made, target, {"about": 2})
    assert [p.name for p in target.parent.iterdir()] == ["key"]
    assert json.loads((target / "record.json").read_text())["about"] == 2
