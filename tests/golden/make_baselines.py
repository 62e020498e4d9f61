"""Golden numbers for tests/test_baselines.py: the baseline losses in float64 NumPy, from their
formulas alone.

    python tests/golden/make_baselines.py        writes baselines.json beside this file

Nothing of tgd_lib is used here; loops are spelled out where that is plainer.
"""

import json
from pathlib import Path

import numpy as np

B, C, T = 6, 10, 4.0
STUDENT, TEACHER, SIDES, EMBEDDED = (4, 6, 8), (6, 9, 12), (8, 4, 2), 128


def inputs() -> dict:
    """The inputs, float32-representable so that both sides see the same numbers."""
    rng = np.random.RandomState(20261122)  # noqa: NPY002  (its stream is frozen for good)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    half = TEACHER[2] // 2
    points, whole = (
        ((half * 2, half * 2), (half, half * 2), (half, half)),
        ((50, half), (100, 50), (200, 100)),
    )

    given = {
        "labels": rng.randint(0, C, B),
        "student": 2 * draw(B, C),
        "teacher": 3 * draw(B, C),
        "features_s": [draw(B, c, n, n) for c, n in zip(STUDENT, SIDES, strict=False)],
        "features_t": [2 * draw(B, c, n, n) for c, n in zip(TEACHER, SIDES, strict=False)],
        "hint": {"0.weight": draw(TEACHER[1], STUDENT[1], 1, 1), "0.bias": draw(TEACHER[1])},
        "embed": {
            "0.weight": draw(EMBEDDED, STUDENT[2]), "0.bias": draw(EMBEDDED),
            "1.weight": draw(EMBEDDED, TEACHER[2]), "1.bias": draw(EMBEDDED),
        },
        "channels": {
            f"{i}.{name}": draw(*shape) / 4
            for i, (s, t) in enumerate(zip(STUDENT, TEACHER, strict=False))
            for name, shape in (
                ("mean.0.weight", (t, s, 1, 1)), ("mean.2.weight", (t, t, 1, 1)),
                ("mean.4.weight", (t, t, 1, 1)), ("raw", (t,)),
            )
        },
    }  # fmt: skip
    # Drawn after all that was here before, which stays as it was.
    given["embedding_s"] = np.abs(draw(B, STUDENT[2]))
    given["embedding_t"] = 2 * np.abs(draw(B, TEACHER[2]))
    given["match"] = {"weight": draw(TEACHER[2], STUDENT[2]), "bias": draw(TEACHER[2])}
    layers = {f"points.{i}.weight": draw(*shape) for i, shape in enumerate(points)}
    layers |= {f"points.{i}.bias": draw(shape[0]) for i, shape in enumerate(points)}
    layers |= {f"whole.{i}.weight": draw(*shape) / 4 for i, shape in enumerate(whole)}
    given["ripsnet"] = layers | {"image.weight": draw(400, 200) / 16}
    return given


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def rows_normalised(g):
    return g / np.sqrt((g**2).sum(1, keepdims=True))


def convolved(weight, f):
    return np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], f)


def standardised(f):
    mean = f.mean((0, 2, 3), keepdims=True)
    return (f - mean) / np.sqrt(((f - mean) ** 2).mean((0, 2, 3), keepdims=True) + 1e-5)


def ripsnet(x, cloud):
    """Three layers with biases, the mean over the points, four without; ReLU, at last the logistic
    function.
    """
    for i in range(3):
        cloud = np.maximum(
            cloud @ x["ripsnet"][f"points.{i}.weight"].T + x["ripsnet"][f"points.{i}.bias"], 0
        )
    whole = cloud.mean(0)
    for i in range(3):
        whole = np.maximum(x["ripsnet"][f"whole.{i}.weight"] @ whole, 0)
    return 1 / (1 + np.exp(-x["ripsnet"]["image.weight"] @ whole))


def huber(x):
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5).mean()


def fitnets(x):
    hint = convolved(x["hint"]["0.weight"], x["features_s"][1]) + x["hint"]["0.bias"][:, None, None]
    return np.mean((standardised(hint) - x["features_t"][1]) ** 2)


def at(x):
    total = 0
    for s, t in zip(x["features_s"], x["features_t"], strict=False):
        maps = [rows_normalised((f**2).sum(1).reshape(B, -1)) for f in (s, t)]
        total += np.mean((maps[0] - maps[1]) ** 2)
    return total


def sp(x):
    grams = []
    for f in (x["features_s"][2], x["features_t"][2]):
        flat = f.reshape(B, -1)
        grams.append(rows_normalised(np.array([[(a * b).sum() for b in flat] for a in flat])))
    return ((grams[0] - grams[1]) ** 2).sum() / B**2


def vid(x):
    total = 0
    for i, (s, t) in enumerate(zip(x["features_s"], x["features_t"], strict=False)):
        own = {k[2:]: v for k, v in x["channels"].items() if k.startswith(f"{i}.")}
        hidden = np.maximum(convolved(own["mean.0.weight"], s), 0)
        hidden = np.maximum(convolved(own["mean.2.weight"], hidden), 0)
        mean = convolved(own["mean.4.weight"], hidden)
        variance = (np.log(1 + np.exp(own["raw"])) + 1e-5)[:, None, None]
        total += np.mean(0.5 * ((mean - t) ** 2 / variance + np.log(variance)))
    return total


def cc(x):
    e = x["embed"]
    s = x["embedding_s"] @ e["0.weight"].T + e["0.bias"]
    t = x["embedding_t"] @ e["1.weight"].T + e["1.bias"]
    d = np.abs(s - t)
    return np.mean([(d[i] * d[i + 1]).sum() for i in range(B - 1)])


def rkd(x):
    distances, angles = [], []
    for p in (x["embedding_s"], x["embedding_t"]):
        d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in p] for a in p])
        distances.append(d / d[~np.eye(B, dtype=bool)].mean())
        a = np.zeros((B, B, B))
        for i, j, k in np.ndindex(B, B, B):
            if i != j and i != k:
                a[i, j, k] = (p[j] - p[i]) @ (p[k] - p[i]) / (d[i, j] * d[i, k])
        angles.append(a)
    return 25 * huber(distances[0] - distances[1]) + 50 * huber(angles[0] - angles[1])


def pkt(x):
    q, p = (rows_normalised(x[name]) for name in ("embedding_s", "embedding_t"))
    q, p = ((g @ g.T + 1) / 2 for g in (q, p))
    q, p = (g / g.sum(1, keepdims=True) for g in (q, p))
    return np.mean(p * np.log(p / q))


def topkd(x):
    matched = x["embedding_s"] @ x["match"]["weight"].T + x["match"]["bias"]
    return np.mean((ripsnet(x, matched) - ripsnet(x, x["embedding_t"])) ** 2)


def dkd(x):
    total = 0
    for s, t, y in zip(
        softmax(x["student"] / T), softmax(x["teacher"] / T), x["labels"], strict=False
    ):
        target = t[y] * np.log(t[y] / s[y]) + (1 - t[y]) * np.log((1 - t[y]) / (1 - s[y]))
        s, t = (np.delete(p, y) / (1 - p[y]) for p in (s, t))
        total += target + 8 * (t * np.log(t / s)).sum()
    return T**2 * total / B


def dist(x):
    s, t = softmax(x["student"] / T), softmax(x["teacher"] / T)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=False)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=False)])
    return T**2 * ((1 - rows) + (1 - columns))


def golden() -> dict:
    x = inputs()
    ce = -np.mean([np.log(p[y]) for p, y in zip(softmax(x["student"]), x["labels"], strict=False)])
    return {"ce": ce} | {
        f.__name__: float(f(x)) for f in (fitnets, at, sp, cc, rkd, vid, pkt, topkd, dkd, dist)
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("baselines.json")
    path.write_text(json.dumps(golden(), indent=1) + "\n")
