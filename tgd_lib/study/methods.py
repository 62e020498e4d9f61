"""The study as tables: teachers, methods of training the student, and which of them a profile runs.

    TEACHERS    networks on images, on persistence images and their variants, and controls
    METHODS     the main five, baselines from the literature, ablations, extensions of TGD
    GRIDS       for each grid, the methods that run beside the main five

Constants only; nothing here trains or imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tgd_lib.config import Settings, unknown
from tgd_lib.lab.spec import Baseline, EmbeddingGuidance
from tgd_lib.topology import PersistenceImageParams

# ---------------------------------------------------------------- teachers


@dataclass(frozen=True)
class TeacherKind:
    """One network that may teach. None means: as the settings say."""

    name: str
    label: str
    sees: str = "pi"  # a kind of view, see specs.View
    seed: int = 0
    width: int | None = None
    orientation: str | None = None
    params: PersistenceImageParams = PersistenceImageParams()


# A window that holds all births and persistences.
WIDE = PersistenceImageParams(high=1.0, sigma=0.02)

TEACHERS: dict[str, TeacherKind] = {
    t.name: t
    for t in (
        TeacherKind("image", "image teacher", "image"),
        TeacherKind("pi", "PI teacher"),
        # control: is it topology, or any second teacher?
        TeacherKind("image_2", "second image teacher", "image", seed=1),
        # how the persistence image is made
        TeacherKind("pi_row", "row-wise PIs", orientation="row"),
        TeacherKind("pi_column", "column-wise PIs", orientation="column"),
        TeacherKind(
            "pi_literal", "PIs as the authors' instructions read", orientation="authors_literal"
        ),
        TeacherKind("pi_wide", "PI window 0 to 1, sigma 0.02", params=WIDE),
        # other topology
        TeacherKind("cubical", "cubical H0 and H1", orientation="cubical", params=WIDE),
        TeacherKind(
            "super", "superlevel cubical H0 and H1", orientation="cubical_super", params=WIDE
        ),
        TeacherKind("image_map", "image and persistence map", "image_map"),
        TeacherKind("pi_noisy", "PIs of noisy images", "pi_noisy"),
        # teacher size (a seed that no student has: else it were a student's scratch network)
        TeacherKind("image_small", "image teacher, width 1", "image", seed=100, width=1),
    )
}


def teacher(name: str) -> TeacherKind:
    """The teacher called `name`; InputError (with the nearest name) if there is none."""
    if name not in TEACHERS:
        raise unknown("teacher", name, TEACHERS)
    return TEACHERS[name]


# ---------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """One way to train the student. None means: as the settings say."""

    name: str
    label: str
    why: str
    distils: bool = True
    first: str = "image"  # weighs alpha
    second: str = "pi"  # weighs 1 - alpha; a teacher without weight is not trained
    shown: str | None = None  # kind of view that the second is shown instead of its own
    # The method whose student of the same seed it starts from ("annealing").
    start: str | None = None
    alpha: float | None = None
    lam: float | None = None
    temperature: float | None = None
    gamma: float | None = None
    kl_reduction: str | None = None
    # "normalise": each map is normalised before merging; None: after, as the authors.
    order: str | None = None
    baseline: Baseline | None = None
    embedding: EmbeddingGuidance | None = None
    control: str | None = None  # the method with something else in the topology's place


_MAIN = (
    Method("scratch", "Scratch", "labels only", distils=False),
    Method("kd", "KD", "plain distillation from the image teacher", alpha=1.0, gamma=0.0),
    Method(
        "kd_annealed",
        "KD, annealing",
        "as many epochs as TGD: the compute-matched control",
        start="scratch",
        alpha=1.0,
        gamma=0.0,
    ),
    Method(
        "tgd_alpha1",
        "TGD without the PI teacher (α = 1)",
        "what TGD adds to it is what that teacher adds",
        start="scratch",
        alpha=1.0,
    ),
    Method("tgd", "TGD", "the paper's method", start="scratch", control="tgd_image_2"),
)

_COMMON = "RepDistiller, scripts/run_cifar_distill.sh"


def _baseline(
    name: str, label: str, why: str, weight: float, source: str = _COMMON, **own
) -> Method:
    return Method(name, label, why, alpha=1.0, baseline=Baseline(name, weight, source, **own))


def _annealed(m: Method) -> Method:
    """The same from the scratch student, so that it has had as many total epochs as TGD."""
    name, label = f"{m.name}_annealed", f"{m.label}, annealing"
    return replace(m, name=name, label=label, why="as many epochs as TGD", start="scratch")


# KD in its strongest form, and what everything that is guided by the embedding stands on.
_KD = Method(
    "kd_batchmean_annealed",
    "KD, batchmean, annealing",
    "the textbook's KD with as many epochs as TGD",
    start="scratch",
    alpha=1.0,
    gamma=0.0,
    kl_reduction="batchmean",
)

_BASELINES = (
    Method(
        "kd_batchmean",
        "KD, batchmean",
        "the textbook's reduction: ten times stronger on ten classes",
        alpha=1.0,
        gamma=0.0,
        kl_reduction="batchmean",
    ),
    _KD,
    Method("kd_pi", "KD from the PI teacher", "topology's own logits, as KD", alpha=0.0, gamma=0.0),
    Method(
        "two_teachers",
        "Two teachers averaged",
        "both teachers' logits in equal parts, as KD, no maps",
        alpha=0.5,
        gamma=0.0,
    ),
    _baseline("fitnets", "FitNets", "hints: the teacher's middle features, regressed", 100.0),
    _baseline("at", "AT", "attention transfer: where the teacher's features are strong", 1000.0),
    _baseline("sp", "SP", "similarity-preserving: the last stage's similarity map", 3000.0),
    _baseline("cc", "CC", "correlation congruence", 0.02, fed="embedding"),
    _baseline(
        "rkd", "RKD", "relational: distances and angles between images", 1.0, fed="embedding"
    ),
    _baseline("vid", "VID", "variational information distillation", 1.0),
    _baseline("pkt", "PKT", "probabilistic knowledge transfer", 30000.0, fed="embedding"),
    # on top of KD, as its authors have it; their batch is 64, their rate 0.05, their weight decay
    # 5e-4
    _baseline(
        "topkd",
        "TopKD",
        "topology of the embedding, by a network that guesses its image",
        5.0,
        "Kim et al. 2024, authors' repository: 1, 2 and 5 for ResNet56 to ResNet20",
        kd=2.0,
        fed="embedding",
    ),
    # their code's warm-up is 20 of 240 epochs
    _baseline(
        "dkd",
        "DKD",
        "decoupled KD: target and non-target classes apart",
        1.0,
        "Zhao et al. 2022, supplement: 1, 8 and 4 for CIFAR-100",
        warm_up=1 / 12,
    ),
    # weight 2 is also PaddleClas's; that CIFAR takes temperature 4 could not be checked against a
    # source
    _baseline(
        "dist",
        "DIST",
        "correlations instead of divergences",
        2.0,
        "Huang et al. 2022: beta = gamma = 2 in all",
    ),
)
_BASELINES += tuple(_annealed(m) for m in _BASELINES if m.baseline)

# What is left of their sources' weights where steps are few: lowered until accuracy on held-out
# images fell (benchmarks/recorded/weights_baselines.md). As with gamma, some collapse otherwise.
FEW_STEP_FACTORS = {
    **dict.fromkeys(("fitnets", "sp", "cc", "pkt", "dist"), 0.1),
    **dict.fromkeys(("topkd", "dkd"), 0.3),
}


def _tgd(name: str, label: str, why: str, **changed) -> Method:
    """TGD, annealing included, but for what is `changed`."""
    return Method(name, label, why, **{"start": "scratch"} | changed)


ALPHAS = (0.0, 0.5, 0.9, 0.95)  # beside the paper's 0.99 (TGD itself) and 1 (the control)
GAMMAS = (10.0, 100.0, 300.0, 1000.0, 3000.0)  # the run's own is left out (`Specs.students`)
_ABLATIONS = (
    Method(
        "scratch_twice",
        "Scratch, twice",
        "as many epochs as TGD, without teachers",
        distils=False,
        start="scratch",
    ),
    _tgd("tgd_no_annealing", "TGD without annealing", "from random weights", start=None),
    _tgd("tgd_logits", "TGD, logits only", "no similarity maps", gamma=0.0),
    _tgd("tgd_maps", "TGD, maps only", "no teacher's logits", lam=0.0),
    *(
        _tgd(f"tgd_alpha{a:g}", f"TGD at α = {a:g}", "the image teacher's weight", alpha=a)
        for a in ALPHAS
    ),
    *(
        _tgd(f"tgd_temperature{t:g}", f"TGD at T = {t:g}", "softening of the logits", temperature=t)
        for t in (1.0, 2.0, 8.0)
    ),
    *(
        _tgd(f"tgd_lambda{x:g}", f"TGD at λ = {x:g}", "logits against labels", lam=x)
        for x in (0.5, 0.7)
    ),
    *(_tgd(f"tgd_gamma{g:g}", f"TGD at γ = {g:g}", "weight of the maps", gamma=g) for g in GAMMAS),
    *(
        _tgd(
            f"tgd_alpha1_gamma{g:g}",
            f"TGD without the PI teacher, γ = {g:g}",
            "its control",
            alpha=1.0,
            gamma=g,
        )
        for g in GAMMAS
    ),
    _tgd(
        "tgd_batchmean", "TGD, batchmean", "the textbook's KL reduction", kl_reduction="batchmean"
    ),
    _tgd(
        "tgd_alpha1_batchmean",
        "TGD without the PI teacher, batchmean",
        "its control",
        alpha=1.0,
        kl_reduction="batchmean",
    ),
    _tgd(
        "tgd_normalise",
        "TGD, normalise then merge",
        "the features' scale plays no part in the shares",
        order="normalise",
    ),
    _tgd(
        "tgd_small_teacher",
        "TGD, small image teacher",
        "an image teacher of the student's size",
        first="image_small",
    ),
    _tgd(
        "tgd_alpha1_small_teacher",
        "TGD without the PI teacher, small image teacher",
        "its control",
        first="image_small",
        alpha=1.0,
    ),
)

# At alpha = 0.99 on raw maps a second teacher's share is under 5 %: all come to the same. Where
# maps are normalised before merging, it is a half at alpha = 0.5 and up to a tenth at 0.9
# (`questions.share`), and second teachers can differ.
SHARES = (0.5, 0.9)  # alphas


def _shared(
    name: str, label: str, why: str, *, control: str | None = "image_2", shown: str | None = None
) -> list[Method]:
    """TGD with a second teacher whose share is real, at each of `SHARES`: the teacher `name`, or
    the PI teacher and what it is `shown`.
    """
    found = []
    for a in SHARES:
        found.append(
            _tgd(
                share_name(name, a),
                f"TGD, {label}, normalised, α = {a:g}",
                why,
                second="pi" if shown else name,
                shown=shown,
                order="normalise",
                alpha=a,
                control=share_name(control, a) if control else None,
            )
        )
    return found


def share_name(second: str, alpha: float) -> str:
    """The method with this second teacher and a real share: "tgd_pi_normalise0.5"."""
    return f"tgd_{second}_normalise{alpha:g}"


_SECOND_TEACHER = (  # is it topology, or just a second teacher?
    _tgd(
        "tgd_image_2",
        "TGD, second image teacher",
        "another seed of the image teacher instead of the PI teacher",
        second="image_2",
    ),
    *_shared("pi", "PI teacher", "the paper's second teacher with a real share"),
    *_shared("image_2", "second image teacher", "any second teacher", control=None),
    # The PI teacher of the rows above, shown something else: the input alone differs.
    *_shared(
        "pi_within",
        "PIs of other images of the class",
        "topology of another image of the class",
        control="pi",
        shown="pi_within",
    ),
    *_shared(
        "pi_across",
        "other images' PIs",
        "topology of any other image",
        control="pi",
        shown="pi_across",
    ),
    *_shared(
        "noise",
        "noise",
        "every pixel from another image's PI: no topology",
        control="pi",
        shown="pi_mixed",
    ),
)

# A guidance that beats its own alpha = 1? The choice is made on held-out images.
_SEARCH = (
    *_shared("pi_wide", "PI window 0 to 1, sigma 0.02", "the most informative PIs of the pilot"),
    *_shared("pi_row", "row-wise PIs", "half of the PI teacher's input"),
    *_shared("pi_column", "column-wise PIs", "the other half"),
    *_shared("pi_literal", "authors' literal PIs", "columns equal rows"),
    *_shared("pi_noisy", "PIs of noisy images", "topology that noise cannot wipe out"),
    *_shared("cubical", "cubical H0 and H1", "the image's own topology, not a flattened signal's"),
    *_shared("super", "superlevel cubical", "bright components and dark holes"),
    *_shared("image_map", "image and map", "a second teacher that sees image and topology"),
)

# Each chosen on held-out images, for its control on random trees, of EMBEDDING_WEIGHTS
# (docs/protocol-topology.md, benchmarks/recorded/weights_embedding.md).
SIGNATURE_WEIGHT, DIAGRAM_WEIGHT = 1.0, 3.0
EMBEDDING_WEIGHTS = (1.0, 3.0, 10.0)


def _guided(name: str, label: str, why: str, control: str | None = None, **guidance) -> Method:
    """KD, batchmean, annealing, guided by the teacher's embedding as well."""
    return replace(
        _KD,
        name=f"kd_{name}",
        label=f"KD + {label}",
        why=why,
        embedding=EmbeddingGuidance(**guidance),
        control=control,
    )


def _signature(name: str, label: str, why: str, *, control: str | None = None, **chosen) -> Method:
    """... by the lengths of the same pairs."""
    return _guided(name, label, why, control, **{"weight": SIGNATURE_WEIGHT} | chosen)


def _diagram(name: str, label: str, why: str, *, control: str | None = None, **chosen) -> Method:
    """... by sorted lengths."""
    weights = {"weight": DIAGRAM_WEIGHT, "loss": "diagram"}
    return _guided(name, label, why, control, **weights | chosen)


_EMBEDDING = (  # is it the embedding's topology, or locality, or distances?
    _signature(
        "signature",
        "signature of H0",
        "the minimum spanning tree's edges keep their lengths",
        control="kd_random_tree",
    ),
    _signature(
        "random_tree",
        "random trees",
        "as many pairs, a tree as well, without topology",
        edges="random_tree",
    ),
    _signature(
        "nearest", "nearest neighbours", "short pairs: locality without a tree", edges="nearest"
    ),
    _signature(
        "shortest", "shortest pairs", "as many as a tree has, and shorter", edges="shortest"
    ),
    _signature("all_pairs", "all pairs", "distances as such", edges="all"),
    _signature(
        "permuted",
        "signature of H0, permuted teacher",
        "topology of other images of the batch",
        permuted=True,
    ),
    _diagram(
        "diagram",
        "H0 diagram",
        "sorted deaths: topology without saying whose",
        control="kd_diagram_random",
    ),
    _diagram(
        "diagram_random",
        "sorted random trees",
        "sorted lengths without topology",
        edges="random_tree",
    ),
    _diagram(
        "diagram_nearest",
        "sorted nearest neighbours",
        "sorted short lengths: locality without a tree",
        edges="nearest",
    ),
    _diagram(
        "diagram_shortest",
        "sorted shortest pairs",
        "as many as a tree has, and shorter",
        edges="shortest",
    ),
)

# The controls at every weight, to choose by; those at the chosen one are the rows above, and are
# left out (`Specs.students`).
_WEIGHTS = tuple(
    of(
        f"{name}_weight{w:g}",
        f"{label}, weight {w:g}",
        "to choose the weight by",
        edges="random_tree",
        weight=w,
    )
    for of, name, label in (
        (_signature, "random_tree", "random trees"),
        (_diagram, "diagram_random", "sorted random trees"),
    )
    for w in EMBEDDING_WEIGHTS
)

_GROUPS = (_MAIN, _BASELINES, _ABLATIONS, _SECOND_TEACHER, _SEARCH, _EMBEDDING, _WEIGHTS)
METHODS: dict[str, Method] = {m.name: m for group in _GROUPS for m in group}
MAIN, BASELINES, ABLATIONS, SECOND_TEACHER, SEARCH, EMBEDDING, WEIGHTS = (
    tuple(m.name for m in group) for group in _GROUPS
)
# Of every main table: KD stands in it with both reductions, and in its strongest form.
TABLE = (*MAIN, "kd_batchmean", "kd_batchmean_annealed")
AUTHORS = ("scratch", "kd", "tgd")  # of which the authors have released networks
# The PI teacher with a real share, shown other images' persistence images, or noise.
SHOWN_OTHERS = tuple(share_name(shown, a) for shown in ("pi_across", "noise") for a in SHARES)
# Families in which methods are shown together; one that is in two is shown in the first.
FAMILIES = (
    ("main methods", TABLE),
    ("baselines", BASELINES),
    ("ablations of TGD", ABLATIONS),
    ("other second teachers", SECOND_TEACHER),
    ("search for a topology", SEARCH),
    ("topology of the embedding", (*EMBEDDING, *WEIGHTS)),
)
OTHERS = "others"
FAMILY_NAMES = (*(name for name, _ in FAMILIES), OTHERS)  # in the order in which they are shown
# Those that the text compares: trained with all seeds of a run, other methods with `extra_seeds`.
COMPARED = (
    *TABLE,
    "scratch_twice",
    "tgd_batchmean",
    "tgd_alpha1_batchmean",
    "tgd_image_2",
    # candidates of docs/protocol-topology.md, and their controls
    *(
        share_name(second, a)
        for second in ("pi", "image_2", "cubical", "image_map")
        for a in SHARES
    ),
    *SHOWN_OTHERS,
    share_name("pi_noisy", 0.9),
    "kd_signature",
    "kd_random_tree",
    "kd_nearest",
    "kd_shortest",
    "kd_all_pairs",
    "kd_permuted",
    "kd_diagram",
    "kd_diagram_random",
)
# Of the search; the first is the control, and stays unless it is beaten.
CANDIDATES = ("tgd_alpha1", "tgd", *(share_name("pi", a) for a in SHARES), *SEARCH)
# On corrupted images too, for calibration and transfer.
EXAMINED = (*COMPARED, "tgd_alpha0.5")
# The image teacher's weight, by what has the rest; each is compared with alpha = 1.
ALPHA_CURVES = {
    "PI teacher": ("tgd", *(f"tgd_alpha{a:g}" for a in ALPHAS)),
    "PI teacher, normalised": tuple(share_name("pi", a) for a in SHARES),
    "second image teacher, normalised": tuple(share_name("image_2", a) for a in SHARES),
}


def method(name: str) -> Method:
    """The method called `name`; InputError (with the nearest name) if there is none."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def family(name: str) -> str:
    """The family that a method is shown in: one of `FAMILY_NAMES`."""
    return next((family for family, members in FAMILIES if name in members), OTHERS)


# ---------------------------------------------------------------- what a profile runs

_ALL = (*BASELINES, *ABLATIONS, *SECOND_TEACHER, *SEARCH, *EMBEDDING, *WEIGHTS)
# All second teachers cost an hour each: those whose share is real, beside what controls them.
_STUDY = (
    *COMPARED,
    *BASELINES,
    "tgd_no_annealing",
    "tgd_logits",
    "tgd_maps",
    "tgd_gamma3000",
    "tgd_alpha1_gamma3000",
)
GRIDS: dict[str, tuple[str, ...]] = {  # beside the methods of the main table
    "main": (),
    "study": _STUDY,
    "all": _ALL,
    "quick": ("kd_batchmean", "kd_batchmean_annealed", "tgd_alpha0.5"),
    "paper-42": (
        "kd_batchmean_annealed",
        "scratch_twice",
        "tgd_batchmean",
        "tgd_alpha1_batchmean",
        "tgd_image_2",
    ),
}


def of(settings: Settings) -> tuple[str, ...]:
    """The methods that a run trains, those of the main table first."""
    return tuple(dict.fromkeys((*TABLE, *GRIDS[settings.grid])))
