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
# # 02 · Two teachers
#
# Both are wide residual networks. Teacher 1 sees images (3 channels), teacher 2 sees only
# persistence images (6 channels of 50 × 50, or 3 for one direction). Stochastic gradient descent,
# momentum 0.9, weight decay $10^{-4}$, learning rate 0.1 times 0.2 at 20, 40, 60 and 80 % of the
# schedule (`paper-42` runs the first 42 of its 200 epochs), no augmentation: whatever a teacher
# says about a training image is then a *constant*, and can be stored.
#
# One pair of teachers (seed 0) serves all students. With `selection="last"`, the default, the last
# epoch counts and nothing is chosen on the test set; `authors` takes the epoch that is best on the
# test set, as the authors did.
#
# The best teacher need not teach best. Those of `quick` and `study` had 8 epochs. One with 42, on
# 50,000 images instead of 48,000, is right more often and knows the student's images by heart. On
# held-out images *KD, batchmean, annealing* is right less often with it in each of three seeds, TGD
# without the PI teacher in two of three; epochs, images, schedule and the kind of CPU differ at
# once, so why was not measured (docs/results/study.md). Terms: [glossary](../docs/glossary.md).

# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}  # e.g. {"alpha": 0.9}; all names: ./run_all.sh --list

# %%
from IPython.display import Markdown

from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report import charts, figures, sentences, tables
from tgd_lib.study.specs import specs_of

settings = config.resolve(profile, **overrides)
lab = Lab(settings)
study = specs_of(lab)
Markdown(sentences.settings(settings))

# %% [markdown]
# ## The teachers of this run
#
# A published teacher is taken from the repository, by the key of its *spec* (all that determines
# its weights) and with its sum checked; any other is found in the store, or trained now. It is
# evaluated in this run's precision; the model cards have float32, which moves a few hundredths of a
# per cent. One line an epoch goes to the log. If a training is interrupted, the next run goes
# on after the last whole epoch, and ends (on a CPU) in the same bits.

# %%
specs = [study.teacher("image"), study.teacher("pi")]
rows = [lab.row(spec) for spec in specs]
tables.networks(rows)

# %% [markdown]
# *What to see:* how far the PI teacher is above chance, and how far below the image teacher. The
# question of this whole study is whether the weak teacher knows something that the strong one does
# not. What this run shows:

# %%
names = lab.data.test.class_names
Markdown(sentences.teachers(rows, names))

# %%
figure = charts.curves(rows, "training_accuracy", "training accuracy, %")
caption = (
    "Training accuracy of the two teachers in each epoch, as it was while weights changed, one "
    "network each."
)
figures.save(figure, settings, "02_teachers", caption=caption, source=[r["key"] for r in rows])

# %% [markdown]
# ## From pixels to teachers, here
#
# Where a profile's teachers are those of `study`, nothing was trained so far. A small pair
# (WRN-10-1), trained now on the images of this run, goes the whole way. It teaches nobody: beside
# it stands what more images and a deeper and wider network do for a teacher (numbers of epochs
# differ, too). A profile that trains
# its teachers itself has gone that way above, and has no such pair.

# %%
small = [lab.row(spec) for spec in study.small_teachers()]
tables.networks(rows + small)

# %% [markdown]
# ## Class by class, image by image
#
# Accuracy in per cent on the test images of each class (n = 1 network each).

# %%
tables.by_class(rows, names)

# %% [markdown]
# Is the PI teacher good where the image teacher is bad?

# %%
labels = lab.data.test.labels
image_right, pi_right = (lab.evaluation(spec).array("logits").argmax(1) == labels for spec in specs)
Markdown(sentences.where_the_other_fails(image_right, pi_right))

# %%
tables.save_records(rows, settings, "02_teachers")
