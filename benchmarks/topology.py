"""The price of persistence images, against the reference chain and against gudhi's own images.

    python -m benchmarks.topology [--quick] [--data DIR] [--out DIR]

Per core: ours, ripser + persim.PersImage (what the authors run) and gudhi's PersistenceImage on
gudhi's diagrams (other pictures, the same job), in turn, on one core each. Whole: all images x 6
written to a file and summed up, on all cores, with the peak memory of that process. Curve: seconds
against the number of images. The pixels are held against the reference's in the same run. With
--data (a folder with CIFAR-10) all 60,000 images; without, the 4,000 images of the sample. --quick:
a few images, agreement asserted, no time asserted.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import _measure
from tgd_lib import datasets, topology
from tgd_lib.report import figures
from tgd_lib.study.cost import interleaved, summary

PACKAGES = ("numpy", "scipy", "gudhi", "ripser", "persim")
BARS = {"reference": 300, "gudhi": 20}  # times ours, at least; whole: at most 20 s and 1,536 MiB
SIGNALS = 6  # of an image: 3 channels, row-wise and column-wise


def main() -> None:
    parser = _measure.parser(__doc__, quick=_measure.AGREEMENT, folder="topology")
    parser.add_argument("--data", metavar="DIR", help=_measure.OR_SAMPLE)
    options = parser.parse_args()
    folder = options.out
    record = {"machine": _measure.machine(*PACKAGES), "quick": options.quick}

    # In a process of its own, for its peak memory; first, while the machine is cold.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        record["whole"] = fresh.submit(whole, options.data, 64 if options.quick else None).result()
    images = load(options.data)
    record["agreement"] = agreement(images[: 4 if options.quick else 100])
    record["signal_us"] = per_core(images, *((2, 2, 32) if options.quick else (11, 10, 500)))
    counts = (16, 32) if options.quick else [n for n in 250 * 2 ** np.arange(6) if n <= len(images)]
    record["curve"] = curve(images, [int(n) for n in counts], 2 if options.quick else 5)
    _measure.write(folder, "topology", record, report(record))
    plot(record["curve"], folder)


def load(data: str | None) -> np.ndarray:
    """uint8 (N, 32, 32, 3): CIFAR-10's train and test images, or the sample's."""
    name = "cifar10" if data else "sample"
    parts = (datasets.load(name, s, data, download=False).images for s in ("train", "test"))
    return np.concatenate(list(parts))


# ---------------------------------------------------------------- the rivals


def strings(images: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W, 3) → float64 (6 n, H W) in [0, 1], row-wise channels of an image first."""
    halves = [images.transpose(0, 3, 1, 2), images.transpose(0, 3, 2, 1)]
    signals = np.stack([half.reshape(len(images), 3, -1) for half in halves], axis=1)
    return signals.reshape(6 * len(images), -1) / 255


def reference(images: np.ndarray) -> np.ndarray:
    """As the authors: ripser on the sparse path graph, persim's PersImage. → uint8
    (n, 6, 50, 50)."""
    from persim import PersImage
    from ripser import ripser
    from scipy.sparse import coo_matrix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        imager = PersImage(
            pixels=[50, 50], spread=0.01, specs={"minBD": 0, "maxBD": 0.3}, verbose=False
        )
    pictures = []
    for signal in strings(images):
        n, i = len(signal), np.arange(len(signal))
        values = np.concatenate([np.maximum(signal[:-1], signal[1:]), signal])
        graph = coo_matrix((values, (np.r_[i[:-1], i], np.r_[i[1:], i])), shape=(n, n)).tocsr()
        diagram = ripser(graph, maxdim=0, distance_matrix=True)["dgms"][0]
        diagram = diagram[np.isfinite(diagram[:, 1]) & (diagram[:, 1] - diagram[:, 0] > 0.02)]
        pictures.append(topology.to_levels(np.asarray(imager.transform(diagram))))
    return np.reshape(pictures, (len(images), 6, 50, 50))


def gudhi_images(images: np.ndarray) -> np.ndarray:
    """gudhi's public CubicalPersistence and PersistenceImage: samples the density, so other
    pictures.
    """
    from gudhi.representations import PersistenceImage
    from gudhi.sklearn.cubical_persistence import CubicalPersistence

    diagrams = CubicalPersistence(homology_dimensions=0, min_persistence=0.02).fit_transform(
        strings(images)
    )
    diagrams = [d[np.isfinite(d[:, 1])] for d in diagrams]
    window = [0, 0.3, 0, 0.3]
    imager = PersistenceImage(
        bandwidth=0.01, weight=lambda p: p[1], resolution=[50, 50], im_range=window
    )
    return imager.fit_transform(diagrams)


# ---------------------------------------------------------------- measurements


def agreement(images: np.ndarray) -> dict:
    """Ours against the reference, pixel by pixel; the acceptance is asserted."""
    off = np.abs(topology.persistence_images(images).astype(int) - reference(images))
    found = {
        "images": len(images),
        "pixels": off.size,
        "off": int((off > 0).sum()),
        "levels": int(off.max()),
    }
    assert found["levels"] <= 1 and found["off"] * 10_000 <= found["pixels"], found
    return found


def per_core(images: np.ndarray, repeats: int, few: int, many: int) -> dict[str, dict]:
    """CPU microseconds a signal of each rival, on new images in each repetition.

    CPU time and not wall time: the claim is a price per core, and holds where others use the
    machine too. Libraries are held to one thread, else those that a rival's products woke go on
    spinning, and count, while the next is timed.
    """

    def batch(repetition: int, size: int) -> np.ndarray:
        start = repetition * size % (len(images) - size + 1)
        return images[start : start + size]

    rivals = {
        "ours": lambda r: topology.persistence_images(batch(r, many)),
        "reference": lambda r: reference(batch(r, few)),
        "gudhi": lambda r: gudhi_images(batch(r, few)),
    }
    with threadpool_limits(1):
        seconds = interleaved(rivals, repeats, clock=time.process_time)
    sizes = {"ours": many, "reference": few, "gudhi": few}
    return {
        name: {"images": sizes[name]} | summary([s / sizes[name] / SIGNALS * 1e6 for s in values])
        for name, values in seconds.items()
    }


def whole(data: str | None, count: int | None) -> dict:
    """All images x 6 into a file, flushed to the system, then its sha256; with this process's peak
    memory.
    """
    images = load(data)[:count]
    with tempfile.TemporaryDirectory() as folder:
        path, start, cpu = Path(folder) / "images.npy", time.perf_counter(), time.process_time()
        topology.save_persistence_images(path, images, n_jobs=None)
        computed = time.perf_counter()
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        end, size = time.perf_counter(), path.stat().st_size
    return {
        "images": len(images),
        "seconds": end - start,
        "of which sha256": end - computed,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": _measure.peak_mib(),
        "file_mib": size / 2**20,
        "sha256": digest,
    }


def curve(images: np.ndarray, counts: list[int], repeats: int) -> list[dict]:
    """Seconds for n images on all cores, and on one."""
    rows = []
    for n in counts:
        rivals = {
            "all cores": lambda r, n=n: topology.persistence_images(images[:n], n_jobs=None),
            "one core": lambda r, n=n: topology.persistence_images(images[:n]),
        }
        seconds = interleaved(rivals, repeats)
        rows.append({"images": n} | {name: summary(values) for name, values in seconds.items()})
    return rows


# ---------------------------------------------------------------- the report


def report(record: dict) -> str:
    """The record as text: what is claimed, what was measured."""
    agree, run = record["agreement"], record["whole"]
    return "\n\n".join(
        [
            "# Persistence images"
            + (" (quick: the times mean nothing)" if record["quick"] else ""),
            ", ".join(f"{k} {v}" for k, v in record["machine"].items()),
            _measure.table(core_rows(record["signal_us"])),
            f"Against the reference, on {agree['images']} images x 6: {agree['off']} of"
            f" {agree['pixels']:,} pixels off, by {agree['levels']} level at most"
            " (accepted: 1 level, 1 pixel of 10,000).",
            f"Whole, on all cores: {run['images']:,} images x 6 in {run['seconds']:.1f} s,"
            " write and sha256 "
            f"({run['of which sha256']:.1f} s) included (bar for 60,000: 20 s), or "
            f"{run['cpu_seconds']:.1f} s of CPU time; {run['file_mib']:,.0f} MiB written, "
            f"peak memory {run['peak_mib']:,.0f} MiB (bar: 1,536).",
            _measure.table(curve_rows(record["curve"])),
            f"Exponent of the curve on all cores: {exponent(record['curve']):.2f} (1 is linear).",
        ]
    )


def core_rows(us: dict[str, dict]) -> list[dict]:
    """One row a rival."""
    labels = {
        "ours": "tgd_lib.topology",
        "reference": "ripser + persim.PersImage",
        "gudhi": "gudhi diagrams + gudhi PersistenceImage",
    }
    return [
        {
            "per core": label,
            "images a timing": us[name]["images"],
            "n": us[name]["n"],
            "CPU us a signal, median (min to max)": spread(us[name], ",.1f"),
            "times ours": f"{us[name]['median'] / us['ours']['median']:,.0f}",
            "bar": f"≥ {BARS[name]}" if name in BARS else "",
        }
        for name, label in labels.items()
    ]


def curve_rows(rows: list[dict]) -> list[dict]:
    """One row a number of images."""
    return [
        {
            "images": row["images"],
            "one core, s (min to max)": spread(row["one core"], ".3f"),
            "all cores, s (min to max)": spread(row["all cores"], ".3f"),
            "all cores, ms an image": f"{row['all cores']['median'] / row['images'] * 1e3:.3f}",
            "n": row["all cores"]["n"],
        }
        for row in rows
    ]


def spread(summary: dict, form: str) -> str:
    return "{} ({} to {})".format(*(format(summary[key], form) for key in ("median", "min", "max")))


def exponent(rows: list[dict]) -> float:
    """Slope of log seconds against log images."""
    n, s = [r["images"] for r in rows], [r["all cores"]["median"] for r in rows]
    return float(np.polyfit(np.log(n), np.log(s), 1)[0])


def plot(rows: list[dict], folder: Path) -> None:
    """Seconds against images, both axes logarithmic, as PNG and SVG."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "tgd"  # the same figure is the same file
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
    n = np.array([row["images"] for row in rows])
    for name, style in (("one core", "o-"), ("all cores", "s-")):
        low, median, high = (
            np.array([row[name][k] for row in rows]) for k in ("min", "median", "max")
        )
        axis.errorbar(n, median, [median - low, high - median], fmt=style, capsize=2, label=name)
    axis.plot(n, median[-1] * n / n[-1], "k:", linewidth=1, label="linear")
    axis.set(xscale="log", yscale="log", xlabel="images (x 6 signals)", ylabel="seconds")
    axis.set_xticks(n, [f"{k:,}" for k in n])
    axis.minorticks_off()
    axis.legend(frameon=False)
    figures.draw(figure, folder / "topology_cost")


if __name__ == "__main__":
    _measure.run(main)
