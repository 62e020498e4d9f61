"""What one trained network is: a frozen spec of everything that determines it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from tgd_lib.config import Schedule
from tgd_lib.lab.store import key_of
from tgd_lib.topology import PersistenceImageParams


@dataclass(frozen=True)
class View:
    """What a network looks at.

    kind: "image"; "pi", persistence images; "pi_noisy", those of noisy copies of the images;
    "image_map", the image and its persistence map. And what a PI teacher is shown as a control:
    "pi_within" or "pi_across", the persistence image of another image of the same class or of any;
    "pi_mixed", one whose every pixel is another image's.
    """

    kind: str
    channels: int
    # Mean and standard deviation per channel; None: measured on the training images.
    constants: tuple[tuple[float, ...], tuple[float, ...]] | None
    orientation: str | None = None
    params: PersistenceImageParams | None = None


@dataclass(frozen=True)
class Guidance:
    """The weights of a distillation loss, as `losses.tgd_loss` takes them."""

    alpha: float
    lam: float
    temperature: float
    gamma: float
    kl_reduction: str
    order: str | None = None  # None: merge, then normalise
    shown: str | None = None  # kind of view that the second teacher is shown; None: its own


@dataclass(frozen=True)
class Baseline:
    """A method from the literature: ce * CE + kd * KD(temperature, "batchmean") + weight * loss."""

    loss: str  # its name in baselines.LOSSES
    weight: float
    source: str  # of the weights
    ce: float = 1.0
    kd: float = 0.0  # plain KD is not added to most (RepDistiller: -r 1 -a 0 -b weight)
    temperature: float = 4.0
    # What came later is None where it changes nothing, and then is no part of a key.
    fed: str | None = None  # "embedding": the real one; before, features standardised in the batch
    warm_up: float | None = None  # share of the schedule over which the weight grows linearly

    def scaled(self, factor: float) -> Baseline:
        """The same with `factor` times the weights of all but the labels."""
        return replace(self, weight=self.weight * factor, kd=self.kd * factor)

    @property
    def weights(self) -> dict[str, float]:
        """As `baselines.baseline_loss` takes them."""
        return {k: getattr(self, k) for k in ("weight", "ce", "kd", "temperature")}


@dataclass(frozen=True)
class EmbeddingGuidance:
    """weight * `embedding.embedding_loss`, added to the loss of `Guidance`; its names are that
    one's.
    """

    weight: float
    loss: str = "signature"
    edges: str = "tree"
    permuted: bool = False  # the teacher's images change places within the batch


class Architecture(NamedTuple):
    """A wide residual network (WRN-depth-width)."""

    depth: int
    width: int
    classes: int

    @property
    def name(self) -> str:
        return f"WRN-{self.depth}-{self.width}"


@dataclass(frozen=True)
class Spec:
    """One trained network. `name` and `method` are for people and not part of its key."""

    name: str
    method: str
    data: str  # fingerprint of the training images
    view: View
    network: Architecture
    schedule: Schedule
    precision: str
    seed: int
    selection: str
    test: str | None = None  # fingerprint of the test images, where they are selected on
    guidance: Guidance | None = None
    baseline: Baseline | None = None
    embedding: EmbeddingGuidance | None = None
    teachers: tuple[Spec | None, Spec | None] = (None, None)
    start: Spec | None = None

    @property
    def label(self) -> str:
        """Name and seed."""
        return f"{self.name}, seed {self.seed}"

    @property
    def key(self) -> str:
        """Key in the store. Teachers and start enter by their keys."""
        return key_of("network", self.question)

    @property
    def question(self) -> dict:
        """All that determines the weights, as a plain dictionary.

        What came to be a choice later (`order`, `baseline`, `embedding`) is left out where nothing
        is chosen, so that the keys of what was recorded before are as they were.
        """
        plain = ("data", "view", "network", "schedule", "precision", "seed", "selection", "test")
        question = {name: getattr(self, name) for name in plain}
        question["guidance"] = self.guidance and _without_none(self.guidance)
        if self.baseline:
            loss = _without_none(self.baseline)
            del loss["source"]
            question["rival"] = loss  # the name that recorded keys have for it
        if self.embedding:
            question["embedding"] = asdict(self.embedding)
        question["teachers"] = [t and t.key for t in self.teachers]
        question["start"] = self.start and self.start.key
        return question

    @property
    def needs(self) -> tuple[Spec, ...]:
        """What must be trained before: the teachers, then the start."""
        return tuple(s for s in (*self.teachers, self.start) if s)

    def by(self, selection: str, test: str | None) -> Spec:
        """The same, and all that it stands on, by a rule of selection; `test`: as in the field."""
        return replace(
            self,
            selection=selection,
            test=test,
            teachers=tuple(t and t.by(selection, test) for t in self.teachers),
            start=self.start and self.start.by(selection, test),
        )

    @property
    def asked(self) -> tuple[Asked | None, Asked | None]:
        """The teachers, with what each is shown of the training images."""
        first, second = self.teachers
        shown = self.guidance and self.guidance.shown
        return first and Asked(first), second and Asked(second, shown)

    @property
    def epochs_in_all(self) -> int:
        """Total epochs that the weights have seen, those of the start included: the compute to
        match.
        """
        return self.schedule.epochs + (self.start.epochs_in_all if self.start else 0)


class Asked(NamedTuple):
    """A teacher, and the kind of view that it is shown of the training images; None: its own."""

    spec: Spec
    shown: str | None = None

    @property
    def name(self) -> str:
        """Two that answer alike have the same name."""
        return " ".join(filter(None, (self.spec.key, self.shown)))


def _without_none(weights: Guidance | Baseline) -> dict:
    return {name: value for name, value in asdict(weights).items() if value is not None}
