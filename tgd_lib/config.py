"""What can be chosen, and how it is checked: profiles, parameters, paths.

Everything here is a constant or a pure function, except the three functions at the end, which
are the only place in the project that reads the environment. No heavy import.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: what, where, what to do."""


class Diverged(InputError):
    """A training whose loss is no longer a number."""


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
    above: float | None = None  # exclusive lower bound


PARAMETERS: dict[str, Parameter] = {
    "profile": Parameter(str, "the named set of all the values below"),
    "dataset": Parameter(str, "what to learn", ("photographs", "cifar10", "cinic10", "folder")),
    "data_dir": Parameter(str, "folder the data set lies in, or is downloaded to"),
    "resize": Parameter(int, "side in pixels that images are resized to", low=8, high=4096),
    "device": Parameter(str, "where to compute", ("auto", "cpu", "cuda")),
    "precision": Parameter(str, "arithmetic of the networks", ("fp32", "bf16")),
    "n_train": Parameter(int, "training images", low=1),
    "n_test": Parameter(int, "test images", low=1),
    "holdout": Parameter(int, "images held out for choices", low=0),
    "epochs": Parameter(int, "epochs of a student", low=1),
    "teacher_epochs": Parameter(int, "epochs of a teacher", low=1),
    "seeds": Parameter(int, "students of each main method", low=1, high=16),
    "alpha": Parameter(float, "weight of the image teacher against the PI teacher", low=0, high=1),
    "lam": Parameter(float, "weight of the teachers' logits against the labels", low=0, high=1),
    "temperature": Parameter(float, "softening of the logits", above=0),
    "gamma": Parameter(float, "weight of the similarity maps", low=0),
    "kl_reduction": Parameter(str, "how the divergence is averaged", ("mean", "batchmean")),
    "orientation": Parameter(
        str, "how pixels are strung to a signal", ("row", "column", "both", "authors_literal")
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
    if p.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not p.kind:
        raise InputError(
            f"{name}={value!r}: {p.kind.__name__} expected, not {type(value).__name__} ({p.help})"
        )
    if name == "profile":
        _profile(value)
    if p.choices and value not in p.choices:
        hint = nearest(value, p.choices)
        raise InputError(f"{name}={value!r} does not exist: {hint}choose from {', '.join(p.choices)}")
    if p.low is not None and not value >= p.low:  # `not >=` also refuses nan
        raise InputError(f"{name}={value}: must be at least {p.low} ({p.help})")
    if p.above is not None and not p.above < value < float("inf"):
        raise InputError(f"{name}={value}: must be above {p.above} and finite ({p.help})")
    if p.high is not None and not value <= p.high:
        raise InputError(f"{name}={value}: must be at most {p.high} ({p.help})")
    if value == float("inf"):
        raise InputError(f"{name}={value}: must be finite ({p.help})")
    return value


def _parameter(name: str) -> Parameter:
    if name not in PARAMETERS:
        hint = nearest(name, PARAMETERS)
        raise InputError(f"parameter {name!r} does not exist: {hint}there are {', '.join(PARAMETERS)}")
    return PARAMETERS[name]


# ---------------------------------------------------------------- schedule


@dataclass(frozen=True)
class Schedule:
    """SGD and its steps; defaults are the authors' (recipe, "Training").

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
class Settings:
    """All that a run depends on. The fields up to `selection` are the notebooks' parameters."""

    profile: str
    dataset: str
    n_train: int | None  # None: all
    n_test: int | None
    holdout: int  # images for choices, never among the n_train
    epochs: int
    teacher_epochs: int
    seeds: int  # of the main five methods (`methods.MAIN`)
    purpose: str
    budget: str
    data_dir: str | None = None  # None: data/ in the repository
    resize: int | None = None  # None: images stay as they are
    device: str = "auto"
    precision: str = "fp32"
    alpha: float = 0.99  # the paper's values from here on, recipe "The loss"
    lam: float = 0.9
    temperature: float = 4.0
    gamma: float = 3000.0
    kl_reduction: str = "mean"
    orientation: str = "both"
    selection: str = "last"
    # ---- fixed by the profile
    schedule_epochs: int | None = None  # length of the whole schedule, if `epochs` is only its beginning
    extra_seeds: int = 3  # of all other methods
    teacher: tuple[int, int] = (16, 3)  # depth, width of a WRN
    student: tuple[int, int] = (16, 1)
    batch_size: int = 128
    data_seed: int = 0  # of subset and held-out part
    corruptions: tuple[str, ...] | None = None  # that robustness is measured under; None: all
    n_corrupted: int | None = 2000  # test images that are corrupted; None: all
    overrides: tuple[tuple[str, object], ...] = ()

    @property
    def run_name(self) -> str:
        """Folder name of this run: the profile, and what was overridden in it."""
        changed = [f"{k}={v}" for k, v in self.overrides if k not in ("data_dir", "device")]
        if self.dataset == "folder" and self.data_dir:
            place = hashlib.sha256(str(data_path(self)).encode()).hexdigest()[:6]
            changed.append(f"from={Path(self.data_dir).name}-{place}")
        return "+".join([self.profile, ",".join(changed)]) if changed else self.profile


# Of a thousand steps the paper's gamma of 3000 leaves none to recover in: training collapses in the first epochs
# (35.7 % of the held-out images; 54.9 at 1000, 59.2 at 300, 58.0 at 100, 57.4 at 30; one seed). That a smaller one was
# looked for at all came from test accuracies at 3000; which one was chosen on held-out images, seed 0, for TGD at
# alpha = 1, so that the choice cannot favour topology; the paper's stands beside it as a method of its own.
FEW_STEPS = 300.0

PROFILES: dict[str, Settings] = {
    s.profile: s
    for s in (
        Settings(
            "smoke", "photographs", 160, 160, 80, 1, 1, 1, "CI and tests", "3 minutes, all notebooks",
            extra_seeds=1, teacher=(10, 2), student=(10, 1), batch_size=32, n_corrupted=40,
        ),
        Settings(
            "quick", "photographs", 2000, 1600, 400, 12, 12, 2, "a first run, offline", "10 minutes on 2 cores",
            extra_seeds=2, teacher=(16, 2), student=(16, 1), batch_size=64,
            corruptions=("gaussian_noise",), n_corrupted=400,
        ),
        Settings(
            "cifar10-small", "cifar10", 5000, None, 2000, 30, 30, 6, "a laptop overnight", "2 hours on 2 cores",
            precision="bf16", gamma=FEW_STEPS,
        ),
        Settings(
            "cifar10-study", "cifar10", 2500, None, 2000, 12, 12, 2, "every method side by side", "2 hours on 2 cores",
            precision="bf16", gamma=FEW_STEPS, extra_seeds=2,
        ),
        Settings("paper", "cifar10", None, None, 0, 200, 200, 6, "the paper's setting", "one GPU", n_corrupted=None),
        Settings(
            "paper-60", "cifar10", None, None, 0, 60, 60, 6,
            "the first 60 of the paper's 200 epochs", "30 minutes of one H100", schedule_epochs=200,
            n_corrupted=None,
        ),
    )
}  # fmt: skip


BY_SIZE = ("paper", "paper-60", "cifar10-small", "cifar10-study", "quick", "smoke")  # the most telling record first


def resolve(profile: str = "quick", **overrides) -> Settings:
    """The settings of a profile with the overrides that are not None, all checked.

    Raises InputError for an unknown profile or parameter, or a value that cannot be.
    """
    base = _profile(profile)
    given = {k: check(k, v) for k, v in overrides.items() if v is not None}
    if given.get("dataset") == "folder":  # all of one's own images, unless told otherwise
        base = replace(base, n_train=None, n_test=None, holdout=0)
        if "data_dir" not in given:
            raise InputError("dataset='folder' needs data_dir: the folder with train/ and test/ in it")
    changed = {k: v for k, v in given.items() if v != getattr(base, k)}
    if "seeds" in changed:
        same = base.extra_seeds == base.seeds  # of all methods, then, and they stay so
        changed["extra_seeds"] = changed["seeds"] if same else min(base.extra_seeds, changed["seeds"])
    named = tuple((k, changed[k]) for k in PARAMETERS if k in changed)
    return replace(base, **changed, overrides=named)


def _profile(name: str) -> Settings:
    if name not in PROFILES:
        raise InputError(
            f"profile {name!r} does not exist: {nearest(name, PROFILES)}choose from {', '.join(PROFILES)}"
        )
    return PROFILES[name]


# ---------------------------------------------------------------- paths and environment


def data_path(settings: Settings) -> Path:
    """Where the data set lies; relative paths count from the repository's root."""
    return ROOT / Path(settings.data_dir or "data").expanduser()


def artifacts_dir() -> Path:
    """Root of the store and of the runs: $TGD_ARTIFACTS (counted from the repository), or artifacts/."""
    return ROOT / (os.environ.get("TGD_ARTIFACTS") or "artifacts")


def run_dir(settings: Settings) -> Path:
    """Folder of this run's executed notebooks, figures and tables."""
    return artifacts_dir() / "runs" / settings.run_name


def forced_since() -> float:
    """$TGD_FORCE_SINCE: artefacts made before this time (seconds since 1970) are made again."""
    return float(os.environ.get("TGD_FORCE_SINCE") or 0)


