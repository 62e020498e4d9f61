"""What can be chosen, and how it is checked: profiles, parameters, paths.

Everything here is a constant or a pure function, except the four functions at the end, which
are the only place in the project that reads the environment. No heavy import.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Folders in a profile's record.
KEPT = "results"  # of networks whose weights are not kept
BEGUN = "begun"  # states of trainings that another machine can go on with


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: what, where, what to do.

    Names of files may hold anything; whatever is not printable is shown escaped, and a very long
    message loses its middle.
    """

    def __init__(self, message: object = ""):
        super().__init__(_one_line(str(message)))


def _one_line(text: str, longest: int = 1000) -> str:
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    line = "".join(escaped)
    if len(line) <= longest:
        return line
    return f"{line[: longest * 2 // 3]} ... {line[-longest // 4 :]}"


class Diverged(InputError):
    """A training whose loss is no longer a number."""


def unknown(what: str, name: object, known: Iterable[object]) -> InputError:
    """The error that there is no `what` called `name`, with the nearest known name
    and all of them."""
    names = [str(k) for k in known]
    hint = nearest(str(name), names)
    return InputError(f"{what} {name!r} does not exist: {hint}choose from {', '.join(names)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'cifar10'? "`` or an empty string, for the end of an error message."""
    match = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"did you mean {match[0]!r}? " if match else ""


# ---------------------------------------------------------------- parameters


@dataclass(frozen=True)
class Parameter:
    """One notebook parameter: its kind, the values it may take, and a line of help."""

    kind: type
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


PARAMETERS: dict[str, Parameter] = {
    "profile": Parameter(str, "the named set of all the values below"),
    "dataset": Parameter(str, "what to learn", ("sample", "cifar10", "cinic10", "folder")),
    "data_dir": Parameter(str, "folder the data set lies in, or is downloaded to"),
    "resize": Parameter(int, "side in pixels that images are resized to", low=8, high=4096),
    "device": Parameter(str, "where to compute", ("auto", "cpu", "cuda")),
    "precision": Parameter(str, "arithmetic of the networks", ("fp32", "bf16")),
    "n_train": Parameter(int, "training images", low=1),
    "n_test": Parameter(int, "test images", low=1),
    "holdout": Parameter(int, "images held out for choices", low=0),
    "epochs": Parameter(int, "epochs of a student", low=1, high=10_000),
    "teacher_epochs": Parameter(int, "epochs of a teacher", low=1, high=10_000),
    "seeds": Parameter(int, "students of each method that the text compares", low=1, high=16),
    "alpha": Parameter(float, "weight of the image teacher against the PI teacher", low=0, high=1),
    "lam": Parameter(float, "weight of the teachers' logits against the labels", low=0, high=1),
    "temperature": Parameter(float, "softening of the logits", low=0.01, high=1000),
    "gamma": Parameter(float, "weight of the similarity maps", low=0, high=1e6),
    "kl_reduction": Parameter(str, "how the divergence is averaged", ("mean", "batchmean")),
    "orientation": Parameter(
        str, "how pixels are flattened into a signal", ("row", "column", "both", "authors_literal")
    ),
    "selection": Parameter(str, "which epoch counts", ("last", "authors")),
}


def parse(name: str, text: str) -> int | float | str:
    """The value of parameter `name` written as `text` on a command line, checked.

    Raises InputError for an unknown name, a value of the wrong kind, or one out of range.
    """
    parameter = _parameter(name)
    try:
        value = parameter.kind(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}[parameter.kind]
        raise InputError(f"{name}={text}: not {kind} ({parameter.help})") from None
    return check(name, value)


def check(name: str, value):
    """`value`, if parameter `name` may take it; InputError (one line) otherwise."""
    p = _parameter(name)
    value = _plain(value, p.kind)
    if type(value) is not p.kind:
        raise InputError(
            f"{name}={value!r}: {p.kind.__name__} expected, not {type(value).__name__} ({p.help})"
        )
    if name == "profile":
        _profile(value)
    if p.choices and value not in p.choices:
        raise unknown(name, value, p.choices)
    if p.low is not None and not value >= p.low:  # `not >=` also refuses nan
        raise InputError(f"{name}={value}: must be at least {p.low} ({p.help})")
    if p.high is not None and not value <= p.high:
        raise InputError(f"{name}={value}: must be at most {p.high} ({p.help})")
    if value == float("inf"):
        raise InputError(f"{name}={value}: must be finite ({p.help})")
    return value


def _plain(value, kind: type):
    """A number of NumPy or a Path as Python's own type, a whole number as a float if asked."""
    if isinstance(value, os.PathLike) and kind is str:
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return value


def _parameter(name: str) -> Parameter:
    if name not in PARAMETERS:
        raise unknown("parameter", name, PARAMETERS)
    return PARAMETERS[name]


# ---------------------------------------------------------------- schedule


@dataclass(frozen=True)
class Schedule:
    """SGD and its steps; defaults are the authors' (their released code).

    `epochs` are trained, out of a schedule `length` epochs long: the rate is `lr`, times 0.2 at
    each of 0.2, 0.4, 0.6 and 0.8 of the length, rounded (40, 80, 120, 160 of 200), never before
    the first epoch is over.
    """

    epochs: int
    length: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def rate(self, epoch: int) -> float:
        """Learning rate in `epoch`, counted from 0."""
        passed = sum(epoch >= max(1, round(self.length * k / 5)) for k in (1, 2, 3, 4))
        return self.lr * 0.2**passed


# ---------------------------------------------------------------- profiles


@dataclass(frozen=True)
class Published:
    """What the published teachers of a profile were trained on, where that is not the run's own
    data.

    images: fingerprint of their training images, which need not be at hand
    (`datasets.teachers_images`).
    """

    images: str
    batch_size: int = 128
    precision: str = "bf16"


@dataclass(frozen=True)
class Settings:
    """All that a run depends on. The fields up to `selection` are the notebooks' parameters."""

    profile: str
    dataset: str
    n_train: int | None  # None: all
    n_test: int | None
    holdout: int  # images for choices, never among the n_train
    epochs: int
    teacher_epochs: int
    seeds: int  # of the methods that the text compares (`methods.COMPARED`)
    purpose: str
    budget: str
    memory_gb: float  # that a process of the run takes at most (--plan holds its estimate to it)
    data_dir: str | None = None  # None: data/ in the repository
    resize: int | None = None  # None: images stay as they are
    device: str = "auto"
    precision: str = "fp32"
    alpha: float = 0.99  # the paper's values from here on
    lam: float = 0.9
    temperature: float = 4.0
    gamma: float = 3000.0
    kl_reduction: str = "mean"
    orientation: str = "both"
    selection: str = "last"
    # ---- fixed by the profile
    grid: str = "main"  # which methods beside the main table, see `methods.GRIDS`
    # Length of the whole schedule, if `epochs` is only its beginning.
    schedule_epochs: int | None = None
    extra_seeds: int = 3  # of methods that the text does not compare
    fresh_seeds: int = 0  # beyond `seeds`, for what docs/protocol-topology.md tests
    teacher: tuple[int, int] = (16, 3)  # depth, width of a WRN
    published: Published | None = None  # None: teachers are trained on the run's own images
    student: tuple[int, int] = (16, 1)
    batch_size: int = 128
    few_steps: bool = False  # baselines weigh what `methods.FEW_STEP_FACTORS` leaves of them
    data_seed: int = 0  # of subset and held-out part
    corruptions: tuple[str, ...] | None = None  # that robustness is measured under; None: all
    n_corrupted: int | None = 2000  # test images that are corrupted; None: all
    publishes: bool = False  # whether its networks are worth their bytes in the repository
    overrides: tuple[tuple[str, object], ...] = ()

    @property
    def run_name(self) -> str:
        """Folder name of this run: the profile, and what was overridden in it."""
        changed = [f"{k}={v}" for k, v in self.overrides if k not in ("data_dir", "device")]
        if self.dataset == "folder" and self.data_dir:
            place = hashlib.sha256(str(data_path(self)).encode()).hexdigest()[:6]
            changed.append(f"from={Path(self.data_dir).name}-{place}")
        return "+".join([self.profile, ",".join(changed)]) if changed else self.profile


# Of a thousand steps the paper's gamma of 3000 leaves none to recover in: training collapses in the
# first epochs. 300 was chosen on held-out images for TGD at alpha = 1, so that the choice cannot
# favour topology (DEVIATIONS.md); the paper's stands beside it as a method of its own. `quick`, of
# 384 steps, has weights of its own, chosen in the same way (benchmarks/recorded/weights.md).
FEW_STEPS = 300.0

# The 48,000 training images of CIFAR-10 that no profile holds out: what the teachers of `study` are
# trained on, and those of `quick`, whose sample holds 500 of the 2,000 out.
NOT_HELD_OUT = "91e09524a7e59a4287011fbb8500449bb90b9386f3f52df85182db250ce77657"
SHORT_EPOCHS = 8  # of those teachers

PROFILES: dict[str, Settings] = {
    s.profile: s
    for s in (  # the less telling first
        Settings(
            profile="smoke", purpose="CI and tests", budget="3 minutes, all notebooks",
            memory_gb=2, dataset="sample", n_train=160, n_test=160, holdout=80,
            epochs=1, teacher_epochs=1, seeds=1, extra_seeds=1, grid="all",
            teacher=(10, 2), student=(10, 1), batch_size=32, n_corrupted=40,
        ),
        Settings(
            profile="quick", purpose="a first run, offline",
            budget="10 minutes on 2 cores", memory_gb=4,
            dataset="sample", n_train=2000, n_test=1500, holdout=500,
            epochs=12, teacher_epochs=SHORT_EPOCHS, seeds=2, extra_seeds=1, grid="quick",
            published=Published(NOT_HELD_OUT), batch_size=64, gamma=100.0,
            kl_reduction="batchmean",
            corruptions=("gaussian_noise",), n_corrupted=400, publishes=True,
        ),
        Settings(
            profile="study", purpose="59 methods on 5,000 images, strong teachers",
            budget="14 hours on 2 cores with bf16, resumable", memory_gb=8,
            dataset="cifar10", n_train=5000, n_test=None, holdout=2000,
            epochs=30, teacher_epochs=SHORT_EPOCHS, seeds=6, fresh_seeds=6, grid="study",
            precision="bf16", gamma=FEW_STEPS, few_steps=True, published=Published(NOT_HELD_OUT),
            n_corrupted=1000, publishes=True,
        ),
        Settings(
            profile="paper-42", purpose="the first 42 of the paper's 200 epochs",
            budget="44 to 112 hours on 2 cores, resumable", memory_gb=20,
            dataset="cifar10", n_train=None, n_test=None,
            holdout=0, epochs=42, teacher_epochs=42, schedule_epochs=200, seeds=6, grid="paper-42",
            precision="bf16", publishes=True,
        ),
        Settings(
            profile="paper", purpose="the paper's setting", budget="one GPU",
            memory_gb=20, dataset="cifar10", n_train=None, n_test=None, holdout=0,
            epochs=200, teacher_epochs=200, seeds=6, grid="all", n_corrupted=None, publishes=True,
        ),
    )
}  # fmt: skip


BY_SIZE = tuple(reversed(PROFILES))  # the most telling record first
# Where one of these is overridden, the published teachers are no answer: the run trains its own.
TRAINS_OWN_TEACHERS = ("dataset", "teacher_epochs", "resize", "orientation", "selection")


def resolve(profile: str = "quick", **overrides) -> Settings:
    """The settings of a profile with the overrides that are not None, all checked.

    Raises InputError for an unknown profile or parameter, or a value that cannot be.
    """
    base = _profile(profile)
    given = {k: check(k, v) for k, v in overrides.items() if v is not None}
    if given.get("dataset") == "folder":  # all of one's own images, unless told otherwise
        base = replace(base, n_train=None, n_test=None, holdout=0)
        if "data_dir" not in given:
            raise InputError(
                "dataset='folder' needs data_dir: the folder with train/ and test/ in it"
            )
    changed = {k: v for k, v in given.items() if v != getattr(base, k)}
    if base.published and any(name in changed for name in TRAINS_OWN_TEACHERS):
        # On a run's own images a few epochs are few steps: as many as a student's, then.
        base = replace(base, published=None, teacher_epochs=given.get("epochs", base.epochs))
    if "seeds" in changed:
        same = base.extra_seeds == base.seeds  # of all methods, then, and they stay so
        changed["extra_seeds"] = (
            changed["seeds"] if same else min(base.extra_seeds, changed["seeds"])
        )
        base = replace(base, fresh_seeds=0)
    named = tuple((k, changed[k]) for k in PARAMETERS if k in changed)
    return replace(base, **changed, overrides=named)


def _profile(name: str) -> Settings:
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]


# ---------------------------------------------------------------- paths and environment


def cores() -> int:
    """Cores that this process may use: in a container, or under SLURM, not all there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def data_path(settings: Settings) -> Path:
    """Where the data set lies; relative paths count from the repository's root."""
    return from_root(settings.data_dir or "data")


def artifacts_dir() -> Path:
    """Root of the store and of the runs: $TGD_ARTIFACTS (counted from the repository), or
    artifacts/.
    """
    return from_root(os.environ.get("TGD_ARTIFACTS") or "artifacts")


def from_root(folder: str | Path) -> Path:
    """A folder as the user names it, counted from the repository's root; InputError for ~nobody."""
    try:
        return ROOT / Path(folder).expanduser()
    except RuntimeError:
        raise InputError(f"{folder}: no user of that name; correct the path") from None


def run_dir(settings: Settings) -> Path:
    """Folder of this run's executed notebooks, figures and tables."""
    return artifacts_dir() / "runs" / settings.run_name


def forced_since() -> float:
    """$TGD_FORCE_SINCE: artefacts made before this time (seconds since 1970) are made again."""
    text = os.environ.get("TGD_FORCE_SINCE") or "0"
    try:
        return float(text)
    except ValueError:
        raise InputError(f"TGD_FORCE_SINCE={text!r}: not seconds since 1970; unset it") from None


def kept_results(profile: str) -> Path | None:
    """Where the results lie that a run goes on from; None unless $TGD_FROM_RESULTS asks for it."""
    asked = os.environ.get("TGD_FROM_RESULTS", "") not in ("", "0")
    return ROOT / "figures" / profile / KEPT if asked else None
