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
# # 04 · Baselines and ablations
#
# Which part of TGD does what, and how do other ways to distil compare? Every ablation is **TGD**,
# annealing included, but for what it is named after: so it is compared with TGD. Where only the
# second teacher or its share is changed, **TGD without the PI teacher (α = 1)** is the control.
# Baselines have the weights of their reference code; in `study`, where steps are few, what
# held-out images left of them (`benchmarks/recorded/weights_baselines.md`): with the code's own,
# some collapse. Each is trained twice: once from random weights, to be compared with *KD,
# batchmean* and *TGD without annealing*, and once annealed, to be compared with *KD, batchmean,
# annealing* and *TGD*. *KD from the PI teacher* and *Two teachers averaged* are KD with this run's
# reduction, as *KD* is. *TopKD* has a network in the place of persistence images; in `study` it
# is no nearer to them than their mean is (`benchmarks/recorded/ripsnet.md`), so there its rows tell
# nothing about topology.
#
# Which methods a profile runs stands in `tgd_lib/study/methods.py`, one table; `./run_all.sh
# --plan` prints it with what is in the store already. Baselines' names and other terms:
# [glossary](../docs/glossary.md).

# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}  # e.g. {"alpha": 0.9}; all names: ./run_all.sh --list

# %%
import pandas as pd
from IPython.display import Markdown

from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report import charts, figures, sentences, significance, tables
from tgd_lib.study import methods, questions
from tgd_lib.study.specs import specs_of

pd.options.display.max_rows = 100  # whole tables
pd.options.display.max_colwidth = None
settings = config.resolve(profile, **overrides)
lab = Lab(settings)
study = specs_of(lab)
Markdown(sentences.settings(settings))

# %%
asked = study.students(methods.of(settings))
diverged = lab.train(asked, tolerant=True)
specs = [spec for spec in asked if spec not in diverged]
rows = [lab.row(spec) for spec in specs]
labels = sentences.labels_of(rows)
names = ", ".join(spec.label for spec in diverged) or "none"
print(f"{len(labels)} methods, {len(rows)} students; diverged: {names}")

# %% [markdown]
# By family, in each the highest mean first; so, too, in the figure and in the long tables below.
# *KD*, *TGD* and every ablation have this run's reduction (`kl_reduction` above) where their name
# says no other.

# %%
by_family = tables.by_family(rows)
tables.grouped(tables.readable(by_family), rows)

# %% [markdown]
# ## All methods

# %%
figure = charts.accuracies(rows, reference="tgd_alpha1")
caption = (
    "Test accuracy of all methods by family, in each the highest mean first: a pale dot for each "
    "seed, a bar for "
    "their mean. The line is the mean of TGD without the PI teacher (α = 1); right, whether a "
    "method's paired differences from it in accuracy show anything."
)
figures.save(figure, settings, "04_all_methods", caption=caption, source=[r["key"] for r in rows])

# %% [markdown]
# *What to see:* what lies left and right of the line. Methods with the same reduction scatter
# mostly in step over the seeds, others need not, so whether one differs from the line is said by
# the verdict beside it, not by the dots. It is about accuracy alone: some that show nothing here
# differ in likelihood or calibration (the tables below). What this run shows:

# %%
Markdown(sentences.comparison(rows, "tgd_alpha1"))

# %% [markdown]
# ## Each against TGD, and against the controls
#
# Differences *seed by seed*. From six seeds on: their mean with Student's 95 % interval, and the p
# of an exact sign-flip test. Fewer cannot bring p below 0.05: there the differences stand one by
# one, and all there is to read is size and sign. The p are not corrected for being many.
#
# The verdict goes by p: six seeds bring it below 0.05 only if all six differences have one sign, so
# an interval may leave zero out and the verdict still be that no difference is shown.

# %%
tables.grouped(tables.against(by_family, "tgd"), rows)

# %%
tables.grouped(tables.against(by_family, "tgd_alpha1"), rows)

# %%
tables.grouped(tables.against(by_family, "kd_annealed"), rows)

# %% [markdown]
# And against the strongest KD, with the textbook's reduction (where that is this run's own, it is
# the table above):

# %%
tables.grouped(tables.against(by_family, "kd_batchmean_annealed"), rows)

# %% [markdown]
# Baselines without annealing have half the total epochs of TGD. Compared among methods that start
# from random weights:

# %%
compared = (*methods.BASELINES, "scratch", "kd", "tgd_no_annealing")
once = [
    r for r in by_family if r["method"] in compared and tables.total_epochs(r) == settings.epochs
]
textbook = "kd_batchmean" if settings.kl_reduction == "mean" else "kd"
tables.against(once, textbook)

# %% [markdown]
# What the PI teacher adds where something else is changed too, each against α = 1 *with the same
# change*:

# %%
changed = [
    name for name in ("tgd", *methods.ABLATIONS) if significance.without_second(name) in labels
]
pairs = [
    significance.paired(rows, name, significance.without_second(name))
    for name in changed
    if name in labels
]
tables.contrasts(pairs, labels)

# %% [markdown]
# ## The weight of the maps
#
# Mean accuracy ± standard deviation over the seeds that all of these methods have. Weights are
# chosen on held-out images (`-p holdout 500`, where a profile has none) by the column of α = 1, so
# that the choice cannot favour topology; where none are held out, the table is of test images, and
# nothing is to be chosen by it.

# %%
part = "holdout" if settings.holdout else "test"
print("accuracy on", "held-out images" if settings.holdout else "TEST images: no choices by these")
gammas = [spec for spec in specs if spec.method in questions.GAMMA_TABLE]
weights = questions.metrics_on(lab, questions.of_common_seeds(gammas), part)
tables.by_weight(weights)

# %% [markdown]
# What the PI teacher adds at each weight, on the same images, paired by seed:

# %%
named = sentences.labels_of(weights)
alone = {name: significance.without_second(name) for name in named}
pairs = [significance.paired(weights, a, b) for a, b in alone.items() if b in named]
tables.contrasts(pairs, named)

# %% [markdown]
# ## The weight of the image teacher
#
# On images held out for choices, where the profile has some (never on the test set, then); over the
# seeds that all of these methods have. *Normalised*: each teacher's map is normalised before
# merging, so that the second teacher's share is about 1 − α; there with a second *image* teacher
# beside the PI teacher.

# %%
on_curve = ("tgd_alpha1", *(name for names in methods.ALPHA_CURVES.values() for name in names))
curve = questions.of_common_seeds([spec for spec in specs if spec.method in on_curve])
points = questions.metrics_on(lab, curve, part)
pairs = significance.from_alpha_1(points)
where = "held-out" if settings.holdout else "test"
figure = charts.alpha_curve(pairs, part=where)
caption = (
    f"Accuracy on the {where} images against alpha, as paired differences from alpha = 1: a pale "
    "dot for each seed, "
    "a bar for their mean, from six seeds on with Student's 95 % interval. Normalised: each "
    "teacher's map before merging."
)
figures.save(figure, settings, "04_alpha", caption=caption, source=points)

# %% [markdown]
# *What to see:* whether anything stands above α = 1. An optimum at 1 says that no second teacher
# gained anything; whether one costs, the intervals say. What this run shows:

# %%
found = significance.choose_and_compare(rows, points if settings.holdout else [], on_curve)
Markdown(f"{sentences.alphas(pairs, where)} {sentences.search(found)}")

# %% [markdown]
# ## What the second teacher's share really is
#
# The raw maps are added, so the share of the second teacher in the merged map depends on the scale
# of its features, not on α alone. *Share*: the part of a merged row, along that row, that comes
# from the second teacher. Per cent, mean ± standard deviation over 20 batches, a column for each
# stage.

# %%
shares = questions.shares(lab, specs)
tables.shares(shares)

# %% [markdown]
# *What to see:* the share beside 1 − α. It is above it where the second teacher's features are the
# larger ones. What this run shows:

# %%
Markdown(sentences.shares(shares))

# %% [markdown]
# ## Is it topology, or just a second teacher?
#
# A second image teacher of another seed. And the PI teacher itself, shown the persistence image of
# *another* image of the class (in `paper`), of *any* image, or noise: a picture whose every pixel
# is another image's. If topology teaches, a student must stand above these. At α = 0.99 on raw maps
# every second teacher's share is small (the table above), so they are compared where it is real:
# each teacher's map is normalised *before* merging, α = 0.5 and 0.9. Without a second teacher
# (α = 1) there is nothing to normalise before, so the control is the same.
#
# In `study`, the students of a PI teacher that is shown something else were trained on another kind
# of CPU than the rest, which alone moves a student by up to 0.2 points. On one kind of CPU *other
# images' persistence images* at α = 0.5 are not shown to differ from the images' own in accuracy;
# their NLL is higher by 0.012 nats. Noise differs in both (`benchmarks/recorded/again.md`). What
# this profile ran of them:

# %%
group = [r for r in rows if r["method"] in (*methods.SECOND_TEACHER, "tgd", "tgd_alpha1")]
tables.against(group, "tgd_alpha1")

# %%
Markdown(sentences.topology(rows))

# %% [markdown]
# Each second teacher that sees topology against a second *image* teacher with the same share; the
# PI teacher shown something else against itself, shown the images' own:

# %%
controlled = [m for m in labels if methods.METHODS[m].control in labels]
of_embedding = [m for m in controlled if m in methods.EMBEDDING]
shared = [significance.paired(rows, m, methods.METHODS[m].control) for m in controlled]
second = [pair for pair in shared if pair["method"] not in of_embedding]
none_here = "This profile trains none of them with its control; `study` does."
tables.contrasts(second, labels) if second else Markdown(none_here)

# %% [markdown]
# Guidance by the topology of the embedding has no second teacher; its control has random trees
# ([08](08_topology_that_helps.ipynb) has more):

# %%
embedded = [pair for pair in shared if pair["method"] in of_embedding]
tables.contrasts(embedded, labels) if embedded else Markdown(none_here)

# %% [markdown]
# ## Looking for a topology that does help
#
# Candidates: TGD itself and, each with a real share, second teachers that see other topology (which
# of them a profile has is said below; `paper` has all): the paper's persistence images, a window
# that holds all points, rows or columns alone, superlevel sets, cubical H0 and H1, noisy copies of
# the images, the image with its persistence map. The
# choice is made by the mean on *held-out* images alone, over the seeds that all have; the tables
# above show all on the test set. What is chosen must also beat a second *image* teacher in the
# same place. (The yardstick of the choice is α = 1 here; that of
# [08](08_topology_that_helps.ipynb) is each candidate's matched control, so the two may choose
# differently.) The candidates, and those controls, on the held-out images:

# %%
controls = {methods.METHODS[name].control for name in methods.CANDIDATES}
candidates = [spec for spec in specs if spec.method in {*methods.CANDIDATES, *controls}]
candidates = questions.of_common_seeds(candidates)
searched = questions.metrics_on(lab, candidates, "holdout") if settings.holdout else []
tables.against(tables.by_family(searched), "tgd_alpha1")

# %%
Markdown(sentences.search(significance.choose_and_compare(rows, searched, methods.CANDIDATES)))

# %% [markdown]
# *What to see:* a choice by the largest of several means flatters what it takes on the images it
# was made on; the difference on the test images is the one to believe, and only as far as its n
# allows.

# %% [markdown]
# Where a profile trains *TGD at α = 0.5*, its student of seed 0 joins those that
# [03](03_distillation.ipynb) has put into the run's folder.

# %%
from tgd_lib.study import published

given = [spec for spec in specs if (spec.method, spec.seed) == ("tgd_alpha0.5", 0)]
if given:
    published.publish(lab, given)
tables.save_records(rows, settings, "04_ablations")
tables.save_records(points, settings, "04_alpha")
tables.save_records(weights, settings, "04_gamma")
tables.save_records(shares, settings, "04_shares")
tables.save_records(searched, settings, "04_search")
