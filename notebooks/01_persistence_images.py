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
dataset: str = None  # what to learn: photographs | cifar10 | cinic10 | folder
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
from tgd_lib import config, figures, tables
from tgd_lib.experiment import Lab

# All parameters above, checked; None means: as the profile says.
settings = config.resolve(**{name: globals()[name] for name in config.PARAMETERS})
lab = Lab(settings)
print(settings.run_name, "|", settings.purpose)

# %% [markdown]
# ## Compute them
#
# Pixels are 8-bit, so births and persistences lie on the lattice $k/255$: the Gaussian's masses are a 256 × 50 table computed
# once. Nothing is approximated. The result is kept in the store; the second time this cell only reads it.

# %%
import time

started = time.perf_counter()
pis = {part: lab.persistence_images(part) for part in ("train", "test")}
print({part: (a.shape, str(a.dtype)) for part, a in pis.items()}, f"{time.perf_counter() - started:.1f} s")

# %%
test = lab.data.test
source = {"images": test.fingerprint, "view": lab.specs.view("pi").orientation}
figure = figures.by_class(test.images, pis["test"], test.labels, test.class_names)
caption = "An image of each class above its persistence images: row-wise, then column-wise; red, green, blue are the channels."
figures.save(figure, settings, "01_by_class", caption=caption, source=source)
figure

# %% [markdown]
# *What to see:* a persistence image tells texture and contrast, not place. Smooth images give few, bright points, busy ones a cloud near
# persistence 0. Row-wise and column-wise differ where an image has a direction.
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
# *What to see:* the mass sits at small persistence for every class; what tells classes apart is how far it reaches up and
# where along the births it lies.
#
# ## What the paper's window leaves out
#
# The window is $[0, 0.3]^2$. Births run over the whole of $[0, 1]$, so many points lie outside: they enter the picture only by the tails of their Gaussians.

# %%
from tgd_lib import topology

sample = test.images[:100].transpose(0, 3, 1, 2).reshape(300, -1) / 255  # (300, H * W)
births, deaths = zip(*(d.T for d in topology.sublevel_diagrams(sample)))
births, deaths = (sum((list(a) for a in arrays), []) for arrays in (births, deaths))
kept = [(b, d - b) for b, d in zip(births, deaths) if d - b > params.threshold]
outside = sum(b > params.high or p > params.high for b, p in kept) / len(kept)
print(f"{len(kept)} points above the threshold in 300 channels; {100 * outside:.0f} % outside the window")

# %%
record = {"n_images": {part: len(a) for part, a in pis.items()}, "outside_window": outside, "channels_sampled": len(sample)}
tables.save_records([record | source], settings, "01_persistence_images")
