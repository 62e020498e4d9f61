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
# # 07 · Results
#
# Drawn from the records that the notebooks before wrote, nothing else: no network is touched here.
# Metrics are mean ± standard deviation over seeds (n), test set, under the selection rule named
# beside them. `last`: nothing is chosen, the last epoch counts. `authors`: best epoch on the test
# set, as the authors chose theirs; only for comparison with their checkpoints. Terms:
# [glossary](../docs/glossary.md).

# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}  # e.g. {"alpha": 0.9}; all names: ./run_all.sh --list

# %%
import pandas as pd
from IPython.display import Markdown

from tgd_lib import config
from tgd_lib.report import charts, figures, sentences, significance, tables
from tgd_lib.study import methods

pd.options.display.max_colwidth = None  # whole sentences
settings = config.resolve(profile, **overrides)
Markdown(sentences.settings(settings))

# %%
rows = tables.load_records(settings, "04_ablations")
labels = sentences.labels_of(rows)
under = tables.under_corruption(tables.load_records(settings, "05_robustness"))
path = tables.write_results(rows, settings)
main = [r for r in rows if r["method"] in methods.TABLE]
tables.readable(main)

# %% [markdown]
# ## The question of this study
#
# TGD minus TGD without the PI teacher (α = 1), paired by seed: named beforehand, and the first line
# whichever way it falls. NLL and ECE: *below* zero is better. (Whether that is topology or would be
# any second teacher: [04](04_ablations.ipynb).)

# %%
Markdown(sentences.topology(rows, under))

# %% [markdown]
# ## Accuracy

# %%
anchored = settings.dataset == "cifar10" and settings.selection == "authors"
figure = charts.accuracies(main, tables.anchor_accuracies() if anchored else None, "tgd_alpha1")
caption = (
    "Test accuracy: a pale dot for each seed, a bar for their mean. The line is the mean of TGD "
    "without the PI teacher "
    "(α = 1); right, whether a method's paired differences from it in accuracy show anything. "
    "Crosses, if any: the authors' checkpoints."
)
figures.save(figure, settings, "07_accuracy", caption=caption, source=[r["key"] for r in main])

# %% [markdown]
# *What to see:* how far the methods lie apart. Methods with the same reduction scatter mostly in
# step over the seeds, others need not; whether two differ is shown by the next figure, seed by
# seed.
#
# ## What each part adds
#
# Differences between two methods *of the same seed* (same initial weights, same batches). From six
# seeds on with Student's 95 % interval and an exact sign-flip test; with n seeds p cannot be
# smaller than $2/2^n$, so fewer than six cannot show anything. All but the first line are
# descriptive, and their p are not corrected for being many. All seeds share one pair of teachers,
# so p speaks of students of this pair.

# %%
contrasts = {
    ("tgd", "tgd_alpha1"): "the PI teacher",
    ("tgd", "kd_annealed"): "maps and PI teacher",
    ("tgd", "kd_batchmean_annealed"): "all of TGD against the textbook's KD, at equal epochs",
    ("tgd", "scratch_twice"): "all of TGD against more training, at equal epochs",
    ("tgd", "kd"): "maps, PI teacher, a trained start and its epochs",
    ("tgd", "scratch"): "all of TGD, and its epochs",
    ("kd_annealed", "kd"): "a trained start and its epochs",
}
pairs = [significance.paired(rows, *names) for names in contrasts if set(names) <= set(labels)]
table = tables.contrasts(pairs, labels)
table["what it tells"] = [contrasts[pair["method"], pair["control"]] for pair in pairs]
table

# %%
figure = charts.differences(pairs, labels)
caption = (
    "Paired differences in test accuracy, the verdict beside them: a pale dot for each seed, a bar "
    "for their mean, "
    "from six seeds on with Student's 95 % interval."
)
figures.save(figure, settings, "07_differences", caption=caption, source=pairs)

# %% [markdown]
# *What to see:* the first line is what the PI teacher adds to this student on this data. With six
# seeds or fewer, dots on both sides of zero show nothing.
#
# ## What accuracy costs

# %%
networks = tables.load_records(settings, "06_cost")[0]["networks"]
roles = {"teacher_image": "image teacher", "teacher_pi": "PI teacher"}
teachers = [r | {"role": roles[r["method"]]} for r in tables.load_records(settings, "02_teachers")]
students = [r | {"role": "student"} for r in main]
figure = charts.cost_and_accuracy(networks, students + teachers)
caption = (
    "Test accuracy against multiply-adds of a forward pass: pale dots are seeds. The students cost "
    "the same and are "
    "drawn side by side. Persistence images come on top of the PI teacher's price, see 06."
)
keys = [r["key"] for r in students + teachers]
figures.save(figure, settings, "07_cost_accuracy", caption=caption, source=keys)

# %% [markdown]
# *What to see:* all students stand at one price. How much of the way up to the image teacher does
# each method go?

# %%
Markdown(sentences.gap(main, teachers[0]))

# %%
print(f"results table: {path.relative_to(config.artifacts_dir())} in artifacts/")
