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
# # 05 · Robustness and calibration
#
# Of two students of equal accuracy one may be more robust, or better calibrated. Three questions to
# the methods that the text compares:
#
# * **Corruptions**: noise, blur, weather and digital damage with CIFAR-10-C's published constants
#   for 32×32 images, five severities. Where the data folder holds the official arrays
#   (`CIFAR-10-C/`), those are used.
# * **Calibration**: expected calibration error (ECE, 15 bins), negative log-likelihood (NLL) and
#   Brier score, as trained and after *temperature scaling*: logits divided by one number fitted on
#   held-out images.
# * **Transfer**: CIFAR-10 networks on images of CINIC-10 that are not CIFAR's.
#
# Methods: [03](03_distillation.ipynb), [04](04_ablations.ipynb) and
# [08](08_topology_that_helps.ipynb); terms: [glossary](../docs/glossary.md).

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

pd.options.display.max_colwidth = None  # whole names
settings = config.resolve(profile, **overrides)
lab = Lab(settings)
study = specs_of(lab)
Markdown(sentences.settings(settings))

# %%
specs = study.examined()
robust = questions.robustness(lab, specs)
main = [r for r in robust if r["method"] in methods.TABLE]
print(f"{robust[0]['n']} test images, corruptions: {robust[0]['source']}")

# %% [markdown]
# ## Corruptions
#
# Accuracy in per cent, mean over the five severities, mean ± standard deviation over seeds.

# %%
tables.corruptions(robust)

# %%
figure = charts.corruption_differences(main, "tgd_alpha1")
caption = (
    f"Accuracy on {robust[0]['n']} test images, as paired differences from TGD without the PI "
    "teacher (α = 1), against "
    "severity: the line is the mean over seeds; from six seeds on the band is Student's 95 % "
    "interval, below that thin "
    "lines are the seeds."
)
figures.save(figure, settings, "05_corruptions", caption=caption, source=main)

# %% [markdown]
# *What to see:* whether lines change their distance from zero, and above all whether one crosses
# it: a method that is better on clean images may be worse on strongly corrupted ones. Where lines
# run level, a method is as robust as it is accurate, and no more; but at high severities all
# accuracies fall towards chance, and differences shrink with them.
#
# ### What the PI teacher adds under corruption
#
# Mean over all corruptions and severities, paired by seed. The verdict goes by p (not corrected for
# being many): an interval, or a band above, may leave zero out while no difference is shown. In
# `study`, students whose PI teacher is shown other images' persistence images or noise were trained
# on another kind of CPU than the rest (`benchmarks/recorded/again.md`).

# %%
under = tables.by_family(tables.under_corruption(robust))
names = sentences.labels_of(under)
tables.grouped(tables.against(under, "tgd_alpha1"), under)

# %%
beside = [m for m in names if m != "tgd_alpha1"]
pairs = [significance.paired(under, m, "tgd_alpha1") for m in beside]
figure = charts.differences(pairs, names, of="accuracy under corruption")
caption = (
    "Accuracy under corruption, mean over all corruptions and severities, as paired differences "
    "from TGD without the PI teacher (α = 1): a pale dot for each seed, a bar for their mean, from "
    "six seeds on with Student's 95 % interval; right, the verdict."
)
figures.save(figure, settings, "05_under_corruption", caption=caption, source=under)

# %%
Markdown(sentences.topology(under))

# %%
tables.grouped(tables.against(under, "kd_annealed"), under)

# %% [markdown]
# And against the strongest KD, with the textbook's reduction (where that is this run's own, it is
# the table above):

# %%
tables.grouped(tables.against(under, "kd_batchmean_annealed"), under)

# %% [markdown]
# Above α = 1 is not yet topology: each second teacher that sees topology against a second *image*
# teacher with the same share, the PI teacher shown something else against itself, shown the images'
# own, and each loss of the embedding against its control.

# %%
controls = {m: methods.METHODS[m].control for m in names}
controls = {m: control for m, control in controls.items() if control in names}
none_here = Markdown("This profile trains none with its control.")
tables.against_controls(under, controls, ("accuracy",)) if controls else none_here

# %% [markdown]
# The same for ECE, and for NLL:

# %%
tables.against_controls(under, controls, ("ece",)) if controls else none_here

# %%
tables.against_controls(under, controls, ("nll",)) if controls else none_here

# %% [markdown]
# ## Calibration
#
# (What was said of kinds of CPU holds here and for transfer, too: differences of a few thousandths
# of a nat between methods that were trained on two kinds say nothing.)

# %%
calibrated = questions.calibration(lab, specs) if settings.holdout else []
tables.calibration(calibrated)

# %%
reliable = [r for r in calibrated if r["method"] in methods.TABLE]
drawn = Markdown("No images are held out here, so no temperature is fitted and nothing is drawn.")
if reliable:
    figure = charts.reliability(reliable)
    caption = (
        "Reliability diagrams, all seeds of a method pooled: accuracy in bins of confidence, pale "
        "where under 1 % of the images lie; dashed, where both are equal. Above as trained, below "
        "after temperature scaling. ECE: the mean of the seeds'."
    )
    drawn = figures.save(figure, settings, "05_reliability", caption=caption, source=reliable)
drawn

# %% [markdown]
# *What to see:* bars below the dashed line mean overconfidence. Temperature scaling changes no
# prediction, so what it repairs was only a matter of scale; compare methods *after* it. A
# temperature is fitted on clean held-out images; for corrupted ones it is not measured here. What
# this run shows:

# %%
Markdown(sentences.calibration(calibrated))

# %% [markdown]
# Paired by seed, as trained; p and verdict are of ECE:

# %%
as_trained = tables.scaled(calibrated, "before")
tables.against(as_trained, "tgd_alpha1", ("ece", "nll"))

# %% [markdown]
# And after scaling; p and verdict are of NLL:

# %%
after_scaling = tables.scaled(calibrated, "after")
tables.against(after_scaling, "tgd_alpha1", ("nll", "ece"))

# %% [markdown]
# Each with a control against that, as trained (p and verdict of ECE), then after scaling (of NLL):

# %%
measured = {r["method"] for r in calibrated}
of_these = {m: c for m, c in controls.items() if {m, c} <= measured}
tables.against_controls(as_trained, of_these, ("ece", "nll")) if of_these else none_here

# %%
tables.against_controls(after_scaling, of_these, ("nll", "ece")) if of_these else none_here

# %% [markdown]
# ## Transfer
#
# Accuracy in per cent on a sample of CINIC-10, where the data folder has it: images that CIFAR-10
# has not, and images of its training set.

# %%
moved = questions.transfer_sample(lab, specs)
no_sample = Markdown("The data folder has no CINIC-10 sample, so nothing is measured here.")
tables.transfer(moved) if moved else no_sample

# %%
tables.against(moved, "tgd_alpha1", ("transfer",)) if moved else no_sample

# %% [markdown]
# Against the matched controls, on the images that CIFAR-10 has not:

# %%
pairs = [significance.paired(moved, m, c, "transfer") for m, c in controls.items() if moved]
(tables.contrasts(pairs, names) if pairs else none_here) if moved else no_sample

# %%
tables.save_records(robust, settings, "05_robustness")
tables.save_records(calibrated, settings, "05_calibration")
tables.save_records(moved, settings, "05_transfer")
