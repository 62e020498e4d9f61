"""The tasks that a run has left, with what each takes: time, memory, bytes from and to the store.

    teachers -> banks -> students -> evaluations
                            └──────> corruptions

`of_run` makes them from a lab, `tasks_of` from specs. What N workers make of them is a matter of
`companion.schedule`; `companion.cluster` gives them to real workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tgd_lib.companion.schedule import Task
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Spec

STAGES = 3  # maps of a teacher
RAW_MAPS = 4e9  # bytes of a teacher's maps; larger ones are kept merged, and in float16
MERGED_ROOM = 0.8  # part of the memory that merged maps may take
FEATURES = 86016  # numbers that a WRN-16-3 sees of one image of 32 x 32, in all its stages
GRAM = 2e11  # operations a second of the product F F^T (measured on two cores in float32: 2.2e11)
FORWARD = 1 / 3  # of a training step: there is no backward pass, which costs twice that
SEVERITIES = 5
CORRUPT = 2e-3  # seconds to corrupt one image once: a guess, they differ by a hundred times


def bank_memory(n: int, sets: int, room: float) -> float:
    """Bytes that must be free for the maps of n images, where a worker has at most `room`.

    As `bank.choose` decides: float32 where twice that is there (merging takes the other half),
    else float16, else none, as teachers are asked online. sets: how often three maps are kept.
    """
    numbers = float(sets * STAGES * n * n)
    if 4 * numbers <= RAW_MAPS * max(1, sets) and 8 * numbers <= room:
        return 8 * numbers
    half = 2 * numbers / MERGED_ROOM
    return half if half <= room else 0.0


# ---------------------------------------------------------------- the graph of a run


@dataclass(frozen=True)
class Size:
    """What the tasks of a run depend on beside its specs.

    images: how many there are to train, test, hold out and corrupt. image: bytes of one.
    room: bytes of memory of the largest worker. seconds: of training a spec, about.
    """

    train: int
    test: int
    holdout: int
    corrupted: int
    image: int
    room: float
    seconds: Callable[[Spec], float]
    gpu: bool = False


def guessed_seconds(n: int) -> Callable[[Spec], float]:
    """Seconds of training a spec on n images, by its size alone: enough to say what to start first.

    1,400 images a second of a WRN-16-1 on two cores in float32, and a width of 3 5.6 times slower
    (3 ** 1.6), are measured; persistence images have more pixels.
    """

    def seconds(spec: Spec) -> float:
        side = spec.view.params.resolution if spec.view.params else 32
        larger = (spec.network.depth - 4) / 12 * spec.network.width**1.6 * (side / 32) ** 2
        return spec.schedule.epochs * n * larger / 1400

    return seconds


def tasks_of(
    specs: Sequence[Spec],
    size: Size,
    *,
    there: Callable[[Spec], bool],
    examined: Sequence[Spec] = (),
    corruptions: Sequence[str] = (),
    banks: bool = True,
) -> list[Task]:
    """The tasks that train, evaluate and corrupt: a task is named by its kind and what it is about.

    specs: the students of a run. there: whether a network need not be trained. examined: those of
    `specs` that are asked about `corruptions`, a task each, so that images are corrupted once.
    banks: False where nothing is shared, and each worker makes its own.
    """
    # By key, as teachers and starts are needed by many.
    missing: dict[str, Spec] = {}
    for spec in specs:
        _collect(spec, missing, there)
    made = _banks(list(missing.values()), missing, size) if banks else {}
    networks = [_network(s, missing, made, size) for s in missing.values()]
    evaluations = [_evaluation(s, missing, size) for s in specs]
    corrupted = [_corruption(name, examined, missing, size) for name in corruptions if examined]
    unique = {t.name: t for t in [*made.values(), *networks, *evaluations, *corrupted]}
    return [replace(t, gpu=size.gpu) for t in unique.values()]


def _collect(spec: Spec, missing: dict[str, Spec], there: Callable[[Spec], bool]) -> None:
    """Add `spec` and all it needs to `missing`, needs first, but for what is there."""
    if spec.key in missing or there(spec):
        return
    for needed in spec.needs:
        _collect(needed, missing, there)
    missing[spec.key] = spec


def _trained(specs: Sequence[Spec], missing: Mapping[str, Spec]) -> tuple[str, ...]:
    """Names of the tasks that train those of `specs` that are missing."""
    return tuple(f"network {s.key}" for s in dict.fromkeys(specs) if s.key in missing)


def _has_maps(spec: Spec) -> bool:
    return bool(spec.guidance and spec.guidance.gamma and any(spec.teachers))


def _sets(spec: Spec) -> int:
    """How often three maps are held: those of two teachers stay apart if normalised first."""
    if not _has_maps(spec):
        return 0
    return 2 if spec.guidance.order and all(spec.teachers) else 1


def _merged(n: int) -> bool:
    """Whether maps of n images are kept merged only, those of each teacher being too large."""
    return STAGES * 4.0 * n * n > RAW_MAPS


def bank_of(spec: Spec, n: int) -> str | None:
    """Name of the bank that `spec` learns from, None if it needs no maps.

    Small maps are stored a teacher each, whatever the weights; large ones as they are merged.
    """
    if not _has_maps(spec):
        return None
    # The same names for the same teachers and weights: seeds and methods then share a bank.
    names = [t.name for t in spec.asked if t]
    if _merged(n):
        names += [str(spec.guidance.alpha), str(spec.guidance.order)]
    return " ".join(["bank", *names])


def _banks(students: Sequence[Spec], missing: Mapping[str, Spec], size: Size) -> dict[str, Task]:
    """The banks of `students`, by name, those of one teacher first.

    A bank needs the first one that has a teacher of its own, whose maps it will then find in the
    store: else two workers would want to make them at once, and one would wait.
    """
    banks: dict[str, Task] = {}
    first: dict[str, str] = {}  # of each teacher
    for spec in sorted(students, key=lambda s: sum(map(bool, s.teachers))):
        name = bank_of(spec, size.train)
        if name is None or name in banks:
            continue
        teachers = [t for t in spec.asked if t]
        shared = [first[t.name] for t in teachers if t.name in first]
        new = [t for t in teachers if t.name not in first]
        if not _merged(size.train):  # else each is made from the beginning
            first |= {t.name: name for t in new}
        needs = (*_trained([t.spec for t in teachers], missing), *dict.fromkeys(shared))
        banks[name] = _bank(name, spec, needs, [t.spec for t in new], size)
    return banks


def _bank(name: str, spec: Spec, needs, teachers: Sequence[Spec], size: Size) -> Task:
    """A look at all images and a Gram matrix for each of `teachers`: those without maps yet."""
    # A teacher looks at each image once; then every image is multiplied with every other.
    look = sum(_look(t, size) for t in teachers) * size.train
    gram = 2.0 * FEATURES * size.train**2 / GRAM * len(teachers)
    return Task(
        name,
        needs,
        seconds=look + gram,
        memory=bank_memory(size.train, _sets(spec), size.room) + _pictures(spec, size),
        read=sum(weight_bytes(t) + _pictures(t, size) for t in teachers),
        written=_map_bytes(size.train) * (1 if _merged(size.train) else len(teachers)),
        kind="bank",
        specs=(spec,),
    )


def _network(
    spec: Spec, missing: Mapping[str, Spec], banks: Mapping[str, Task], size: Size
) -> Task:
    """Training `spec`."""
    from tgd_lib.baselines import NEEDS  # torch, and only here

    bank = bank_of(spec, size.train)
    needs = _trained(spec.needs, missing) + ((bank,) if bank in banks else ())
    memory = bank_memory(size.train, _sets(spec), size.room) if _has_maps(spec) else 0.0
    # Features are remembered where half of the memory is enough; logits and embeddings are small.
    if spec.baseline and NEEDS[spec.baseline.loss] == "features":
        memory = min(size.room / 2, 4.0 * FEATURES * size.train)
    maps = _sets(spec) * _map_bytes(size.train)
    if not _merged(size.train) and _has_maps(spec):
        maps = sum(map(bool, spec.teachers)) * _map_bytes(size.train)
    weights = weight_bytes(spec)
    return Task(
        f"network {spec.key}",
        needs,
        seconds=size.seconds(spec),
        memory=memory + _pictures(spec, size),
        read=sum(weight_bytes(s) for s in spec.needs) + maps + _pictures(spec, size),
        written=weights * (1 + 2 * spec.schedule.epochs),  # after every epoch, with momentum
        kind="network",
        specs=(spec,),
    )


def _evaluation(spec: Spec, missing: Mapping[str, Spec], size: Size) -> Task:
    """Test and held-out images."""
    looked_at = size.test + size.holdout
    return Task(
        f"evaluation {spec.key}",
        _trained([spec], missing),
        seconds=_look(spec, size) * looked_at,
        memory=float(looked_at * size.image),
        read=weight_bytes(spec),
        written=4.0 * looked_at * spec.network.classes,
        kind="evaluation",
        specs=(spec,),
    )


def _corruption(name: str, specs: Sequence[Spec], missing: Mapping[str, Spec], size: Size) -> Task:
    """One corruption in all its strengths, shown to all of `specs`."""
    looks = sum(_look(s, size) for s in specs)
    return Task(
        f"corruption {name}",
        _trained(specs, missing),
        seconds=SEVERITIES * size.corrupted * (CORRUPT + looks),
        memory=8.0 * size.corrupted * size.image,  # in floating point while it is made
        read=sum(weight_bytes(s) for s in specs),
        kind="corruption",
        specs=tuple(specs),
        corruption=name,
    )


def _look(spec: Spec, size: Size) -> float:
    """Seconds that the network of `spec` takes to look at one image."""
    return FORWARD * size.seconds(spec) / (spec.schedule.epochs * max(1, size.train))


def _pictures(spec: Spec, size: Size) -> float:
    """Bytes of what `spec` sees of the training images."""
    one = spec.view.channels * spec.view.params.resolution**2 if spec.view.params else size.image
    return float(size.train * one)


def _map_bytes(n: int) -> float:
    """Bytes of a teacher's maps in the store."""
    return STAGES * n * n * (2.0 if _merged(n) else 4.0)


def weight_bytes(spec: Spec) -> float:
    """Bytes of a wide residual network in float32, with what its batch norms remember."""
    depth, width, classes = spec.network
    widths = [16, 16 * width, 32 * width, 64 * width]
    numbers = 9 * spec.view.channels * 16 + 4 * widths[3] + widths[3] * classes + classes
    for n_in, n_out, stride in zip(widths, widths[1:], (1, 2, 2), strict=False):
        for block in range((depth - 4) // 6):
            before = n_out if block else n_in
            numbers += 9 * before * n_out + 9 * n_out * n_out + 4 * before + 4 * n_out
            if not block and (before != n_out or stride > 1):
                numbers += before * n_out
    return 4.0 * numbers


def of_run(
    lab: Lab,
    *,
    room: float,
    seconds: Callable[[Spec], float] | None = None,
    gpu: bool = False,
    shared: bool = True,
) -> list[Task]:
    """The tasks that a lab's run has left, with `room` bytes of memory for the largest worker.

    seconds: of training a spec; None guesses by its size. gpu: see `Size`. shared: workers see the
    folders of the store and of the data; else each makes its own banks, and official corruptions
    are left to who has them.
    """
    from tgd_lib.study import questions  # torch, and only here
    from tgd_lib.study.specs import specs_of

    data, settings = lab.data, lab.settings
    n, test = len(data.train.labels), len(data.test.labels)
    size = Size(
        train=n,
        test=test,
        holdout=len(data.holdout.labels) if settings.holdout else 0,
        corrupted=min(test, settings.n_corrupted or test),
        image=data.train.images[0].nbytes,
        room=room,
        seconds=seconds or guessed_seconds(n),
        gpu=gpu,
    )
    study = specs_of(lab)
    students = [spec for spec in study.asked() if not lab.result(spec)]
    keys = {spec.key for spec in students}
    lacking = not shared and questions.official_corruptions(lab)
    return tasks_of(
        students,
        size,
        there=lambda spec: lab.find(spec) is not None,
        examined=[spec for spec in study.examined() if spec.key in keys],
        corruptions=() if lacking else questions.corruption_names(lab),
        banks=shared,
    )
