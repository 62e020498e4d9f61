"""What rounding does to the merged similarity maps of two teachers, and to a student's loss.

    python -m benchmarks.map_rounding [--profile study] [--data DIR] [--n N]

The published teachers of a profile look at n of its training images. The reference are their
features as they compute them (bfloat16 in `study`), multiplied in float32 and kept in float32.
Beside it stand: products in slices, as a bank in files is built (`tiles.product`); whole products
in bfloat16; float16 storage with a scale; slices and storage together, which is what a bank in
files is; and teachers that compute in float32. Said is the root mean square of the difference over
the entries of the row-normalised map, relative, stage by stage, and how far the term of the maps
in a scratch student's loss moves, over batches. --quick: profile `smoke`, 64 images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import _measure
from tgd_lib import config, tiles
from tgd_lib.bank import STAGES
from tgd_lib.compute import matmul
from tgd_lib.lab.lab import Lab
from tgd_lib.losses import maps_loss, merge_maps, similarity_map
from tgd_lib.study.specs import specs_of

REFERENCE = "float32 products"
Product = Callable[[Tensor, Tensor], Tensor]  # F (n, d) twice -> F F^T (n, n)


def main() -> None:
    options = _options()
    settings = config.resolve("smoke" if options.quick else options.profile, data_dir=options.data)
    rounded = Lab(replace(settings, precision="bf16"))
    n = min(64 if options.quick else options.n, len(rounded.data.train.labels))
    found = ways(rounded, n)
    exact = Lab(replace(settings, precision="fp32"), data=rounded.data)
    found["float32 teachers"] = merged(exact, n, _exact)
    student, batch = student_maps(rounded, n), settings.batch_size
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": settings.run_name,
        "device": rounded.compute.name,
        "alpha": settings.alpha,
        "n": n,
        "rows": [compared(name, found, student, batch) for name in found],
    }
    _measure.write(options.out, "map_rounding", record, report(record))


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="toy size")
    parser.add_argument("--profile", default="study")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10")
    parser.add_argument("--n", type=_measure.count, default=1024, help="training images")
    return parser.parse_args()


# ---------------------------------------------------------------- maps, in several ways


def _exact(a: Tensor, b: Tensor) -> Tensor:
    return tiles.product(a, b, exact=True)


def _sliced(a: Tensor, b: Tensor) -> Tensor:
    return tiles.product(a, b, exact=False)


def _whole(a: Tensor, b: Tensor) -> Tensor:
    return matmul(a, b.T).float()


def ways(lab: Lab, n: int) -> dict[str, list[Tensor]]:
    """The merged raw maps of three stages, float32 (n, n) each, in every way of computing them."""
    found = {REFERENCE: merged(lab, n, _exact), "bfloat16, sliced": merged(lab, n, _sliced)}
    found["bfloat16, whole"] = merged(lab, n, _whole)
    found["float16 storage"] = [stored(g) for g in found[REFERENCE]]
    found["sliced and stored: a bank"] = [stored(g) for g in found["bfloat16, sliced"]]
    return found


@torch.no_grad()
def merged(lab: Lab, n: int, product: Product) -> list[Tensor]:
    """The merged raw maps of the image and the PI teacher over the first n training images."""
    study, maps = specs_of(lab), []
    for name in ("image", "pi"):
        features = tiles.features(lab.teacher(study.teacher(name)), slice(0, n))
        maps.append([product(f, f) for f in features])
    return merge_maps(*maps, alpha=lab.settings.alpha)


def stored(raw: Tensor) -> Tensor:
    """A map as it comes back from a file of float16 numbers with a scale."""
    scale = raw.max() / tiles.HALF_PEAK
    return (raw / scale).half().float() * scale


@torch.no_grad()
def student_maps(lab: Lab, n: int) -> list[Tensor]:
    """The raw maps of the scratch student of seed 0, who has yet to learn from them."""
    spec = specs_of(lab).student("scratch", 0)
    outputs = lab.teacher(spec).look(slice(0, n))[1]
    return [similarity_map(f) for f in outputs]


# ---------------------------------------------------------------- how far they are apart


def compared(
    name: str, found: dict[str, list[Tensor]], student: Sequence[Tensor], batch: int
) -> dict:
    """Relative root mean squares by stage, and the largest relative change of the loss."""
    row = {"way": name, "rms": []}
    for stage in range(STAGES):
        a, b = (F.normalize(found[k][stage], dim=1) for k in (REFERENCE, name))
        row["rms"].append(float((a - b).norm() / a.norm()))
    n, apart = len(student[0]), []
    for start in range(0, n - n % batch or n, batch):
        part = slice(start, start + batch)
        own, *losses = (
            [g[part, part] for g in maps] for maps in (student, found[REFERENCE], found[name])
        )
        reference, other = (float(maps_loss(own, maps)) for maps in losses)
        apart.append(abs(other / reference - 1))
    return row | {"loss": max(apart), "batches": len(apart)}


def report(record: dict) -> str:
    """The table, and what it is of."""
    rows = []
    for row in record["rows"][1:]:
        stages = {f"stage {i}": f"{value:.1e}" for i, value in enumerate(row["rms"], 1)}
        rows.append({"maps": row["way"]} | stages | {"loss of the maps": f"{row['loss']:.1e}"})
    head = (
        f"Merged maps of the teachers of `{record['profile']}` over {record['n']} training images,"
        f" α = {record['alpha']}, {record['device']}; against their own features multiplied in"
        " float32: relative root mean square over the entries of the row-normalised map, and the"
        f" largest relative change of the loss of the maps over {record['rows'][0]['batches']}"
        " batches"
    )
    return "\n\n".join([head, _measure.table(rows)])


if __name__ == "__main__":
    _measure.run(main)
