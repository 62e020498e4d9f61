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
# The second teacher's input. For each image and each of its colour channels: flatten to a signal
# (row-wise, and column-wise on the transposed channel), take the persistence diagram of its
# **sublevel-set filtration** (connected components, $H_0$), keep pairs with persistence above 0.02,
# and draw them in (birth, persistence) coordinates on a 50 × 50 grid over $[0, 0.3]^2$:
#
# $$ \mathrm{PI}[r, c] = \sum_{(b, p)} \frac{p}{p_{\max}} \int_{\text{pixel}(r,c)}
#   \mathcal{N}\big(x;\,(b, p),\,\sigma^2 I\big)\,dx, \qquad \sigma = 0.01 .$$
#
# $p_{\max}$ is the picture's largest persistence. The picture is then scaled to 0 … 255 by its own
# maximum and truncated to 8 bits: its levels say where mass lies, not how much there is. Three
# channels × two directions: six pictures per image. Terms: [glossary](../docs/glossary.md).

# %% tags=["parameters"]
profile: str = "quick"
overrides: dict = {}  # e.g. {"alpha": 0.9}; all names: ./run_all.sh --list

# %%
from IPython.display import Markdown

from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report import figures, sentences, tables
from tgd_lib.study.specs import specs_of

settings = config.resolve(profile, **overrides)
lab = Lab(settings)
study = specs_of(lab)
Markdown(sentences.settings(settings))

# %% [markdown]
# ## Play
#
# The water rises in one channel of an image: under its level, components are born, merge and die,
# and barcode and diagram grow (orange in the image: what is under water). At the right the
# persistence image of the whole diagram, as its four settings say; they begin as the paper's. A
# page that is only read shows one level of it; run the cell to have the controls.

# %%
from tgd_lib.companion import play

play.persistence(lab.data.test.images, number=3 % len(lab.data.test.labels))

# %% [markdown]
# ## Compute them
#
# Pixels are 8-bit, so births and persistences lie on the lattice $k/255$: the Gaussian's masses are
# a 256 × 50 table computed once. Nothing is approximated. The result is kept in the store; the
# second time this cell only reads it.

# %%
import time

view = study.view("pi")
started = time.perf_counter()
pis = {part: lab.views.persistence_images(view, part) for part in ("train", "test")}
shapes = ", ".join(f"{part} {array.shape} {array.dtype}" for part, array in pis.items())
print(f"{shapes}: {time.perf_counter() - started:.1f} s")

# %%
from tgd_lib.topology import PersistenceImageParams

params, test = PersistenceImageParams(), lab.data.test
source = {"images": test.fingerprint, "view": view.orientation}
figure = figures.by_class(
    test.images,
    pis["test"],
    test.labels,
    test.class_names,
    orientation=view.orientation,
    upto=params.high,
)
caption = "A test image of each class above the persistence images of its red channel."
figures.save(figure, settings, "01_by_class", caption=caption, source=source)

# %% [markdown]
# ## One image, read in four ways
#
# By rows and by columns, as the paper does; and beyond the paper as a two-dimensional **cubical
# complex**, in which no pixel loses its neighbours: components ($H_0$) and holes ($H_1$).

# %%
from tgd_lib import topology

number, channel = 3 % len(test.labels), 0  # red
image = test.images[number]
row, column = (topology.persistence_images(image[None], way)[0] for way in ("row", "column"))
cubical = topology.persistence_images(image[None], "cubical")[0]  # H0 of red, green, blue, then H1
readings = {"by rows": row[channel], "by columns": column[channel]}
readings |= {"cubical H0": cubical[channel], "cubical H1": cubical[3 + channel]}
figure = figures.readings(image, readings, upto=params.high)
caption = f"Test image {number}, and the persistence images of its red channel, read in four ways."
figures.save(figure, settings, "01_readings", caption=caption, source=source | {"image": number})

# %% [markdown]
# *What to see:* a persistence image tells texture and contrast, not place. Look for few, bright
# points where an image is smooth and for clouds where it is busy, and for a difference between rows
# and columns where an image has a direction.
#
# ## The mean over a class
#
# If class means differ, a network can learn from persistence images alone.

# %%
figure = figures.mean_pis(pis["test"], test.labels, test.class_names, upto=params.high)
caption = "Mean persistence image of each class over all test images and their six pictures."
figures.save(figure, settings, "01_class_means", caption=caption, source=source)

# %% [markdown]
# *What to see:* how far the mass reaches up (contrast) and where along the births it lies
# (brightness of the minima). Each picture had been scaled by its own maximum, so a bright mean is
# one of pictures whose mass is spread out, not of more topology. Classes whose means look alike can
# still differ image by image. What this run shows:

# %%
Markdown(sentences.class_means(pis["test"], test.labels, test.class_names))

# %% [markdown]
# ## What the paper's window leaves out
#
# The window is $[0, 0.3]^2$. Births run over the whole of $[0, 1]$, so many points lie outside:
# they enter the picture only by the tails of their Gaussians.

# %%
import numpy as np

from tgd_lib import diagrams

picked = np.linspace(0, len(test.images) - 1, min(100, len(test.images))).astype(int)
channels = test.images[picked].transpose(0, 3, 1, 2)  # (images, 3, H, W)
signals = channels.reshape(3 * len(picked), -1) / 255  # (channels, H * W)
points = np.concatenate(diagrams.sublevel_diagrams(signals))
births, persistences = points[:, 0], points[:, 1] - points[:, 0]
drawn = persistences > params.threshold
births, persistences = births[drawn], persistences[drawn]

# %%
found = sentences.window(births, persistences, upto=params.high, channels=len(signals))
figure = figures.window_density(births, persistences, upto=params.high)
caption = f"Where the points lie that a persistence image is drawn of, read by rows. {found}"
figures.save(
    figure, settings, "01_window", caption=caption, source=source | {"test images": picked.tolist()}
)

# %% [markdown]
# *What to see:* the frame is all that the PI teacher is shown in full. Points with a birth above
# 0.3 are components of bright parts of the image.

# %%
outside = (births > params.high) | (persistences > params.high)
share = float(outside.mean()) if len(outside) else 0.0
counts = {part: len(array) for part, array in pis.items()}
record = {"n_images": counts, "outside_window": share, "channels_sampled": len(signals)}
tables.save_records([record | source], settings, "01_persistence_images")
