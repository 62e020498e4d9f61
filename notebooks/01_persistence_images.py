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
# # 01 · Persistence images
#
# The second teacher's input. For each image and each of its colour channels: flatten to a signal (row-wise, and column-wise on
# the transposed channel), take the persistence diagram of its **sublevel-set filtration** (connected components, $H_0$), keep pairs with
# persistence above 0.02, and draw them in (birth, persistence) coordinates on a 50 × 50 grid over $[0, 0.3]^2$:
#
# $$ \mathrm{PI}[r, c] = \sum_{(b, p)} \frac{p}{p_{\max}} \int_{\text{pixel}(r,c)} \mathcal{N}\big(x;\,(b, p),\,\sigma^2 I\big)\,dx, \qquad \sigma = 0.01 .$$
#
# The picture is then scaled to 0 … 255 and truncated to 8 bits. Three channels × two directions: six pictures an image.

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
from tgd_lib import config
from tgd_lib.report import figures, tables
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
lab = Lab(settings)
study = specs_of(lab)
print(settings.run_name, "|", settings.purpose)

# %% [markdown]
# ## Compute them
#
# Pixels are 8-bit, so births and persistences lie on the lattice $k/255$: the Gaussian's masses are a 256 × 50 table computed
# once. Nothing is approximated. The result is kept in the store; the second time this cell only reads it.

# %%
import time

started = time.perf_counter()
pis = {part: lab.views.persistence_images(study.view("pi"), part) for part in ("train", "test")}
print({part: (a.shape, str(a.dtype)) for part, a in pis.items()}, f"{time.perf_counter() - started:.1f} s")

# %%
test = lab.data.test
source = {"images": test.fingerprint, "view": study.view("pi").orientation}
figure = figures.by_class(test.images, pis["test"], test.labels, test.class_names)
caption = f"An image of a class above its persistence images (orientation {settings.orientation}); red, green, blue are the channels."
figures.save(figure, settings, "01_by_class", caption=caption, source=source)
figure

# %% [markdown]
# *What to see:* a persistence image tells texture and contrast, not place. Look for few, bright points where an image is smooth and for clouds where it is busy,
# and (with orientation `both`: rows above, columns below) for a difference between the two where an image has a direction.
#
# ## The mean over a class
#
# If class means differ, a network can learn from persistence images alone.

# %%
from tgd_lib.topology import PersistenceImageParams

params = PersistenceImageParams()
figure = figures.mean_pis(pis["test"], test.labels, test.class_names, upto=params.high)
caption = "Mean persistence image of each class over all test images and channels."
figures.save(figure, settings, "01_class_means", caption=caption, source=source)
figure

# %% [markdown]
# *What to see:* how far the mass reaches up (contrast) and where along the births it lies (brightness of the minima). Classes whose means look alike
# can still differ image by image; classes whose means differ can be told apart by topology alone.
#
# ## What the paper's window leaves out
#
# The window is $[0, 0.3]^2$. Births run over the whole of $[0, 1]$, so many points lie outside: they enter the picture only by the tails of their Gaussians.

# %%
import numpy as np

from tgd_lib import diagrams

picked = np.linspace(0, len(test.images) - 1, min(100, len(test.images))).astype(int)
channels = test.images[picked].transpose(0, 3, 1, 2)
signals = channels.reshape(channels.shape[0] * 3, -1) / 255  # (channels, H * W)
points = np.concatenate(diagrams.sublevel_diagrams(signals))
births, persistences = points[:, 0], points[:, 1] - points[:, 0]
kept = persistences > params.threshold
outside = (births[kept] > params.high) | (persistences[kept] > params.high)
share = float(outside.mean()) if kept.any() else 0.0
print(f"{kept.sum()} points above the threshold in {len(signals)} channels; {100 * share:.0f} % outside the window")

# %%
record = {"n_images": {part: len(a) for part, a in pis.items()}, "outside_window": share, "channels_sampled": len(signals)}
tables.save_records([record | source], settings, "01_persistence_images")
