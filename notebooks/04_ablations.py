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
# Which part of TGD does what, and how do other ways to distil compare? Every ablation is **TGD**, annealing included, but for what it is named after: so it is compared with TGD. Where only
# the second teacher or its share is changed, **TGD at α = 1** is the control: the same without any second teacher. Baselines train once, from random weights, with their customary weights; *KD, batchmean*
# and *TGD without annealing* are what to compare them with at equal epochs. *KD from the PI teacher* and *Two teachers averaged* are KD with this run's reduction, as *KD* is.
#
# Which methods a profile runs stands in `tgd_lib/methods.py`, one table; `./run_all.sh --plan` prints it with what is in the store already.

# %% tags=["parameters"]
profile: str = "quick"  # the named set of all the values below
dataset: str = None  # what to learn: sample | cifar10 | cinic10 | folder
data_dir: str = None  # folder the data set lies in, or is downloaded to
resize: int = None  # side in pixels that images are resized to
device: str = None  # where to compute: auto | cpu | cuda
precision: str = None  # arithmetic of the networks: fp32 | bf16
n_train: int = None  # training images
n_test: int = None  # test images
holdout: int = None  # images held out for choices
epochs: int = None  # epochs of a student
teacher_epochs: int = None  # epochs of a teacher
seeds: int = None  # students of each main method
alpha: float = None  # weight of the image teacher against the PI teacher
lam: float = None  # weight of the teachers' logits against the labels
temperature: float = None  # softening of the logits
gamma: float = None  # weight of the similarity maps
kl_reduction: str = None  # how the divergence is averaged: mean | batchmean
orientation: str = None  # how pixels are strung to a signal: row | column | both | authors_literal
selection: str = None  # which epoch counts: last | authors

# %%
import pandas as pd

from tgd_lib import config
from tgd_lib.report import charts, figures, significance, tables
from tgd_lib.study import methods, questions
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of

pd.options.display.max_rows = 100  # whole tables

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
lab = Lab(settings)
study = specs_of(lab)
print(settings.run_name, "|", settings.purpose)

# %%
asked = study.students(methods.of(settings))
lost = lab.train(asked, tolerant=True)
specs = [s for s in asked if s not in lost]
rows = [lab.row(spec) for spec in specs]
print(len({r["method"] for r in rows}), "methods,", len(rows), "students; diverged:", [s.label for s in lost] or "none")

# %%
tables.readable(rows)

# %% [markdown]
# ## All methods

# %%
figure = charts.accuracies(rows, reference="tgd_alpha1")
caption = "Test accuracy of all methods: a pale dot a seed; beside them their mean with its 95 % interval for a test set of this size. The line: TGD at alpha = 1."
figures.save(figure, settings, "04_all_methods", caption=caption, source=[r["key"] for r in rows])
figure

# %% [markdown]
# *What to see:* what lies left and right of the line, and how wide a single method's dots are scattered: differences smaller than that need more seeds.
#
# ## Each against TGD, and against the controls
#
# Differences from TGD, from TGD at α = 1 and from KD with annealing, *seed by seed*. With fewer than six seeds an exact sign-flip test cannot fall below p = 0.05: the table then says so, and all there
# is to read is size and sign. The p are not corrected for being many.

# %%
tables.against(rows, "tgd")

# %%
tables.against(rows, "tgd_alpha1")

# %%
tables.against(rows, "kd_annealed")

# %% [markdown]
# Baselines had half the epochs of all that. At equal epochs, what trained once, from random weights:

# %%
once = [r for r in rows if r["method"] in (*methods.BASELINES, "scratch", "kd", "tgd_no_annealing") and r["epochs_in_all"] == settings.epochs]
tables.against(once, "kd_batchmean")

# %% [markdown]
# What the PI teacher adds where something else is changed too, each against α = 1 *with the same change*:

# %%
trained = {r["method"] for r in rows}
pairs = [(m, f"tgd_alpha1_{m.removeprefix('tgd_')}") for m in methods.ABLATIONS]
pairs = [significance.paired(rows, *pair) for pair in pairs if {*pair} <= trained]
labels = {r["method"]: r["label"] for r in rows}
lines = [{"TGD": labels[p["method"]], "accuracy, points": tables.difference(p), "verdict": p["verdict"]} for p in pairs]
pd.DataFrame(lines) if lines else print("this profile has no such pairs")

# %% [markdown]
# ## The weight of the maps
#
# On held-out images, where there are some; over the seeds that all of these methods have.

# %%
at = {s.key: (s.guidance.gamma, s.guidance.alpha, s) for s in specs if s.method.startswith("tgd") and s.guidance and s.seed < settings.extra_seeds}
plain = {"tgd", "tgd_alpha1", *(f"tgd{a}_gamma{g:g}" for g in methods.GAMMAS for a in ("", "_alpha1"))}
weights = questions.held_out(lab, [s for _, _, s in at.values() if s.method in plain]) if settings.holdout else []
weights = [r | dict(zip(("gamma", "alpha"), at[r["key"]], strict=False)) for r in weights]
tables.by_weight(weights) if weights else print("nothing is held out")

# %% [markdown]
# ## The weight of the image teacher
#
# On images held out for choices (never on the test set), where the profile has some; over the seeds that all of these methods have.

# %%
curve = [s for s in specs if s.method in methods.ALPHA_CURVE and s.seed < settings.extra_seeds]
part = "holdout" if settings.holdout else "test"
held_out = questions.held_out(lab, curve) if settings.holdout else rows
alphas = {s.key: s.guidance.alpha for s in curve}
by_key = {r["key"]: r for r in held_out if r["key"] in alphas}  # at alpha = 1, TGD is its control
points = [{k: r[k] for k in ("seed", "accuracy", "key")} | {"alpha": alphas[key]} for key, r in by_key.items()]
figure = charts.alpha_curve(points, ylabel=f"{'held-out' if settings.holdout else 'test'} accuracy, %")
caption = f"Accuracy on the {part} images against alpha: a pale dot a seed; the line joins means, bars are standard deviations over seeds."
figures.save(figure, settings, "04_alpha", caption=caption, source=points)
figure

# %%
best = significance.chosen(held_out, ("tgd_alpha1", *methods.ALPHA_CURVE)) if settings.holdout else None
print({None: "nothing is chosen", "tgd_alpha1": "the best mean on held-out images is at alpha = 1"}.get(best, f"chosen on held-out images: {labels.get(best)}"))
if best not in (None, "tgd_alpha1"):
    pair = significance.paired(rows, best, "tgd_alpha1")
    print(f"on the test set against alpha = 1: {tables.difference(pair)} points, {pair['verdict']}")

# %% [markdown]
# *What to see:* whether anything between the ends stands above α = 1 by more than the bars. An optimum at 1 says: leave the PI teacher out.
#
# ## What the second teacher's share really is
#
# The raw maps are added, so the share of the second teacher in the merged map depends on the scale of its features, not on α alone. *Share*: the part of a merged row, along that row, that comes from the
# second teacher (`03_distillation` prints a ratio of norms for one batch, another quantity). Per cent, mean ± standard deviation over 20 batches, a column a stage.

# %%
shares = questions.shares(lab, specs)
lines = [[r["label"], r["alpha"], *(tables.spread(x) for x in zip(*r["shares"], strict=True))] for r in shares]
table = pd.DataFrame(lines, columns=["method", "alpha", "stage 1", "stage 2", "stage 3"])
table.drop_duplicates(list(table)[1:]).set_index("method")  # one line for all that have these teachers and this weight

# %% [markdown]
# *What to see:* beside 1 − α. It is above it where the second teacher's features are the larger ones. At α = 0.99 it is small all the same: TGD there guides almost only with the image teacher's maps.
#
# ## Is it topology, or just a second teacher?
#
# A second image teacher of another seed; the persistence images of *another* image of the class; of any image; fixed noise. If topology teaches, TGD must stand above these. What this profile ran of them:

# %%
group = [r for r in rows if r["method"] in (*methods.SECOND_TEACHER, "tgd", "tgd_alpha1")]
tables.against(group, "tgd_alpha1")

# %% [markdown]
# And the topology of the flattened signal against the image's own, in two dimensions, where the picture is drawn alike (window 0 to 1, σ 0.02):

# %%
group = [r for r in rows if r["method"] in ("tgd_wide", "tgd_cubical", "tgd_super")]
tables.against(group, "tgd_wide") if group else print("not in this profile")

# %% [markdown]
# ## Looking for a topology that does help
#
# Candidates beyond the paper: a window that holds all points, cubical H0 and H1 in two dimensions, superlevel sets, persistence images of noisy copies of the images, a second teacher that sees the image with its persistence map, larger real shares by
# normalising before merging. The choice is made by the mean on *held-out* images alone, over the seeds that all have; the tables above show all on the test set. What is chosen must also beat a second
# *image* teacher in the same place. Candidates differ from TGD in all that their names say, window and α included.

# %%
group = (*methods.CANDIDATES, *methods.MATCHED.values())
candidates = [s for s in specs if s.method in group and s.seed < settings.extra_seeds]
searched = questions.held_out(lab, candidates) if settings.holdout else []
tables.against(searched, "tgd_alpha1") if len({r["method"] for r in searched}) > 1 else print("nothing is held out, so nothing is chosen")

# %%
chosen = significance.chosen(searched, methods.CANDIDATES)
print({None: "nothing was chosen", "tgd_alpha1": "no candidate beats TGD at alpha = 1 on held-out images"}.get(chosen, f"chosen: {chosen}"))
if chosen not in (None, "tgd_alpha1"):
    for control in ("tgd_alpha1", *({methods.MATCHED[chosen]} & trained)):
        pair = significance.paired(rows, chosen, control)
        print(f"on the test set against {control}: {tables.difference(pair)} points, {pair['verdict']}")

# %% [markdown]
# *What to see:* a choice by the largest of several means flatters the chosen on the images it was chosen on; the test figure above is the one to believe, and only as far as its n allows.

# %%
tables.save_records(rows, settings, "04_ablations")
tables.save_records(points, settings, "04_alpha")
tables.save_records(weights, settings, "04_gamma")
tables.save_records(shares, settings, "04_shares")
tables.save_records(searched, settings, "04_search")
