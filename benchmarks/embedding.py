"""The price of guiding a student by its teacher's embedding, as ratios to a step of KD.

    python -m benchmarks.embedding [--quick] [--out DIR] [--device cpu|cuda] [--repeats N]

One student (WRN-16-1), batch 128, a teacher's logits and embedding (192 wide) looked up; all steps
in turn in one process: plain, KD, KD with each embedding loss and each kind of edges, and the
baselines that are fed embeddings. Beside it, what is computed on the host alone: a tree of 128
points, and loops (H1) by gudhi's Rips complex for 32, 64 and 128 points, two of which a step would
need. Images and embeddings are made up, ten clusters of them: that does not change the speed.
--quick: few and small images, few repetitions; asserts that trees give gudhi's deaths, no times.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import _measure
from tgd_lib import baselines, embedding, losses
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule
from tgd_lib.networks import Outputs, wide_resnet
from tgd_lib.study.cost import interleaved, summary
from tgd_lib.training import Run, label_objective

PACKAGES = ("torch", "numpy", "scipy", "gudhi")
BATCH, CLASSES, WIDTHS = 128, 10, ((16, 32, 64), (48, 96, 192))
KD = {"alpha": 1.0, "lam": 0.9, "temperature": 4.0, "gamma": 0.0, "kl_reduction": "batchmean"}
WARM_UP = 3  # steps that are not timed
LOOPS = (32, 64, 128)  # points of the clouds whose H1 is timed
FED = ("cc", "rkd", "pkt", "topkd")


def main() -> None:
    parser = _measure.parser(__doc__, quick=_measure.AGREEMENT, folder="embedding")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=_measure.count, default=30)
    options = parser.parse_args()
    repeats = 2 if options.quick else options.repeats
    device = Compute.choose(options.device).name
    record = {"machine": _measure.machine(*PACKAGES), "device": device, "quick": options.quick}
    n, side = (2 * BATCH, 12) if options.quick else (8 * BATCH, 32)
    for precision in ("fp32", "bf16"):
        case = Case(Compute.choose(options.device, precision), n=n, side=side)
        record[precision] = case.measure(repeats)
    record["host_s"] = on_host(case.teacher.cpu(), repeats)
    record["deaths_disagree"] = disagreement(case.teacher[:32].cpu())
    assert record["deaths_disagree"] < 1e-5, "trees do not give gudhi's deaths"
    _measure.write(options.out, "embedding", record, report(record))


class Case:
    """Made-up images, and a made-up teacher's logits and embedding of them, in one precision."""

    def __init__(self, compute: Compute, *, n: int, side: int):
        rng = np.random.default_rng(0)
        self.compute = compute
        images = rng.integers(0, 256, (n, 3, side, side)).astype(np.uint8)
        self.pixels = Pixels(images, (0.5,) * 3, (0.25,) * 3, compute)
        labels = rng.integers(0, CLASSES, n)
        self.labels = torch.from_numpy(labels)
        # A cluster a class, and never negative, as after a ReLU.
        centres = rng.normal(size=(CLASSES, WIDTHS[1][2]))
        cloud = np.maximum(centres[labels] + 0.5 * rng.normal(size=(n, WIDTHS[1][2])), 0)
        self.teacher = torch.from_numpy(cloud).float().to(compute.device)  # (n, 192)
        self.logits = torch.randn(n, CLASSES, device=compute.device)

    def measure(self, repeats: int) -> dict:
        """Seconds of each kind of step, and its ratios to steps of KD taken in turn with it."""
        # In turn, so that a busy minute of the machine falls on all of them alike.
        steps = {"plain": self.stepper(label_objective), "KD": self.stepper(self.kd)}
        for loss in embedding.LOSSES:
            for edges in embedding.EDGES:
                objective = self.guided(loss, edges)
                steps[f"KD + {loss}, {edges}"] = self.stepper(objective)
        for name in FED:
            own = baselines.own_parameters(name, *WIDTHS, seed=0)
            own = own and self.compute.place(own)
            steps[name] = self.stepper(self.baseline(name, own), own=own)
        seconds = interleaved(steps, repeats, clock=self.now)
        ratios = {name: _measure.ratio(values, seconds["KD"]) for name, values in seconds.items()}
        return {"step_s": {k: summary(v) for k, v in seconds.items()}, "times_kd": ratios}

    def now(self) -> float:
        if self.compute.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def stepper(self, objective, *, own=None) -> Callable[[int], None]:
        """Steps as training takes them, of full batches."""
        run = Run(
            wide_resnet(16, 1, seed=0), self.pixels, self.labels, Schedule(1, 1, BATCH), seed=0,
            objective=objective, own=own,
        )  # fmt: skip
        run.begin()
        # The first steps make buffers and pick kernels.
        for number in range(WARM_UP):
            run.advance(number % run.steps)
        return lambda number: run.advance(number % run.steps)

    def kd(self, student: Outputs, labels, index, epoch):
        pair = (self.logits[index], None)
        return losses.tgd_loss(student.logits, labels, None, pair, None, **KD)

    def guided(self, loss: str, edges: str):
        def objective(student: Outputs, labels, index, epoch):
            total, terms = self.kd(student, labels, index, epoch)
            term = embedding.embedding_loss(
                student.embedding, self.teacher[index], index, loss=loss, edges=edges
            )
            return total + 3 * term, terms | {"embedding": 3 * term}

        return objective

    def baseline(self, name: str, own):
        def objective(student: Outputs, labels, index, epoch):
            teacher = Outputs(self.logits[index], [], self.teacher[index])
            # Hardly any weight: what a step costs does not depend on it, and nothing diverges.
            weights = {"weight": 1e-6, "kd": 1.0}
            return baselines.baseline_loss(name, student, teacher, labels, own, **weights)

        return objective


def on_host(cloud: torch.Tensor, repeats: int) -> dict[str, dict]:
    """Seconds of a tree, and of loops, of made-up clouds."""
    lengths = embedding.distances(cloud[:BATCH]).numpy()
    calls = {f"tree, {BATCH} points": lambda _: embedding.tree_edges(lengths)}
    for count in LOOPS:
        square = torch.cdist(cloud[:count], cloud[:count]).double().numpy()
        calls[f"H1, {count} points"] = lambda _, square=square: loops(square)
    return {name: summary(values) for name, values in interleaved(calls, repeats).items()}


def loops(square: np.ndarray):
    """The edges that bear and end each loop of a Rips complex: a gradient would run
    through them."""
    import gudhi

    rips = gudhi.RipsComplex(distance_matrix=square)
    simplices = rips.create_simplex_tree(max_dimension=2)
    simplices.compute_persistence()
    return simplices.flag_persistence_generators()


def disagreement(cloud: torch.Tensor) -> float:
    """Largest difference between H0 deaths by the tree and by gudhi."""
    import gudhi

    square = torch.cdist(cloud, cloud).double().numpy()
    rips = gudhi.RipsComplex(distance_matrix=square)
    simplices = rips.create_simplex_tree(max_dimension=1)
    # -1 keeps pairs that die where they are born: points that coincide.
    simplices.compute_persistence(min_persistence=-1)
    intervals = simplices.persistence_intervals_in_dimension(0)
    died = np.sort(intervals[np.isfinite(intervals[:, 1]), 1])
    return float(np.abs(embedding.deaths(cloud).numpy() - died).max())


def report(record: dict) -> str:
    lines = [f"device {record['device']}, batch {BATCH}; {record['machine']}"]
    for precision in ("fp32", "bf16"):
        rows = []
        for name, s in record[precision]["step_s"].items():
            ratio = record[precision]["times_kd"][name]
            low, high = ratio["quartiles"]
            row = {"step": name, "median ms": f"{1e3 * s['median']:.1f}", "n": s["n"]}
            row["times KD (quartiles)"] = f"{ratio['median']:.2f} ({low:.2f}-{high:.2f})"
            rows.append(row)
        lines += ["", precision, "", _measure.table(rows)]
    rows = []
    for name, s in record["host_s"].items():
        row = {"on the host": name, "median ms": f"{1e3 * s['median']:.2f}"}
        row["min-max ms"] = f"{1e3 * s['min']:.2f}-{1e3 * s['max']:.2f}"
        rows.append(row | {"n": s["n"]})
    lines += ["", _measure.table(rows), ""]
    lines.append(f"H0 deaths by tree and by gudhi differ by {record['deaths_disagree']:.0e}")
    return "\n".join(lines)


if __name__ == "__main__":
    _measure.run(main)
