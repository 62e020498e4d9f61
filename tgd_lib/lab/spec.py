"""What one trained network is: a frozen spec of everything that determines it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tgd_lib.config import Schedule
from tgd_lib.lab.store import key_of
from tgd_lib.topology import PersistenceImageParams


@dataclass(frozen=True)
class View:
    """What a network looks at.

    kind: "image"; "pi", persistence images; "pi_within" or "pi_across", those of another image of the same
    class or of any; "pi_noisy", those of noisy copies of the images; "noise", a fixed random picture of that
    size per image; "image_map", the image and its persistence map.
    """

    kind: str
    channels: int
    constants: tuple[tuple[float, ...], tuple[float, ...]] | None  # mean, std; None: measured on the training images
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


@dataclass(frozen=True)
class Baseline:
    """A method from the literature: ce * CE + kd * KD(temperature, "batchmean") + weight * loss."""

    loss: str  # its name in baselines.LOSSES
    weight: float
    source: str  # of the weights
    ce: float = 1.0
    kd: float = 0.0  # plain KD is not added to a baseline (RepDistiller: -r 1 -a 0 -b weight)
    temperature: float = 4.0

    @property
    def weights(self) -> dict[str, float]:
        """As `baselines.baseline_loss` takes them."""
        return {k: getattr(self, k) for k in ("weight", "ce", "kd", "temperature")}


@dataclass(frozen=True)
class Spec:
    """One trained network. `label` and `method` name it for people and are not part of its key."""

    label: str
    method: str
    data: str  # fingerprint of the training images
    view: View
    network: tuple[int, int, int]  # depth, width, classes
    schedule: Schedule
    precision: str
    seed: int
    selection: str
    test: str | None = None  # fingerprint of the test images, where they are selected on
    guidance: Guidance | None = None
    baseline: Baseline | None = None
    teachers: tuple[Spec | None, Spec | None] = (None, None)
    start: Spec | None = None

    @property
    def key(self) -> str:
        """Key in the store. Teachers and start enter by their keys."""
        return key_of("network", self.question)

    @property
    def question(self) -> dict:
        """All that determines the weights, as a plain dictionary.

        What came to be a choice later (`order`, `baseline`) is left out where nothing is chosen: the answer is as before.
        """
        own = {k: getattr(self, k) for k in ("data", "view", "network", "schedule", "precision", "seed")}
        guidance = self.guidance and {k: v for k, v in asdict(self.guidance).items() if v is not None}
        chosen = {"selection": self.selection, "test": self.test, "guidance": guidance}
        # "rival" is its name in the keys of recorded artefacts
        chosen |= {"rival": {k: v for k, v in asdict(self.baseline).items() if k != "source"}} if self.baseline else {}
        trained = {"teachers": [t and t.key for t in self.teachers], "start": self.start and self.start.key}
        return own | chosen | trained

    @property
    def needs(self) -> tuple[Spec, ...]:
        """What must be trained before: the teachers, then the start."""
        return tuple(s for s in (*self.teachers, self.start) if s)

    @property
    def epochs_in_all(self) -> int:
        """Epochs that the weights have seen, those of the start included: the compute to match."""
        return self.schedule.epochs + (self.start.epochs_in_all if self.start else 0)
