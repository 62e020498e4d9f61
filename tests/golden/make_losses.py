"""Golden numbers for tests/test_losses.py: the losses again, in float64 NumPy, from their formulas
alone.

    python tests/golden/make_losses.py        writes losses.json beside this file

Nothing of tgd_lib is used here; loops are spelled out where that is plainer.
"""

import json
from pathlib import Path

import numpy as np

B, C, T, LAM, GAMMA = 6, 10, 4.0, 0.9, 3000.0
SHAPES = ((B, 4, 8, 8), (B, 8, 4, 4), (B, 16, 2, 2))


def inputs() -> dict:
    """The inputs, float32-representable so that both sides see the same numbers."""
    rng = np.random.RandomState(20240709)  # noqa: NPY002  (its stream is frozen for good)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    return {
        "student": 2 * draw(B, C),
        "t1": 3 * draw(B, C),
        "t2": 3 * draw(B, C),
        "labels": rng.randint(0, C, B),
        "features": [draw(*s) for s in SHAPES],
        "features1": [draw(B, 2 * s[1], *s[2:]) for s in SHAPES],
        "features2": [2 * draw(B, s[1], s[2] + 1, s[3] + 1) for s in SHAPES],
    }


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kd(student, teacher, count):
    p, q = softmax(teacher / T), softmax(student / T)
    return T * T * (p * (np.log(p) - np.log(q))).sum() / count


def gram(f):
    flat = f.reshape(len(f), -1)
    return np.array([[float((a * b).sum()) for b in flat] for a in flat])


def rows_normalised(g):
    return g / np.sqrt((g**2).sum(1, keepdims=True))


def golden() -> dict:
    x = inputs()
    p = softmax(x["student"])
    ce = -np.mean([np.log(p[i, y]) for i, y in enumerate(x["labels"])])
    out = {"ce": ce}
    for name, count in (("mean", B * C), ("batchmean", B)):
        out[f"kd_{name}"] = kd(x["student"], x["t1"], count)
    out["gram_first_row"] = gram(x["features"][0])[0].tolist()
    for alpha in (0.99, 0.5, 1.0, 0.0):
        stages = []
        for f, f1, f2 in zip(x["features"], x["features1"], x["features2"], strict=False):
            merged = alpha * gram(f1) + (1 - alpha) * gram(f2)
            stages.append(np.mean((rows_normalised(gram(f)) - rows_normalised(merged)) ** 2))
        terms = {
            "ce": (1 - LAM) * ce,
            "kd_t1": LAM * alpha * kd(x["student"], x["t1"], B * C),
            "kd_t2": LAM * (1 - alpha) * kd(x["student"], x["t2"], B * C),
            "maps": GAMMA * np.mean(stages),
        }
        out[f"tgd_{alpha}"] = terms | {"total": sum(terms.values())}
    return out


if __name__ == "__main__":
    path = Path(__file__).with_name("losses.json")
    path.write_text(json.dumps(golden(), indent=1) + "\n")
