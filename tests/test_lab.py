"""Specs and their keys; the lab, from a spec to a trained network; killed and gone on with."""

import dataclasses
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tgd_lib import config
from tgd_lib.files import sha256, write_json
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.objectives import BANK
from tgd_lib.lab.spec import Asked
from tgd_lib.lab.store import Store, key_of
from tgd_lib.study import methods
from tgd_lib.study.specs import specs_of
from tgd_lib.tiles import PROGRESS

SIZE = {"n_train": 96, "n_test": 80, "holdout": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")


def lab(root, *, teachers="auto", say=lambda line: None, **overrides):
    return Lab(
        config.resolve("smoke", **SIZE | overrides),
        store=Store(root, newer_than=0),
        teachers=teachers,
        say=say,
    )


def with_other_weights(network, folder):
    """A copy in `folder` of the artefact of a network, as trained on another machine."""
    copy = shutil.copytree(network, folder / network.name)
    weights = dict(load_file(copy / "weights.safetensors"))
    weights["fc.bias"] = weights["fc.bias"] + 1
    save_file(weights, copy / "weights.safetensors")
    sums = {path.name: sha256(path) for path in copy.iterdir() if path.name != "MANIFEST.json"}
    write_json(copy / "MANIFEST.json", sums)


def count(root, kind):
    folder = root / kind
    return len([p for p in folder.iterdir() if p.is_dir()]) if folder.is_dir() else 0


# ---------------------------------------------------------------- specs


def test_what_changes_the_answer_changes_the_key(root):
    base = specs_of(lab(root))
    tgd = base.student("tgd", 0)
    others = [
        base.student("tgd", 1),
        base.student("kd", 0),
        specs_of(lab(root, alpha=0.5)).student("tgd", 0),
        specs_of(lab(root, gamma=1.0)).student("tgd", 0),
        specs_of(lab(root, epochs=2)).student("tgd", 0),
        specs_of(lab(root, teacher_epochs=2)).student("tgd", 0),  # through its teachers
        specs_of(lab(root, orientation="row")).student("tgd", 0),  # through the PI teacher
        specs_of(lab(root, selection="authors")).student("tgd", 0),
        specs_of(lab(root, precision="bf16")).student("tgd", 0),
        specs_of(lab(root, n_train=88)).student("tgd", 0),
    ]
    keys = {s.key for s in [tgd, *others]}
    assert len(keys) == len(others) + 1


def test_what_does_not_change_the_answer_does_not_change_the_key(root):
    tgd = specs_of(lab(root)).student("tgd", 0)
    assert replace(tgd, name="another name", method="other").key == tgd.key
    assert specs_of(lab(root, device="cpu")).student("tgd", 0).key == tgd.key
    # Nothing is chosen on it.
    assert specs_of(lab(root, n_test=40)).student("tgd", 0).key == tgd.key
    scratch = specs_of(lab(root)).student("scratch", 0).key
    assert (
        specs_of(lab(root, alpha=0.5, gamma=1.0, temperature=2.0)).student("scratch", 0).key
        == scratch
    )
    assert (
        specs_of(lab(root, orientation="row")).student("tgd_alpha1", 0).key
        == specs_of(lab(root)).student("tgd_alpha1", 0).key
    )


def test_tgd_at_alpha_1_is_the_control_itself(root):
    specs = specs_of(lab(root, alpha=1.0))
    assert specs.student("tgd", 0).key == specs.student("tgd_alpha1", 0).key
    assert specs.student("tgd", 0).teachers[1] is None


def test_annealed_students_start_from_the_scratch_student_of_their_seed(root):
    specs = specs_of(lab(root))
    for method in ("kd_annealed", "tgd_alpha1", "tgd"):
        spec = specs.student(method, 3)
        assert spec.start == specs.student("scratch", 3) and spec.epochs_in_all == 2
        assert spec.teachers[0] == specs.teacher("image")  # one teacher pair, seed 0, serves all
    assert specs.student("kd", 3).start is None and specs.student("kd", 3).epochs_in_all == 1


def test_the_paper_s_pi_constants_are_for_cifar10(root):
    fake = replace(specs_of(lab(root)), settings=config.resolve("paper"))
    assert fake.view("image").constants[0] == (0.507, 0.487, 0.441)
    assert fake.view("pi").constants[0][3:] == (0.05165074, 0.05487815, 0.06697452)
    assert specs_of(lab(root)).view("pi") == fake.view("pi")  # the sample is a part of CIFAR-10
    folder = replace(fake, settings=replace(fake.settings, dataset="folder"))
    assert folder.view("pi").constants is None


# ---------------------------------------------------------------- training


def test_a_student_trains_its_teachers_first_and_only_once(tmp_path):
    said, root = [], tmp_path
    here = lab(root, say=said.append)
    spec = specs_of(here).student("tgd", 0)
    record = here.trained(spec).record
    assert count(root, "network") == 4  # image teacher, PI teacher, scratch, TGD
    assert set(record["weights_used"]) == {
        "image teacher, seed 0",
        "PI teacher, seed 0",
        "Scratch, seed 0",
    }
    assert (
        record["started_from"] == "Scratch, seed 0"
        and record["selection"] == "last"
        and record["threads"] >= 1
    )
    assert (
        record["precision"] == "fp32" and record["device"] == "cpu" and len(record["history"]) == 1
    )
    trained = [line for line in said if "epoch 1/1" in line]
    assert [line.split(",")[0] for line in trained] == [
        "image teacher",
        "PI teacher",
        "Scratch",
        "TGD",
    ]
    again = []
    assert lab(root, say=again.append).trained(spec).record == record and again == []


def test_a_row_says_what_it_is_worth(root):
    here = lab(root)
    row = here.row(specs_of(here).student("tgd", 0))
    assert row["method"] == "tgd" and row["label"] == "TGD" and row["n"] == 80
    assert 0 <= row["accuracy"] <= 1 and 0 <= row["ece"] <= 1 and row["nll"] > 0
    assert row["epochs_in_all"] == 2 and row["network"] == "WRN-10-1" and row["selected_epoch"] == 1
    logits = here.evaluation(specs_of(here).student("tgd", 0)).array("logits")
    assert (logits.argmax(1) == here.data.test.labels).mean() == pytest.approx(row["accuracy"])


def test_bank_and_online_train_the_same_student(root, tmp_path):
    import torch

    networks = []
    for mode in ("bank", "online"):
        here = lab(tmp_path / mode, teachers=mode)
        networks.append(here.network(specs_of(here).student("tgd", 0)).state_dict())
    for name in networks[0]:
        torch.testing.assert_close(
            networks[0][name], networks[1][name], rtol=5e-3, atol=5e-4, msg=name
        )


def test_large_maps_are_built_into_files_once_for_all_seeds_and_runs(root, tmp_path, monkeypatch):
    import torch

    from tgd_lib import bank
    from tgd_lib.lab.objectives import BANK

    # At gamma = 3000 a step of rounding grows to a hundredth of a weight in one epoch.
    small = lab(root, gamma=30.0)
    weights = small.network(specs_of(small).student("tgd", 0)).state_dict()
    monkeypatch.setattr(bank, "MAPS_KEPT", 0)
    said = []
    large = lab(tmp_path, say=said.append, gamma=30.0)
    spec = specs_of(large).student("tgd", 0)
    assert large.trained(spec).record["teachers_by"] == "bank, maps in float16"
    assert any("teachers by bank (0.0 GB of maps in fp16" in line for line in said)
    assert count(tmp_path, "teacher_maps") == 0 and count(tmp_path, BANK) == 1
    assert any(line.startswith(f"similarity maps of {SIZE['n_train']} images") for line in said)
    assert small.record(spec)["teachers_by"] == "bank, maps in float32"
    for name, found in large.network(spec).state_dict().items():
        torch.testing.assert_close(found, weights[name], rtol=2e-2, atol=2e-3, msg=name)
    again = []
    here = lab(tmp_path, say=again.append, gamma=30.0)
    here.trained(specs_of(here).student("tgd", 1))
    assert not any("similarity maps" in line for line in again)


def test_a_bank_that_was_cut_off_is_gone_on_with(tmp_path, monkeypatch):
    from tgd_lib import bank, tiles
    from tgd_lib.lab.objectives import BANK

    monkeypatch.setattr(bank, "MAPS_KEPT", 0)
    monkeypatch.setitem(tiles.FEATURES, "cpu", 1.0)  # blocks of one glance
    monkeypatch.setitem(bank.GLANCE, "cpu", 40)
    said, write, left = [], tiles._write, [4]

    def killed(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(*arguments)

    here = lab(tmp_path, say=said.append)
    spec = specs_of(here).student("tgd", 0)
    with monkeypatch.context() as patch:
        patch.setattr(tiles, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            here.trained(spec)
    (begun,) = (tmp_path / BANK).iterdir()
    assert begun.name.endswith(".partial")
    lab(tmp_path, say=said.append).trained(spec)
    assert "similarity maps: 1 of 6 tiles are there, going on" in said
    (whole,) = (tmp_path / BANK).iterdir()
    assert not (whole / tiles.PROGRESS).exists() and (whole / tiles.FILE).exists()


def test_what_the_maps_of_students_take_on_the_disk(tmp_path, monkeypatch):
    from tgd_lib import bank

    here, n = lab(tmp_path), SIZE["n_train"]
    specs = specs_of(here)
    students = [specs.student(m, s) for m in ("scratch", "kd", "tgd", "tgd_alpha1") for s in (0, 1)]
    guided = [spec for spec in students if spec.guidance]
    # Raw maps in float32 of two teachers serve any alpha.
    assert here.objectives.disk(guided) == 2 * 3 * 4 * n * n
    # Merged in float16, every alpha has its own.
    monkeypatch.setattr(bank, "MAPS_KEPT", 0)
    assert here.objectives.disk(guided) == 2 * 3 * 2 * n * n


def test_one_bank_serves_all_seeds_however_little_room_it_leaves(root, monkeypatch):
    from tgd_lib import bank

    here, n = lab(root), SIZE["n_train"]
    room = [int(2.5 * bank.STAGES * n * n * 4)]
    monkeypatch.setattr(bank, "available", lambda compute: room[0])
    first = here.objectives.source(specs_of(here).student("tgd", 0))
    room[0] //= 4
    assert here.objectives.source(specs_of(here).student("tgd", 1)) is first


def test_maps_that_are_built_serve_where_memory_is_short_now(tmp_path, monkeypatch):
    """A session that begins with less free memory must not fall back to online teachers."""
    from tgd_lib import bank

    monkeypatch.setattr(bank, "MAPS_KEPT", 0)
    here = lab(tmp_path)
    students = specs_of(here)
    here.train(students.student("tgd", 0).teachers)
    here.objectives.source(students.student("tgd", 0))
    monkeypatch.setattr(bank, "available", lambda compute: 10)
    later = lab(tmp_path).objectives
    choice = later.choice(students.student("tgd", 1))
    assert choice.mode == "bank" and not choice.fits
    assert later.source(students.student("tgd", 1)).how == "bank, maps in float16"
    # Others would have to be built, where there is no room to keep them.
    other = students.student("tgd_alpha1", 0)
    assert later.choice(other).mode == "online" and later.disk([other]) == 0
    # Those half built are gone on with.
    question = later._merge(other.asked, 1.0)
    half = here.store.under_way(BANK, key_of(BANK, question))
    half.mkdir()
    (half / PROGRESS).write_text("{}")
    assert later.choice(other).mode == "bank"


def test_a_teacher_looks_once_for_logits_and_maps(root, tmp_path, monkeypatch):
    from tgd_lib import bank

    there, here = lab(root), lab(tmp_path)
    spec = specs_of(here).student("tgd", 0)
    for teacher in spec.teachers:
        shutil.copytree(there.trained(teacher).path, tmp_path / "network" / teacher.key)
    seen, look = [], bank.Teacher.look

    def counted(teacher, index):
        logits, features = look(teacher, index)
        seen.append(len(logits))
        return logits, features

    monkeypatch.setattr(bank.Teacher, "look", counted)
    here.objectives.source(spec)
    glance_at_size = 1  # of the features, before the plan of the maps is made
    assert sum(seen) == 2 * (SIZE["n_train"] + glance_at_size)


def test_one_teacher_in_both_places_weighs_both_shares(root, monkeypatch):
    """The merged map of a teacher with itself is its own, whatever alpha is."""
    from tgd_lib import bank

    monkeypatch.setattr(bank, "MAPS_KEPT", 0)
    here = lab(root)
    image = Asked(specs_of(here).teacher("image"))
    here.train([image.spec])
    choice = here.objectives.choice(specs_of(here).student("tgd", 0))
    index = torch.arange(8)
    both, alone = (
        here.objectives._bank(pair, alpha, choice).batch(index)[1]
        for pair, alpha in (((image, image), 0.75), ((image, None), 1.0))
    )
    for found, wanted in zip(both, alone, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)


def test_for_large_maps_it_looks_once_for_logits_and_scales(root, tmp_path, monkeypatch):
    from tgd_lib import bank

    small, spec = lab(root), specs_of(lab(root)).student("tgd", 0)
    wanted = small.objectives.source(spec).outputs.logits
    large, seen, look = lab(tmp_path), [], bank.Teacher.look
    for teacher in spec.teachers:
        shutil.copytree(small.trained(teacher).path, tmp_path / "network" / teacher.key)
    monkeypatch.setattr(bank, "MAPS_KEPT", 0)

    def counted(teacher, index):
        logits, features = look(teacher, index)
        seen.append(len(logits))
        return logits, features

    monkeypatch.setattr(bank.Teacher, "look", counted)
    found = large.objectives.source(spec).outputs.logits
    assert all(map(torch.equal, found, wanted))
    for_scales, for_tiles, glance_at_size = SIZE["n_train"], SIZE["n_train"], 1
    assert sum(seen) == 2 * (for_scales + for_tiles + glance_at_size)


def test_selection_by_the_authors_rule_keeps_its_own_networks(root):
    here = lab(root, selection="authors", epochs=2)
    row = here.row(specs_of(here).student("scratch", 0))
    history = here.trained(specs_of(here).student("scratch", 0)).record["history"]
    assert row["selection"] == "authors"
    assert row["accuracy"] == pytest.approx(max(h["test_accuracy"] for h in history))
    assert history[row["selected_epoch"] - 1]["test_accuracy"] == pytest.approx(row["accuracy"])


def _falling(*_):
    """In the place of an accuracy on the test images: 50, 40, 30 %."""
    accuracies = iter((0.5, 0.4, 0.3))
    return lambda network: next(accuracies)


def test_a_training_by_the_authors_rule_gives_the_last_epoch_too(root, tmp_path, monkeypatch):
    epochs = {"epochs": 2, "teacher_epochs": 2}
    by_authors, by_us = (lab(root, selection=rule, **epochs) for rule in ("authors", "last"))
    # The first epoch is the best one on the test set.
    monkeypatch.setattr(Lab, "_test_accuracy", _falling)
    scratch, same = (specs_of(here).student("scratch", 3) for here in (by_authors, by_us))
    distilled, other = (specs_of(here).student("kd", 3) for here in (by_authors, by_us))
    by_authors.train([scratch, distilled])
    assert by_authors.trained(scratch).record["selected_epoch"] == 1
    assert by_us.missing([same, other]) == [other]  # its teacher is another by each rule
    record = by_us.trained(same).record
    assert (record["selection"], record["selected_epoch"]) == ("last", 2)
    directly = lab(tmp_path, epochs=2).trained(same)
    assert (by_us.trained(same).path / "weights.safetensors").read_bytes() == (
        directly.path / "weights.safetensors"
    ).read_bytes()


def test_so_does_one_whose_teacher_is_the_same_by_both_rules(root, tmp_path, half_trained):
    """A teacher that was best on the test set after its last epoch has the same weights by both."""
    by_authors, by_us = (
        lab(root, epochs=2, teacher_epochs=1, selection=rule) for rule in ("authors", "last")
    )
    distilled, same = (specs_of(here).student("kd", 3) for here in (by_authors, by_us))
    by_authors.train([distilled])
    assert by_us.missing([same]) == []
    record = by_us.trained(same).record
    assert (record["selection"], record["selected_epoch"]) == ("last", 2)
    here = lab(tmp_path, epochs=2, teacher_epochs=1)
    directly = here.trained(same)
    assert (by_us.trained(same).path / "weights.safetensors").read_bytes() == (
        directly.path / "weights.safetensors"
    ).read_bytes()
    assert record["weights_used"] == directly.record["weights_used"]
    # And by the other rule what theirs has begun is gone on with.
    begun, other = (specs_of(each).student("kd", 4) for each in (by_authors, by_us))
    half_trained(by_authors, begun, root)
    assert by_us.epochs_done(other) == 1


def test_another_machine_goes_on_with_what_was_begun(root, tmp_path, half_trained):
    there = lab(root, epochs=2)
    spec = specs_of(there).student("scratch", 5)
    state = half_trained(there, spec, tmp_path / "there")
    begun = tmp_path / "figures/smoke/begun" / f"{spec.key}.safetensors"
    begun.parent.mkdir(parents=True)
    shutil.copy(state, begun)

    def taken_up(folder, newer_than=0.0):
        said = []
        store = Store(
            tmp_path / folder,
            newer_than=newer_than,
            published=[begun.parent.with_name("networks")],
        )
        return Lab(there.settings, store=store, say=said.append).trained(spec), said

    made, said = taken_up("here")
    assert not any("epoch 1/2" in line for line in said)
    assert "Scratch, seed 5: goes on after epoch 1, from a state that was published" in said
    weights = [(a.path / "weights.safetensors").read_bytes() for a in (made, there.trained(spec))]
    assert weights[0] == weights[1]
    assert len(made.record["history"]) == 2
    _, said = taken_up("forced", newer_than=begun.stat().st_mtime + 1)  # --force: from nothing
    assert any("epoch 1/2" in line for line in said)
    begun.write_bytes(begun.read_bytes()[:-4])
    with pytest.warns(UserWarning, match="is damaged .*: left out"):
        anew, _ = taken_up("damaged")
    assert (anew.path / "weights.safetensors").read_bytes() == weights[0]


@pytest.mark.parametrize("here, published", [(1, 2), (2, 1)])
def test_the_state_that_has_come_further_is_gone_on_with(
    root, tmp_path, half_trained, here, published
):
    there = lab(root, epochs=3)
    spec = specs_of(there).student("scratch", 6)
    begun = tmp_path / "figures/smoke/begun" / f"{spec.key}.safetensors"
    begun.parent.mkdir(parents=True)
    shutil.copy(half_trained(there, spec, tmp_path / "there", epochs=published), begun)
    half_trained(there, spec, tmp_path / "here", epochs=here)
    said = []
    store = Store(tmp_path / "here", newer_than=0, published=[begun.parent.with_name("networks")])
    mine = Lab(there.settings, store=store, say=said.append)
    assert mine.epochs_done(spec) == 2
    mine.trained(spec)
    assert sum("epoch " in line and "/3" in line for line in said) == 1
    taken_up = "Scratch, seed 6: goes on after epoch 2, from a state that was published"
    assert (taken_up in said) == (published > here)


def test_what_the_authors_rule_began_is_gone_on_with_by_the_other(root, tmp_path, half_trained):
    """One training, two readings: what stands on nothing is the same network up to the choice."""
    by_us, by_authors = (lab(root, epochs=3, selection=rule) for rule in ("last", "authors"))
    spec, theirs = (specs_of(here).student("scratch", 7) for here in (by_us, by_authors))
    half_trained(by_authors, theirs, tmp_path, epochs=2)
    said = []
    mine = lab(tmp_path, epochs=3, say=said.append)
    assert mine.epochs_done(spec) == 2
    made = mine.trained(spec)
    assert made.record["selection"] == "last"
    assert ["epoch 3/3" in line for line in said if "epoch " in line] == [True]
    assert (made.path / "weights.safetensors").read_bytes() == (
        by_us.trained(spec).path / "weights.safetensors"
    ).read_bytes()
    assert mine.find(theirs).record["selection"] == "authors"


def test_its_own_state_is_gone_on_with_if_the_authors_has_come_no_further(
    root, tmp_path, half_trained
):
    by_us, by_authors = (lab(root, epochs=3, selection=rule) for rule in ("last", "authors"))
    spec, theirs = (specs_of(here).student("scratch", 8) for here in (by_us, by_authors))
    half_trained(by_authors, theirs, tmp_path)
    half_trained(by_us, spec, tmp_path)
    mine = lab(tmp_path, epochs=3)
    assert "test_accuracy" not in mine.trained(spec).record["history"][-1]
    assert not mine.find(theirs)


def test_a_record_says_how_each_part_of_a_training_was_computed(tmp_path, half_trained):
    """One session may have had the memory for a bank, another not."""
    begun = lab(tmp_path, epochs=3)
    spec = specs_of(begun).student("kd", 0)
    half_trained(begun, spec, tmp_path, epochs=2)
    record = lab(tmp_path, epochs=3, teachers="online").trained(spec).record
    assert record["epochs_by"] == {"cpu, fp32, bank": 2, "cpu, fp32, online": 1}


def test_an_old_state_counts_for_nothing_under_force(root, tmp_path, half_trained):
    there = lab(root, epochs=2)
    spec = specs_of(there).student("scratch", 9)
    state = half_trained(there, spec, tmp_path)
    forced = Store(tmp_path, newer_than=state.stat().st_mtime + 1)
    assert Lab(there.settings, store=forced).epochs_done(spec) == 0


def test_a_state_is_of_the_weights_that_its_training_stands_on(root, tmp_path, half_trained):
    """Another teacher of the same key, trained on another machine, makes it another training."""
    there = lab(root, epochs=2)
    kd = specs_of(there).student("kd", 4)
    half_trained(there, kd, root)
    assert there.epochs_done(kd) == 1
    other = lab(tmp_path, epochs=2)
    with_other_weights(there.trained(kd.teachers[0]).path, tmp_path / "network")
    shutil.copytree(
        root / "network" / f"{kd.key}.partial", tmp_path / "network" / f"{kd.key}.partial"
    )
    with pytest.warns(UserWarning, match="is damaged .it is of"):
        assert other.epochs_done(kd) == 0


KILLED = """
import sys
from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.store import Store
from tgd_lib.study.specs import specs_of
s = config.resolve("smoke", n_train=480, n_test=80, holdout=0, epochs=6, precision=sys.argv[2])
lab = Lab(s, store=Store(sys.argv[1], newer_than=0), say=lambda line: print(line, flush=True))
lab.trained(specs_of(lab).student("kd_annealed", 0))
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_in_mid_epoch_it_goes_on_to_the_same_bits(tmp_path, precision):
    def start(folder):
        command = [sys.executable, "-c", KILLED, str(tmp_path / folder), precision]
        return subprocess.Popen(command, cwd=config.ROOT, stdout=subprocess.PIPE, text=True)

    unbroken = start("unbroken")
    whole = [line for line in unbroken.stdout if "epoch" in line]
    assert unbroken.wait() == 0
    broken = start("broken")
    for line in broken.stdout:
        if line.startswith("KD, annealing") and "epoch 3/6" in line:
            # Epoch 3 may or may not be saved; 4 is under way or about to be.
            broken.send_signal(signal.SIGKILL)
            break
    assert broken.wait() == -signal.SIGKILL
    resumed = start("broken")
    rest = [line for line in resumed.stdout if "epoch" in line]
    assert resumed.wait() == 0
    assert len(rest) < len(whole) and all(line.startswith("KD, annealing") for line in rest)
    weights = [
        sorted((tmp_path / f / "network").glob("*/weights.safetensors"))
        for f in ("unbroken", "broken")
    ]
    assert [sha256(p) for p in weights[0]] == [sha256(p) for p in weights[1]] and len(
        weights[0]
    ) == 3


def test_two_labs_at_once_train_once(tmp_path):
    import threading

    said = []
    labs = [lab(tmp_path, say=said.append) for _ in range(2)]
    spec = specs_of(labs[0]).student("kd", 0)
    threads = [threading.Thread(target=x.trained, args=(spec,)) for x in labs]
    [t.start() for t in threads]
    [t.join() for t in threads]
    # Teacher and student, each once.
    assert len([line for line in said if "epoch 1/1" in line]) == 2


# ---------------------------------------------------------------- the study's other methods


@pytest.mark.parametrize("method", ["vid", "fitnets", "cc", "topkd"])
def test_a_baseline_s_own_parameters_train_and_are_saved(tmp_path, method):
    from safetensors.torch import load_file

    here = lab(tmp_path)
    spec = specs_of(here).student(method, 0)
    here.train(spec.needs)
    fresh = here._trained_beside(spec).state_dict()
    found = load_file(here.trained(spec).path / "own.safetensors")
    assert fresh.keys() == found.keys()
    assert any(not fresh[k].equal(found[k]) for k in fresh)
    # TopKD's RipsNet is trained beforehand, kept in the store, and stays as it is.
    assert all(fresh[k].equal(found[k]) for k in fresh if k.startswith("ripsnet."))
    assert not (
        here.trained(specs_of(here).student("scratch", 0)).path / "own.safetensors"
    ).exists()


@pytest.mark.parametrize("method", ["fitnets", "topkd", "dkd", "kd_random_tree", "kd_signature"])
def test_a_method_killed_goes_on_to_the_same_bits(tmp_path, monkeypatch, method):
    """After a stop between two epochs: momentum and buffers of FitNets' regressor come back, DKD's
    warm-up and random trees are as they would have been.
    """
    from tgd_lib import training

    whole, broken = lab(tmp_path / "whole", epochs=2), lab(tmp_path / "broken", epochs=2)
    spec = replace(specs_of(whole).student(method, 0), start=None)
    wanted = whole.trained(spec).path
    save = training.Run.save

    def stop(run, path):
        save(run, path)
        raise KeyboardInterrupt

    broken.trained(specs_of(broken).teacher("image"))
    monkeypatch.setattr(training.Run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        broken.trained(spec)
    monkeypatch.undo()
    found = lab(tmp_path / "broken", epochs=2).trained(spec).path
    for name in ("weights.safetensors", "own.safetensors"):
        assert (found / name).exists() == (wanted / name).exists()
        if (wanted / name).exists():
            assert sha256(found / name) == sha256(wanted / name)


def test_a_guidance_by_the_embedding_is_a_term_of_its_own(tmp_path):
    here = lab(tmp_path)
    kd, guided = (
        replace(specs_of(here).student(m, 0), start=None)
        for m in ("kd_batchmean_annealed", "kd_signature")
    )
    (plain,), (first,) = (here.trained(spec).record["history"] for spec in (kd, guided))
    assert "embedding" not in plain and first["embedding"] > 0
    terms = [first[k] for k in ("ce", "kd_t1", "kd_t2", "maps", "embedding")]
    assert first["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert count(tmp_path, "teacher_embedding") == 1


EMBEDDING = {  # weight, loss, edges, permuted
    "kd_signature": (1.0, "signature", "tree", False),
    "kd_random_tree": (1.0, "signature", "random_tree", False),
    "kd_nearest": (1.0, "signature", "nearest", False),
    "kd_shortest": (1.0, "signature", "shortest", False),
    "kd_all_pairs": (1.0, "signature", "all", False),
    "kd_permuted": (1.0, "signature", "tree", True),
    "kd_diagram": (3.0, "diagram", "tree", False),
    "kd_diagram_random": (3.0, "diagram", "random_tree", False),
}


def of_a_batch(here, spec):
    """(what the student answers, labels, index) of a batch in no order, as training has them."""
    import torch

    index = torch.tensor([70, 3, 41, 8, 95, 22, 60, 17])
    run = here.run(spec)
    return run.network.stages(run.pixels[index]), run.labels[index], index


@pytest.mark.parametrize("name", EMBEDDING)
def test_a_guidance_by_the_embedding_is_fed_as_its_name_says(root, name):
    from tgd_lib.bank import teacher_embedding
    from tgd_lib.embedding import embedding_loss

    here = lab(root)
    spec = replace(specs_of(here).student(name, 0), start=None)
    student, labels, index = of_a_batch(here, spec)
    weight, loss, edges, permuted = EMBEDDING[name]
    teacher = teacher_embedding(here.teacher(specs_of(here).teacher("image")))[index]
    wanted = weight * embedding_loss(
        student.embedding, teacher, index, loss=loss, edges=edges, permuted=permuted
    )
    total, terms = here.objectives.of(spec).objective(student, labels, index, 0)
    assert float(terms["embedding"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    plain, _ = here.objectives.of(replace(spec, embedding=None)).objective(
        student, labels, index, 0
    )
    assert float((total - plain).detach()) == pytest.approx(float(wanted.detach()), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("tgd", {}),
        ("tgd_alpha1", {"alpha": 1.0}),
        ("tgd_batchmean", {"kl_reduction": "batchmean"}),
        ("tgd_temperature8", {"temperature": 8.0}),
        ("tgd_normalise", {"order": "normalise"}),
        ("kd_batchmean_annealed", {"alpha": 1.0, "gamma": 0.0, "kl_reduction": "batchmean"}),
    ],
)
def test_a_loss_has_the_weights_of_its_name(root, name, weights):
    from tgd_lib import bank
    from tgd_lib.losses import tgd_loss

    here = lab(root)
    study = specs_of(here)
    spec = replace(study.student(name, 0), start=None)
    student, labels, index = of_a_batch(here, spec)
    paper = {"alpha": 0.99, "lam": 0.9, "temperature": 4.0, "gamma": 3000.0}
    weights = paper | {"kl_reduction": "mean"} | weights
    teachers = tuple(here.teacher(study.teacher(t)) for t in ("image", "pi"))
    if weights["alpha"] == 1:
        teachers = (teachers[0], None)
    said = bank.Online(teachers, maps=weights["gamma"] > 0).batch(index)
    wanted, _ = tgd_loss(student.logits, labels, student.features, *said, **weights)
    found, _ = here.objectives.of(spec).objective(student, labels, index, 0)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "how"),
    [("dkd", "bank"), ("rkd", "bank of embeddings"), ("at", "bank of features")],
)
def test_a_baseline_is_told_what_its_teacher_says(root, method, how):
    import torch

    from tgd_lib.bank import teacher_embedding

    here = lab(root)
    spec = specs_of(here).student(method, 0)
    teacher = here.teacher(spec.teachers[0])
    index = torch.tensor([70, 3, 41])
    source = here.objectives.source(spec)
    assert source.how == how
    found, wanted = source.outputs.look(index), teacher.look(index)
    torch.testing.assert_close(found[0], wanted[0])
    if method == "rkd":
        torch.testing.assert_close(found.embedding, teacher_embedding(teacher)[index])
    if method == "at":
        torch.testing.assert_close(found[1], wanted[1])


def test_a_teacher_is_asked_in_the_precision_of_the_run(root):
    """A published one may have been trained in another: its answers are kept apart."""
    here, other = lab(root, precision="bf16"), lab(root)
    teacher = specs_of(here).teacher("image")
    there = [x.evaluation(teacher) for x in (here, other)]
    assert there[0].key != there[1].key
    assert abs(there[0].array("logits") - there[1].array("logits")).max() > 0
    exact = [x.evaluation(teacher, exact=True).key for x in (here, other)]
    assert exact[0] == exact[1]  # float32, whoever asks
    asked = [x.objectives._question(Asked(teacher)) for x in (here, other)]
    weights = sha256(here.trained(teacher).path / "weights.safetensors")
    assert asked == [{"teacher": weights}, {"teacher": weights, "precision": "fp32"}]


def test_what_a_teacher_says_is_known_by_its_weights(root, tmp_path):
    """Equal ones by both rules of selection share a bank; others of the same key have their own."""
    rules = [lab(root, teacher_epochs=1, selection=rule) for rule in ("last", "authors")]
    elsewhere, asked = lab(tmp_path, teacher_epochs=1), []
    for here in (*rules, elsewhere):
        tgd = specs_of(here).student("tgd", 0)
        if here is elsewhere:
            assert here.objectives._merge(tgd.asked, 0.99) not in asked  # not trained there yet
            for teacher in tgd.teachers:
                with_other_weights(rules[0].trained(teacher).path, tmp_path / "network")
        here.train(tgd.teachers)
        asked.append(here.objectives._merge(tgd.asked, 0.99))
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize("mode", ["bank", "online"])
@pytest.mark.parametrize("second", ["pi_within", "pi_across", "noise"])
def test_the_second_teacher_is_shown_what_the_method_says(root, mode, second):
    """By bank and online: its outputs are those for other images' persistence images, the first
    teacher's are as ever.
    """
    import torch

    from tgd_lib.losses import similarity_map

    here, index = lab(root, teachers=mode), torch.arange(8)
    own, other = (
        specs_of(here).student(methods.share_name(name, 0.5), 0) for name in ("pi", second)
    )
    here.train(own.needs)
    plain, _ = here.objectives.source(own).outputs.batch(index)
    logits, maps = here.objectives.source(other).outputs.batch(index)
    views = [here.view(teacher) for teacher in other.teachers]
    views[1] = replace(views[1], kind=methods.method(other.method).shown)
    for k, (teacher, view) in enumerate(zip(other.teachers, views, strict=True)):
        with torch.inference_mode():
            said = here.network(teacher).stages(here.pixels(view, "train")[index])
        torch.testing.assert_close(logits[k], said.logits, rtol=1e-4, atol=1e-4)
        assert torch.allclose(logits[k], plain[k], rtol=1e-4, atol=1e-4) is (k == 0)
        for g, features in zip(maps[k], said.features, strict=True):
            torch.testing.assert_close(g, similarity_map(features), rtol=1e-3, atol=1e-3)


def test_dkd_warms_up(tmp_path):
    """Its weight grows over a twelfth of the schedule: of 24 epochs, half of it in the first."""
    here = lab(tmp_path, epochs=24)
    spec = specs_of(here).student("dkd", 0)
    run = here.run(spec)
    whole = here.run(replace(spec, baseline=replace(spec.baseline, warm_up=None)))
    for r in (run, whole):
        r.begin()
        r.advance(0)
    assert float(run._sums["baseline"]) == pytest.approx(
        float(whole._sums["baseline"]) / 2, rel=1e-5
    )


@pytest.mark.parametrize("method", ["at", "tgd_normalise"])
def test_remembered_and_online_train_the_same_student(tmp_path, method):
    import torch

    networks = []
    for mode in ("auto", "online"):
        here = lab(tmp_path / mode, teachers=mode)
        networks.append(here.network(specs_of(here).student(method, 0)).state_dict())
    for name in networks[0]:
        torch.testing.assert_close(
            networks[0][name], networks[1][name], rtol=5e-3, atol=5e-4, msg=name
        )


def test_held_out_images_are_evaluated_where_there_are_some(root):
    here = lab(root, holdout=40)
    spec = specs_of(here).student("scratch", 0)
    assert here.evaluation(spec, "holdout").record["n"] == 40 != here.evaluation(spec).record["n"]
    with pytest.raises(config.InputError, match="holds no images out"):
        lab(root).evaluation(spec, "holdout")


def test_one_that_diverges_does_not_hold_up_the_profile(tmp_path):
    here = lab(tmp_path)
    wild = dataclasses.replace(methods.method("tgd"), name="wild", gamma=1e30)
    specs = [specs_of(here).student(m, 0) for m in (wild, "kd")]
    assert here.train(specs, tolerant=True) == [specs[0]]
    assert here.store.find("network", specs[1].question)
    with pytest.raises(config.InputError, match="diverged"):
        here.train(specs)


def test_exact_evaluations_are_those_of_fp32(root):
    """They have a key of their own, for what is in the store may be another device's; on a CPU in
    fp32 they are the same.
    """
    here = lab(root, precision="bf16")
    spec = specs_of(here).student("scratch", 0)
    exact, rough = here.evaluation(spec, exact=True), here.evaluation(spec)
    assert exact.key != rough.key and abs(exact.array("logits") - rough.array("logits")).max() > 0
    plain = lab(root)
    spec = specs_of(plain).student("scratch", 0)
    exact, usual = plain.evaluation(spec, exact=True), plain.evaluation(spec)
    assert exact.key != usual.key and (exact.array("logits") == usual.array("logits")).all()


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_what_is_asked_for_without_gradients_is_trained_with_them(tmp_path, mode):
    """A notebook that only looks at networks, on an empty store, is the first to need them."""
    import torch

    one = lab(tmp_path)
    spec = specs_of(one).student("tgd", 0)
    with getattr(torch, mode)():
        one.network(spec)
    assert one.trained(spec).record["history"][0]["loss"] > 0
