"""Golden numbers for tests/test_embedding.py: the losses in float64 NumPy, from their formulas
alone.

    python tests/golden/make_embedding.py        writes embedding.json beside this file

Nothing of tgd_lib is used here; trees grow by Kruskal's algorithm, spelled out.
"""

import json
from pathlib import Path

import numpy as np

B, STUDENT, TEACHER = 12, 5, 7


def inputs() -> dict:
    """The inputs, float32-representable so that both sides see the same numbers."""
    rng = np.random.RandomState(20261125)  # noqa: NPY002  (its stream is frozen for good)

    def draw(*shape):
        return np.abs(rng.standard_normal(shape)).astype(np.float32).astype(np.float64)

    return {"student": draw(B, STUDENT), "teacher": 3 * draw(B, TEACHER)}


def distances(x):
    """{(i, j): distance} for i < j, over their mean."""
    found = {(i, j): np.sqrt(((x[i] - x[j]) ** 2).sum()) for i in range(B) for j in range(i + 1, B)}
    mean = sum(found.values()) / len(found)
    return {pair: length / mean for pair, length in found.items()}


def tree(d):
    """Kruskal: the shortest pair first, unless it closes a loop."""
    component = list(range(B))
    edges = []
    for i, j in sorted(d, key=d.get):
        if component[i] != component[j]:
            edges.append((i, j))
            component = [component[i] if c == component[j] else c for c in component]
    return edges


def nearest(d):
    edges = []
    for i in range(B):
        others = [(min(i, j), max(i, j)) for j in range(B) if j != i]
        edges.append(min(others, key=d.get))
    return edges


def shortest(d):
    return sorted(d, key=d.get)[: B - 1]


def every(d):
    return list(d)


def signature(s, t, kind):
    total = 0
    for edges in (kind(s), kind(t)):
        total += np.mean([(s[e] - t[e]) ** 2 for e in edges])
    return total


def diagram(s, t, kind):
    ours, theirs = sorted(s[e] for e in kind(s)), sorted(t[e] for e in kind(t))
    return np.mean([(a - b) ** 2 for a, b in zip(ours, theirs, strict=False)])


def golden() -> dict:
    x = inputs()
    s, t = distances(x["student"]), distances(x["teacher"])
    kinds = {"tree": tree, "nearest": nearest, "shortest": shortest, "all": every}
    return {
        "signature": {name: signature(s, t, kind) for name, kind in kinds.items()},
        "diagram": {name: diagram(s, t, kind) for name, kind in kinds.items()},
        "teacher_deaths": sorted(t[e] for e in tree(t)),
        "teacher_tree": sorted(tree(t)),
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("embedding.json")
    path.write_text(json.dumps(golden(), indent=1) + "\n")
