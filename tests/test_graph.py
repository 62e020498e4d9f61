"""The task graph: known makespans by hand, bounds that hold for any graph, and
the graph of a run."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgd_lib.companion import graph, schedule
from tgd_lib.companion.graph import Size
from tgd_lib.companion.schedule import Task
from tgd_lib.config import PROFILES, InputError, resolve
from tgd_lib.study import methods
from tgd_lib.study.specs import Specs

# ---------------------------------------------------------------- any graph


def chain(*seconds):
    """Tasks 0, 1, 2, ... each after the one before."""
    return [Task(str(i), (str(i - 1),) if i else (), s) for i, s in enumerate(seconds)]


def free(*seconds):
    """Tasks that need nothing."""
    return [Task(str(i), (), s) for i, s in enumerate(seconds)]


@st.composite
def graphs(draw):
    """Up to twelve tasks, each in need of some before it; seconds are whole, so that sums are
    exact.
    """
    tasks = []
    for i in range(draw(st.integers(1, 12))):
        needs = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else ()
        seconds = draw(st.integers(0, 20))
        tasks.append(Task(str(i), tuple(str(n) for n in sorted(needs)), float(seconds)))
    return tasks


DIAMOND = [
    Task("a", (), 2.0),
    Task("b", ("a",), 3.0),
    Task("c", ("a",), 5.0),
    Task("d", ("b", "c"), 1.0),
]


def test_a_diamond_by_hand():
    assert schedule.tails(DIAMOND) == {"a": 8, "b": 4, "c": 6, "d": 1}
    assert [t.name for t in schedule.longest_chain(DIAMOND)] == ["a", "c", "d"]
    assert [schedule.simulate(DIAMOND, n).makespan for n in (1, 2, 3)] == [11, 8, 8]
    assert schedule.simulate(DIAMOND, 2).limit == "the longest chain"
    assert schedule.simulate(DIAMOND, 1).busy == 1


def test_chains_gain_nothing_and_free_tasks_all():
    assert [schedule.simulate(chain(1, 2, 3), n).makespan for n in (1, 2, 8)] == [6, 6, 6]
    assert [schedule.simulate(free(2, 2, 2, 2), n).makespan for n in (1, 2, 3, 4, 9)] == [
        8,
        4,
        4,
        2,
        2,
    ]
    # Longest first: 3 + 2 + 2 and 3 + 2.
    assert schedule.simulate(free(3, 3, 2, 2, 2), 2).makespan == 7
    assert schedule.simulate([], 3).makespan == 0


def test_what_most_wait_for_comes_first():
    tasks = [
        Task("short", (), 1.0),
        Task("alone", (), 9.0),
        Task("teacher", (), 9.0),
        *(Task(f"s{i}", ("teacher",), 0.0) for i in range(3)),
    ]
    rank = schedule.priorities(tasks)
    assert rank["teacher"] > rank["alone"] > rank["short"]
    assert sorted(rank.values()) == list(range(6))


def test_of_equal_tasks_the_first_comes_first():
    rank = schedule.priorities(free(1, 1, 1))
    assert rank["0"] > rank["1"] > rank["2"]


def test_a_circle_and_a_need_that_is_no_task_are_refused():
    with pytest.raises(ValueError):
        schedule.in_order([Task("a", ("b",)), Task("b", ("a",))])
    with pytest.raises(KeyError):
        schedule.in_order([Task("a", ("nobody",))])


@pytest.mark.parametrize("n", [0, -1])
def test_without_workers_there_is_one_line(n):
    with pytest.raises(InputError, match="at least 1") as error:
        schedule.simulate(DIAMOND, n)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["0", "-3", "two", "1.5", ""])
def test_what_is_no_number_of_workers_is_one_line(text):
    with pytest.raises(InputError, match="--workers") as error:
        schedule.parse_workers(text)
    assert "\n" not in str(error.value)
    assert schedule.parse_workers("4") == 4


@given(graphs(), st.integers(1, 6))
def test_the_makespan_lies_between_its_bounds(tasks, workers):
    f = schedule.simulate(tasks, workers)
    assert f.makespan >= f.chain == sum(t.seconds for t in schedule.longest_chain(tasks))
    assert f.makespan >= f.work / workers - 1e-9
    assert f.makespan <= f.work / workers + (1 - 1 / workers) * f.chain + 1e-9  # Graham
    assert 0 <= f.busy <= 1 + 1e-9


@given(graphs())
def test_one_worker_does_all_and_a_worker_a_task_is_as_fast_as_can_be(tasks):
    assert schedule.simulate(tasks, 1).makespan == sum(t.seconds for t in tasks)
    crowd = schedule.simulate(tasks, len(tasks))
    assert crowd.makespan == crowd.chain


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9))
def test_equal_free_tasks_go_in_rounds(count, workers, seconds):
    rounds = -(-count // workers)
    assert schedule.simulate(free(*[float(seconds)] * count), workers).makespan == rounds * seconds


@given(graphs())
def test_the_order_respects_all_needs(tasks):
    place = {t.name: i for i, t in enumerate(schedule.in_order(tasks[::-1]))}
    assert len(place) == len(tasks)
    assert all(place[need] < place[t.name] for t in tasks for need in t.needs)


# ---------------------------------------------------------------- memory


def test_two_large_banks_never_share_a_machine():
    assert schedule.shares(24e9, 2, [15e9, 1e9]) == [15e9, 9e9]
    assert schedule.shares(24e9, 4, [15e9, 1e9]) == [15e9, 3e9, 3e9, 3e9]
    assert schedule.shares(48e9, 4, [15e9, 1e9]) == [15e9, 15e9, 15e9, 3e9]
    assert schedule.shares(24e9, 4, [1e9, 1e9]) == [6e9] * 4
    assert schedule.shares(10e9, 2, [15e9, 1e9]) == [9e9, 1e9]  # it makes do with less


@given(
    st.integers(1, 1000), st.integers(1, 8), st.lists(st.integers(1, 1000), min_size=1, max_size=5)
)
def test_what_workers_are_given_is_there(room, workers, needs):
    given_ = schedule.shares(room, workers, needs)
    assert len(given_) == workers and sum(given_) <= room * (1 + 1e-9)
    large = sum(share >= max(needs) for share in given_)
    assert large * max(needs) <= room * (1 + 1e-9)


def test_the_memory_of_a_bank_is_what_it_will_be_made_in():
    n = 5000  # 3 x 25e6 numbers
    assert graph.bank_memory(n, 1, room=24e9) == 8 * 75e6
    assert graph.bank_memory(n, 2, room=24e9) == 16 * 75e6
    assert graph.bank_memory(n, 1, room=5e8) == 2 * 75e6 / 0.8  # float16
    assert graph.bank_memory(n, 1, room=1e8) == 0  # online
    assert graph.bank_memory(50_000, 1, room=24e9) == 18.75e9  # 15 GB in float16


def test_what_a_plan_says_of_maps_is_what_the_bank_does():
    from tgd_lib import bank

    assert (graph.STAGES, graph.RAW_MAPS, graph.MERGED_ROOM) == (
        bank.STAGES,
        bank.MAPS_KEPT,
        bank.ROOM,
    )


# ---------------------------------------------------------------- the graph of a run

SETTINGS = resolve("smoke")
SPECS = Specs(SETTINGS, "train", "test", 10)
SIZE = Size(160, 160, 80, 40, 3072, 24e9, graph.guessed_seconds(160))


def tasks_of(*names, there=(), **options):
    students = SPECS.students(names)
    keys = {s.key for s in there}
    options = {"there": lambda s: s.key in keys} | options
    return {t.name: t for t in graph.tasks_of(students, SIZE, **options)}


def test_tgd_needs_its_bank_which_needs_its_teachers():
    tgd, scratch = SPECS.student("tgd", 0), SPECS.student("scratch", 0)
    image, pi = SPECS.teacher("image"), SPECS.teacher("pi")
    found = tasks_of("tgd", examined=[tgd], corruptions=("fog", "snow"))
    bank = f"bank {image.key} {pi.key}"
    assert set(found) == {
        *(f"network {s.key}" for s in (image, pi, scratch, tgd)), bank,
        f"evaluation {tgd.key}", "corruption fog", "corruption snow",
    }  # fmt: skip
    assert set(found[bank].needs) == {f"network {image.key}", f"network {pi.key}"}
    assert set(found[f"network {tgd.key}"].needs) == {
        *found[bank].needs,
        bank,
        f"network {scratch.key}",
    }
    assert (
        found[f"evaluation {tgd.key}"].needs
        == found["corruption fog"].needs
        == (f"network {tgd.key}",)
    )


def test_what_is_there_is_not_trained_and_not_waited_for():
    tgd = SPECS.student("tgd", 0)
    found = tasks_of("tgd", there=[SPECS.teacher("image"), tgd.start])
    assert f"network {tgd.start.key}" not in found
    assert len([t for t in found.values() if t.kind == "network"]) == 2
    done = tasks_of("tgd", there=[tgd])
    assert list(done) == [f"evaluation {tgd.key}"] and done[f"evaluation {tgd.key}"].needs == ()


def test_a_teachers_maps_are_made_by_one_bank_and_waited_for_by_the_others():
    found = tasks_of("tgd", "tgd_alpha1", "tgd_alpha0.5", "kd")
    banks = [t for t in found.values() if t.kind == "bank"]
    image, pi = SPECS.teacher("image"), SPECS.teacher("pi")
    assert [t.name for t in banks] == [f"bank {image.key}", f"bank {image.key} {pi.key}"]
    assert banks[0].name in banks[1].needs and banks[0].written == banks[1].written > 0
    kd = found[f"network {SPECS.student('kd', 0).key}"]
    assert kd.needs == (f"network {image.key}",)  # logits alone need no bank


def test_a_teacher_that_is_shown_something_else_has_maps_of_its_own():
    own, other = "tgd_pi_normalise0.5", "tgd_noise_normalise0.5"
    found = tasks_of("tgd_alpha1", own, other)
    image, pi = SPECS.teacher("image"), SPECS.teacher("pi")
    banks = {t.name: t for t in found.values() if t.kind == "bank"}
    theirs = f"bank {image.key} {pi.key} pi_mixed"
    assert list(banks) == [f"bank {image.key}", f"bank {image.key} {pi.key}", theirs]
    assert theirs in found[f"network {SPECS.student(other, 0).key}"].needs
    assert banks[theirs].written == banks[f"bank {image.key}"].written


def test_where_nothing_is_shared_there_are_no_banks():
    assert not [t for t in tasks_of("tgd", banks=False).values() if t.kind == "bank"]


def test_large_maps_are_kept_as_they_are_merged():
    small, large = 5000, 50_000
    names = ("tgd", "tgd_alpha0.5")
    assert len({graph.bank_of(SPECS.student(n, 0), small) for n in names}) == 1
    assert len({graph.bank_of(SPECS.student(n, 0), large) for n in names}) == 2
    size = replace(SIZE, train=large)
    students = SPECS.students(["tgd", "tgd_alpha0.5"])
    banks = [t for t in graph.tasks_of(students, size, there=lambda s: False) if t.kind == "bank"]
    assert len(banks) == 2 and not any(n.startswith("bank") for t in banks for n in t.needs)
    assert {t.written for t in banks} == {3 * 2 * large**2}  # float16, once, whatever the teachers


@pytest.mark.parametrize("profile", PROFILES)
def test_the_graph_of_every_profile_can_be_gone_through(profile):
    settings = resolve(profile)
    specs = Specs(settings, "train", "test", 10)
    students = specs.students(methods.of(settings))
    examined = specs.examined()
    assert all(s.method in methods.EXAMINED and s.seed < settings.seeds for s in examined)
    tasks = graph.tasks_of(
        students, SIZE, there=lambda s: False, examined=examined, corruptions=("fog",)
    )
    assert len(schedule.in_order(tasks)) == len(tasks) == len({t.name for t in tasks})
    times = [schedule.simulate(tasks, n).makespan for n in schedule.WORKERS]
    assert times == sorted(times, reverse=True)
    # Whatever is longest, a chain that is not a single task begins with a network.
    assert schedule.longest_chain(tasks)[0].kind == "network"


def test_weights_are_counted_as_the_network_has_them():
    from tgd_lib.networks import wide_resnet

    for spec in (SPECS.student("scratch", 0), SPECS.teacher("image"), SPECS.teacher("pi")):
        depth, width, classes = spec.network
        state = wide_resnet(depth, width, spec.view.channels, classes, seed=0).state_dict()
        numbers = sum(v.numel() for name, v in state.items() if "num_batches" not in name)
        assert graph.weight_bytes(spec) == 4 * numbers


def test_the_forecast_says_what_limits():
    lines = schedule.forecast(
        [replace(t, specs=(SPECS.student("kd", i),)) for i, t in enumerate(chain(60, 120))], (2, 1)
    )
    assert lines[1].split()[:3] == ["1", "3.0", "min"] and "longest chain" in lines[1]
    assert lines[3] == "The longest chain, 3.0 min: KD, seed 0 60.0 s, then KD, seed 1 2.0 min."
    assert schedule.forecast([]) == ["There is nothing left to do."]
