"""The price of a distillation step, against a plain step and against the step as the authors do it.

    python -m benchmarks.distillation [--quick] [--data DIR] [--out DIR] [--device cpu|cuda] [--n N] [--curve N ...]

One student (WRN-16-1), two teachers (WRN-16-3 on images and on 6x50x50 persistence images), batch 128,
all ways of asking the teachers in turn in one process: not at all (plain), from the bank (merged once in
fp32 or fp16, or both raw maps merged in every step), online without gradients, and as the authors do it:
online, gradients flowing into the teachers, all of it contiguous in memory. The loss by bank and online is
compared in the same run; building the bank is timed beside it. Online steps are fewer and taken in turn with
plain ones. Where the raw maps of both teachers do not
fit the memory, they are merged while they are built, as training does then. Curve: seconds and bytes of
the bank against n (--curve), and the n up to which it pays. --quick: tiny networks, agreement asserted, no
time asserted.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import _measure
from benchmarks.training import contiguous
from tgd_lib import bank, config, datasets, losses, topology, training
from tgd_lib.lab import objectives
from tgd_lib.bank import Bank, Online, Teacher
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import Schedule
from tgd_lib.study.cost import interleaved, summary
from tgd_lib.networks import wide_resnet
from tgd_lib.training import Run, label_objective

PACKAGES = ("torch", "numpy")
WEIGHTS = {"alpha": 0.99, "lam": 0.9, "temperature": 4.0, "gamma": 3000.0, "kl_reduction": "mean"}
BARS = "bars: bank step <= 1.20 times plain in fp32, <= 1.35 in bf16; the authors' step >= 25 times the bank step in fp32"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny; asserts agreement, not times")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10 (default: the sample)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: artifacts/benchmarks/distillation")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--n", type=int, default=5000, help="training images of the bank")
    parser.add_argument("--curve", type=int, nargs="+", default=[500, 1000, 2000, 5000, 10_000], metavar="N")
    options = parser.parse_args()
    folder = options.out or config.artifacts_dir() / "benchmarks" / "distillation"
    n, width, repeats, slow = (256, 1, 2, 1) if options.quick else (options.n, 3, 30, 3)
    counts = [64, 128] if options.quick else options.curve
    train = datasets.load("cifar10" if options.data else "sample", "train", options.data, download=False)
    largest = min(max(n, *counts), len(train.labels))
    train = datasets.take(train, datasets.stratified(train.labels, largest, seed=0))
    pis = topology.persistence_images(train.images, n_jobs=None)
    n, counts = min(n, largest), sorted({min(c, largest) for c in counts})
    chosen = np.random.default_rng(0).permutation(largest)[:n]
    part, part_pis = datasets.take(train, chosen), pis[chosen]
    device = Compute.choose(options.device).name
    record = {"machine": _measure.machine(*PACKAGES), "device": device, "quick": options.quick, "n": n}
    for precision in ("fp32", "bf16"):
        case = Case(part, part_pis, Compute.choose(options.device, precision), width)
        together = (1, 2) if options.quick else (1, 6) if options.device == "cuda" else (1,)
        record[precision] = case.measure(repeats, slow, together, authors=precision == "fp32")
    record["curve"] = curve(Case(train, pis, Compute.choose(options.device, "bf16"), width), counts)
    record["peak_mib"] = _measure.peak_mib()
    _measure.write(folder, "distillation", record, report(record))
    plot(record, folder)


class Case:
    """One data set, two untrained teachers and a student in one precision: their speed is that of trained ones."""

    def __init__(self, train: datasets.Dataset, pis: np.ndarray, compute: Compute, width: int):
        self.compute, self.labels = compute, torch.from_numpy(train.labels)
        self.images = Pixels(train.images.transpose(0, 3, 1, 2), (0.5,) * 3, (0.25,) * 3, compute)
        self.pis = Pixels(pis, (0.05,) * 6, (0.13,) * 6, compute)
        views = ((3, self.images), (6, self.pis))
        networks = [compute.place(wide_resnet(16, width, c, seed=c)).eval() for c, _ in views]
        self.teachers = tuple(Teacher(t, p) for t, (_, p) in zip(networks, views, strict=True))

    def measure(self, repeats: int, slow: int, together: Sequence[int], *, authors: bool) -> dict:
        """Seconds of each kind of step, of building the bank, of whole epochs of TGD by `together` students
        side by side, and how far bank and online disagree.
        """
        started, gamma = self.now(), WEIGHTS["gamma"]
        logits = tuple(bank.teacher_logits(t) for t in self.teachers)
        sources = {"bank, logits only (KD)": (Bank(logits, None), 0.0)}
        if bank.STAGES * 4 * len(self.labels) ** 2 > objectives.MAPS_KEPT:
            built = bank.gram(self.teachers, (WEIGHTS["alpha"], 1 - WEIGHTS["alpha"]), dtype=torch.float16)
            build = self.now() - started
            sources["bank, maps merged while built, fp16"] = (Bank(logits, *built), gamma)
        else:
            raw = [bank.raw_maps(t) for t in self.teachers]
            build = self.now() - started
            sources["bank, maps merged once, fp32"] = (self._merged(logits, raw, torch.float32), gamma)
            sources["bank, maps merged once, fp16"] = (self._merged(logits, raw, torch.float16), gamma)
            sources["bank, maps merged every step"] = (RawBank(logits, raw), gamma)
        steps = {"plain": self.stepper(label_objective)}
        steps |= {name: self.stepper(_objective(s, g)) for name, (s, g) in sources.items()}
        seconds = interleaved(steps, repeats, clock=self.now)
        # Online steps take ten to forty times as long, so fewer of them, and a plain one between to compare with.
        online = {"plain": steps["plain"], "online, no gradients": self.stepper(_objective(Online(self.teachers), gamma))}
        if authors:
            online["online as the authors"] = self.authors_stepper()
        seconds_online = interleaved(online, slow, clock=self.now)
        ratios = {name: _ratio(values, seconds["plain"]) for name, values in seconds.items()}
        ratios |= {name: _ratio(values, seconds_online["plain"]) for name, values in seconds_online.items() if name != "plain"}
        seconds = seconds_online | seconds
        whole = next(source for name, (source, _) in sources.items() if name.startswith("bank, maps merged"))
        return {
            "epoch_s": {k: self.epoch(_objective(whole, gamma), k) for k in together},
            "bank_build_s": build,
            "disagreement": self.disagreement(sources),
            "step_s": {name: summary(seconds[name]) for name in ratios},
            "times_plain": ratios,
        }

    def _merged(self, logits, raw, dtype) -> Bank:
        maps, scales = bank.merged(*raw, alpha=WEIGHTS["alpha"], dtype=dtype, compute=self.compute)
        return Bank(logits, maps, scales)

    def now(self) -> float:
        if self.compute.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def index(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randperm(len(self.labels), generator=generator)[:128].to(self.compute.device)

    def run(self, objective) -> Run:
        run = Run(wide_resnet(16, 1, seed=0), self.images, self.labels, Schedule(1, 1), seed=0, objective=objective)
        run.network.train()
        return run

    def stepper(self, objective) -> Callable[[int], None]:
        """Steps as training takes them, of full batches."""
        run = self.run(objective)
        run.begin()
        full = len(self.labels) // run.schedule.batch_size
        for number in range(4):  # the first ones pick kernels and make the momentum
            run.advance(number % full)
        return lambda number: run.advance(number % full)

    def epoch(self, objective, together: int) -> float:
        """Seconds of a whole epoch of training, all its ends included (short batch, reading the sums, saving)."""
        ends: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            runs = [
                Run(wide_resnet(16, 1, seed=s), self.images, self.labels, Schedule(3, 30), seed=s, objective=objective)
                for s in range(together)
            ]
            training.train(
                [(run, Path(folder) / str(s)) for s, run in enumerate(runs)],
                on_epoch=lambda run, entry: ends.append(self.now()) if run is runs[0] else None,
            )
        return ends[2] - ends[1]

    def authors_stepper(self) -> Callable[[int], None]:
        """Both teachers in the graph, nothing detached, all arrays and weights contiguous: the authors' loop."""
        plain = torch.contiguous_format
        teachers = [copy.deepcopy(t.network).to(memory_format=plain) for t in self.teachers]
        views = [contiguous(t.pixels) for t in self.teachers]

        def objective(logits, features, labels, index):
            seen = [t.stages(view[index]) for t, view in zip(teachers, views, strict=True)]
            said, maps = tuple(s[0] for s in seen), tuple([losses.similarity_map(f) for f in s[1]] for s in seen)
            return losses.tgd_loss(logits, labels, features, said, maps, **WEIGHTS)

        run = Run(wide_resnet(16, 1, seed=0), views[0], self.labels, Schedule(1, 1), seed=0, objective=objective)
        run.network.to(memory_format=plain).train()
        return lambda number: run.step(self.index(number))

    def disagreement(self, sources: dict) -> dict:
        """Largest relative difference of the total loss to the online one, over five batches."""
        wanted = Online(self.teachers)
        compared = {name: s for name, (s, gamma) in sources.items() if gamma}
        network = self.run(label_objective).network
        found = dict.fromkeys(compared, 0.0)
        for number in range(5):
            index = self.index(number)
            with torch.no_grad(), self.compute.autocast():
                logits, features = network.stages(self.images[index])
            labels = self.labels.to(index.device)[index]
            total = {
                name: float(losses.tgd_loss(logits, labels, features, *s.batch(index), **WEIGHTS)[0])
                for name, s in {"online": wanted, **compared}.items()
            }
            for name in compared:
                found[name] = max(found[name], abs(total[name] / total["online"] - 1))
        exact = self.compute == Compute("cpu", "fp32")  # elsewhere teachers round anew for each size of batch
        for name, value in found.items():
            limit = 1e-2 if not exact else 1e-3 if "fp16" in name else 1e-5
            assert value <= limit, f"{name} is off by {value}"
        return found


class RawBank:
    """A bank that keeps both teachers' raw maps and merges their sub-matrices in every step."""

    def __init__(self, logits, raw):
        self.banks = [Bank(logits, maps) for maps in raw]

    def batch(self, index):
        (logits, first), (_, second) = (b.batch(index) for b in self.banks)
        return logits, (first, second)


def _objective(source, gamma: float):
    weights = WEIGHTS | {"gamma": gamma}

    def objective(logits, features, labels, index):
        return losses.tgd_loss(logits, labels, features, *source.batch(index), **weights)

    return objective


def _ratio(values: Sequence[float], plain: Sequence[float]) -> dict:
    """Median and quartiles of the ratios of steps taken one after the other."""
    low, middle, high = np.quantile(np.divide(values, plain), (0.25, 0.5, 0.75))
    return {"median": float(middle), "quartiles": [float(low), float(high)]}


def curve(case: Case, counts) -> list[dict]:
    """Seconds to build both teachers' maps for n images, and the bytes of the merged ones."""
    points = []
    for n in dict.fromkeys(counts):
        started = case.now()
        for teacher in case.teachers:
            part = copy.copy(teacher.pixels)
            part.array = part.array[:n]
            bank.raw_maps(Teacher(teacher.network, part))
        points.append({"n": n, "build_s": case.now() - started, "merged_fp32_bytes": 3 * n * n * 4})
    return points


def break_even(record: dict, epochs: int) -> dict:
    """Up to which n building the bank (the curve, in bf16) costs less than bf16 steps save in `epochs` epochs of one student.

    Building takes a n + b n^2 seconds (fitted to the curve), the steps save c n epochs.
    """
    n, y = (np.array([p[k] for p in record["curve"]], float) for k in ("n", "build_s"))
    a, b = np.linalg.lstsq(np.stack([n, n**2], 1), y, rcond=None)[0]
    steps = record["bf16"]["step_s"]
    saved = steps["online, no gradients"]["median"] - steps[_whole_bank(steps)]["median"]
    limit = (saved / 128 * epochs - a) / b if b > 0 else float("inf")
    return {"epochs": epochs, "a": a, "b": b, "pays_up_to_n": max(0.0, limit)}


def _whole_bank(steps: dict) -> str:
    return next(name for name in steps if name.startswith("bank, maps merged"))


def report(record: dict) -> str:
    lines = [f"device {record['device']}, n = {record['n']}, batch 128; {record['machine']}", BARS]
    for precision in ("fp32", "bf16"):
        steps = record[precision]["step_s"]
        plain, ours = (steps[k]["median"] for k in ("plain", _whole_bank(steps)))
        rows = [
            {
                "step": name,
                "median ms": f"{1e3 * s['median']:.1f}",
                "min-max ms": f"{1e3 * s['min']:.1f}-{1e3 * s['max']:.1f}",
                "n": s["n"],
                "times plain": f"{s['median'] / plain:.2f}",
                "step by step (quartiles)": "{:.2f} ({:.2f}-{:.2f})".format(*_three(record[precision]["times_plain"][name])),
                "times bank": f"{s['median'] / ours:.2f}",
            }
            for name, s in steps.items()
        ]
        build = record[precision]["bank_build_s"]
        worst = {k: f"{v:.1e}" for k, v in record[precision]["disagreement"].items()}
        lines += ["", f"{precision}: bank of both teachers built in {build:.1f} s; loss against online: {worst}", ""]
        lines += [_measure.table(rows), ""]
        for k, seconds in record[precision]["epoch_s"].items():
            lines.append(f"a whole TGD epoch of {record['n']:,} images, {k} student(s) side by side: {seconds:.2f} s")
    lines += ["", "Against online in bf16, building included, for a single student (several share a bank), where memory allows:"]
    for epochs in (30, 200):
        limit = break_even(record, epochs)["pays_up_to_n"]
        beyond = f", beyond the largest n measured ({record['curve'][-1]['n']:,})" if limit > record["curve"][-1]["n"] else ""
        lines.append(f"over {epochs} epochs the bank pays up to n = {limit:,.0f}{beyond}")
    return "\n".join([*lines, f"peak memory of it all: {record['peak_mib']:,.0f} MiB"])


def _three(ratio: dict) -> tuple[float, float, float]:
    return ratio["median"], *ratio["quartiles"]


def plot(record: dict, folder: Path) -> None:
    """Left: building the bank, measured. Right: 30 epochs by bank, building included, and online. Against n, SVG and PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    n, built = (np.array([p[k] for p in record["curve"]], float) for k in ("n", "build_s"))
    fit, steps = break_even(record, 30), record["bf16"]["step_s"]
    wide = np.geomspace(n[0], 100_000, 50)
    left.loglog(n, built, "o", label="both teachers' maps, measured")
    left.loglog(wide, fit["a"] * wide + fit["b"] * wide**2, "-", color="0.6", label="a n + b n², fitted")
    by_bank = fit["a"] * wide + fit["b"] * wide**2 + 30 * wide / 128 * steps[_whole_bank(steps)]["median"]
    right.loglog(wide, by_bank / 60, "-", label="bank, building included")
    right.loglog(wide, 30 * wide / 128 * steps["online, no gradients"]["median"] / 60, "--", label="online")
    left.set(xlabel="training images", ylabel="seconds to build the maps (bf16)")
    right.set(xlabel="training images", ylabel="minutes for 30 epochs (bf16)")
    for axis in (left, right):
        axis.axvspan(n[-1], wide[-1], color="0.93", linewidth=0)  # extrapolated
        axis.legend(frameon=False, fontsize=8)
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"distillation.{suffix}", dpi=150)


if __name__ == "__main__":
    main()
