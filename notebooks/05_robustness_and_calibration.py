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
# A student that is as accurate may still be sturdier, or know better when it does not know. Three questions to the main methods:
#
# * **Corruptions**: noise, blur, weather and digital damage with CIFAR-10-C's published constants for 32×32 images, five severities. Where the data folder holds the official arrays (`CIFAR-10-C/`), those are used.
# * **Calibration**: expected calibration error (ECE, 15 bins), negative log-likelihood (NLL) and Brier score, as trained and after *temperature scaling*: logits divided by one number fitted on held-out images.
# * **Transfer**: CIFAR-10 networks on images of CINIC-10 that are not CIFAR's.
#
# Published noise constants are for natural 32×32 images; on the patches of `photographs` they demonstrate, no more.

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
from IPython.display import display

from tgd_lib import config
from tgd_lib.report import charts, figures, tables
from tgd_lib.study import methods, questions
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
lab = Lab(settings)
study = specs_of(lab)
print(settings.run_name, "|", settings.purpose)

# %%
specs = study.students([m for m in methods.EXAMINED if m in methods.of(settings)])
robust = questions.robustness(lab, specs)
main = [r for r in robust if r["method"] in methods.MAIN]
print(f"{robust[0]['n']} test images, corruptions: {robust[0]['source']}")

# %% [markdown]
# ## Corruptions
#
# Accuracy in per cent, mean over the five severities, mean ± standard deviation over seeds.

# %%
tables.corruptions(robust)

# %%
figure = charts.corruption_curves(main)
caption = f"Accuracy against severity on {robust[0]['n']} test images: the line is the mean over seeds, the band their range."
figures.save(figure, settings, "05_corruptions", caption=caption, source=main)
figure

# %% [markdown]
# *What to see:* whether lines cross. Where they run in parallel, a method is as robust as it is accurate, and no more.
#
# ### What topology adds under corruption
#
# Mean over all corruptions and severities, paired by seed.

# %%
under = tables.under_corruption(robust)
tables.against(under, "tgd_alpha1")

# %%
tables.against(under, "kd_annealed")

# %% [markdown]
# ## Calibration

# %%
calibrated = questions.calibration(lab, specs) if settings.holdout else []
tables.calibration(calibrated) if calibrated else print("this profile holds no images out, so no temperature is fitted")

# %%
if calibrated:
    shown = [r for r in calibrated if r["method"] in methods.MAIN]
    figure = charts.reliability(shown)
    caption = "Reliability diagrams, all seeds of a method pooled: accuracy in bins of confidence, pale where under 1 % of the images lie. Above as trained, below after temperature scaling."
    figures.save(figure, settings, "05_reliability", caption=caption, source=shown)
    display(figure)

# %% [markdown]
# *What to see:* bars below the dashed line mean overconfidence. Temperature scaling changes no prediction, so what it repairs was only a matter of scale; compare methods *after* it.
#
# ## Transfer

# %%
moved = questions.transfer_sample(lab, specs)
tables.against(moved, "tgd_alpha1", ("transfer",)) if moved else print(f"no {questions.SAMPLE} in the data folder, or not a CIFAR-10 run: no transfer figure")

# %%
for label in dict.fromkeys(r["label"] for r in moved):
    chosen = [r for r in moved if r["label"] == label]
    figures_of = {k: tables.spread([r[k] for r in chosen]) for k in ("transfer", "seen")}
    print(f"{label}: {figures_of['transfer']} % on {chosen[0]['n']} unseen images; {figures_of['seen']} % on {chosen[0]['n_seen']} that are CIFAR-10 training images")

# %%
tables.save_records(robust, settings, "05_robustness")
tables.save_records(calibrated, settings, "05_calibration")
tables.save_records(moved, settings, "05_transfer")
