# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · A topology that helps?
#
# Is there a guidance whose *topology* is what helps, and not just a second teacher, or just
# distances? Two places to look:
#
# * **The embedding.** A batch is a cloud of points in the space that a network's last layer sees.
#   Its connected components (H0), as balls around the points grow, merge along the edges of the
#   cloud's **minimum spanning tree**; the deaths are the edges' lengths. A student can be asked to
#   keep these lengths (*signature of H0*), or only their sorted list (*H0 diagram*), on top of
#   *KD, batchmean, annealing*.
# * **The image**, by a second teacher whose share is real: cubical H0 and H1, or the image with its
#   persistence map, normalised before merging.
#
# Each has a **matched control**, with something else in the topology's place: the same loss on
# *random* trees; a second *image* teacher with the same share. What is tried, how it is chosen and
# what is tested was written down before a test accuracy of these students was looked at. A pilot
# before it had been read on test images (seeds 0 to 2), so what later seeds say stands beside all
# of it.
#
# The cells below show the run that this notebook was executed with. What the students of `study`
# said, and what it means, is in [the protocol](../docs/protocol-topology.md). Terms:
# [glossary](../docs/glossary.md).

# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}  # e.g. {"alpha": 0.9}; all names: ./run_all.sh --list

# %%
from IPython.display import Markdown

from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report import charts, clouds, figures, sentences, significance, tables
from tgd_lib.study import methods, protocol, questions
from tgd_lib.study.specs import specs_of

settings = config.resolve(profile, **overrides)
lab = Lab(settings)
study = specs_of(lab)
Markdown(sentences.settings(settings))

# %% [markdown]
# ## H0 of a batch is a tree
#
# Sixty-four test images as the last layer of each network sees them, in the plane of the two
# principal components (the tree is that of the whole space, so its edges may cross here).

# %%
run = methods.of(settings)
kd = "kd_annealed" if settings.kl_reduction == "batchmean" else "kd_batchmean_annealed"
names = ["scratch", kd, "tgd"] + ["kd_signature"] * ("kd_signature" in run)
shown = [study.teacher("image"), *(study.student(name, 0) for name in names)]
trees = questions.spanning_trees(lab, shown)
figure = clouds.trees(trees, lab.data.test.class_names)
caption = (
    "The minimum spanning tree of 64 test images in each network's embedding, seed 0, in the plane "
    "of two principal components. Dashed: edges between two classes."
)
figures.save(figure, settings, "08_trees", caption=caption, source=trees)

# %% [markdown]
# *What to see:* how many edges join two classes. An embedding that kept classes apart would join
# each within itself first, and have one such edge fewer than there are classes. One network each
# and one batch: the count need not follow accuracy. What this run shows:

# %%
Markdown(sentences.trees(trees))

# %% [markdown]
# The same trees as persistence diagrams: all births are 0, so a diagram is the sorted list of
# deaths.

# %%
figure = clouds.deaths(trees)
caption = (
    "Deaths of the connected components (H0) of the same clouds, sorted, over each cloud's mean "
    "distance."
)
figures.save(figure, settings, "08_deaths", caption=caption, source=trees)

# %% [markdown]
# *What to see:* whether a student's deaths lie near the teacher's. The signature asks for this on
# training images; on these test images it need not show.
#
# The tree is found by a graph algorithm, not by a library of topology. It must come to the same as
# gudhi's Rips complex, here on the points as they are drawn (the tests do it in the whole space):

# %%
import gudhi
import torch

from tgd_lib.embedding import deaths

cloud = torch.tensor(trees[0]["places"])  # (64, 2)
filtration = gudhi.RipsComplex(points=cloud.numpy()).create_simplex_tree(max_dimension=1)
filtration.compute_persistence(min_persistence=-1)  # points that coincide die at 0
intervals = filtration.persistence_intervals_in_dimension(0)
by_gudhi = sorted(death for _, death in intervals)[:-1]  # the last component never dies
torch.testing.assert_close(deaths(cloud.double()), torch.tensor(by_gudhi).double())
print(f"{len(by_gudhi)} finite deaths, the same by both")

# %% [markdown]
# ## Candidates and their controls, on held-out images
#
# The choice is made here: of each part the candidate with the largest mean difference from its
# matched control, over the seeds 0 to 5. ([04](04_ablations.ipynb) sets them against α = 1, and may
# choose differently.)

# %%
candidates = [m for part in protocol.CANDIDATES.values() for m in part if m in run]
controls = [methods.METHODS[m].control for m in candidates]
others = [m for m in (*protocol.WITHOUT.values(), *methods.EMBEDDING) if m in run]
trained = study.students(dict.fromkeys([*candidates, *controls, *others])) if candidates else []
lab.train(trained)
held_out = questions.metrics_on(lab, trained, "holdout") if settings.holdout else []
pairs = [
    significance.paired(held_out, m, methods.METHODS[m].control) for m in candidates if held_out
]

# %%
none_here = (
    "This profile trains no candidate. What those of `study` came to is in "
    "[the protocol](../docs/protocol-topology.md)."
)
no_choice = "No images are held out in this run, so nothing is chosen." if candidates else none_here
tables.contrasts(pairs, sentences.labels_of(held_out)) if pairs else Markdown(no_choice)

# %%
Markdown(sentences.candidates(pairs, protocol.CANDIDATES))

# %% [markdown]
# ## On the test images
#
# The chosen candidates, with the first six seeds and six more that no choice has seen. Differences
# by seed, exact sign-flip test, Holm's correction over all lines. The last two columns are the
# differences that so many seeds would show with a probability of 80 %: at a level of 0.05, without
# the correction, and at that of its first step.

# %%
asked = [c for c in protocol.family() if {c.method, c.control} <= set(run)]
members = {name for c in asked for name in (c.method, c.control)}
tested = study.tested([name for name in run if name in members])
lab.train(tested)
rows = [lab.row(spec) for spec in tested]
tests = significance.family(rows, [(c.method, c.control) for c in asked])
asks = [c.asks for c in asked]
not_tested = (
    "This profile tests no candidate. What the test of `study` said is in "
    "[the protocol](../docs/protocol-topology.md)."
)
tables.family(tests, sentences.labels_of(rows), asks) if tests else Markdown(not_tested)

# %%
drawn = Markdown(not_tested)
if tests:
    figure = charts.differences(tests, sentences.labels_of(rows))
    caption = (
        "The comparisons of the protocol on the test images: a pale dot for each seed, a bar for "
        "their mean with Student's 95 % interval; the verdict is that after Holm's correction."
    )
    drawn = figures.save(figure, settings, "08_tested", caption=caption, source=tests)
drawn

# %% [markdown]
# The same without what was seen before: the seeds that the pilot did not read, and the fresh ones
# among them, which no choice has seen either.

# %%
again = {}
for first in (protocol.PILOT_SEEDS, settings.seeds):
    later = [r for r in rows if r["seed"] >= first]
    if later:
        found = significance.family(later, [(c.method, c.control) for c in asked])
        again[f"seeds from {first} on"] = found
no_later = "This run has no such seeds." if tests else not_tested
tables.beside(again, sentences.labels_of(rows)) if again else Markdown(no_later)

# %%
said, fresh = [], again.get(f"seeds from {settings.seeds} on", [])
for name in protocol.CHOSEN.values():
    mine = [pair for pair in tests if pair["method"] == name]
    if mine:
        said.append(sentences.protocol(mine, [pair for pair in fresh if pair["method"] == name]))
Markdown("\n\n".join(said) or not_tested)

# %%
all_rows = [lab.row(spec) for spec in trained]
pairs = [significance.paired(all_rows, m, methods.METHODS[m].control) for m in candidates]
drawn = Markdown(none_here)
if pairs:
    figure = charts.differences(pairs, sentences.labels_of(all_rows))
    caption = (
        "Candidates against their matched controls on the test images, described and no part of "
        "the test, p without correction: a pale dot for each seed, a bar for their mean, from six "
        "seeds on with Student's 95 % interval."
    )
    drawn = figures.save(figure, settings, "08_candidates", caption=caption, source=pairs)
drawn

# %% [markdown]
# ## What else changes
#
# Described by seeds 0 to 5, outside the test above, p without correction: each method against *KD,
# batchmean, annealing* in accuracy, negative log-likelihood and calibration. What a step of each
# loss costs stands in [the benchmarks](../benchmarks/recorded/embedding.md).

# %%
guided = [r for r in all_rows if r["method"] in (*methods.EMBEDDING, protocol.WITHOUT["embedding"])]
tables.against(guided, protocol.WITHOUT["embedding"]) if guided else Markdown(none_here)

# %%
tables.save_records(held_out, settings, "08_held_out")
tables.save_records(rows, settings, "08_tested")
