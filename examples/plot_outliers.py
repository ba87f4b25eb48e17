"""
Outliers among digits
=====================

A density says of an image how probable it is, so it can tell which images do not belong. A low density is not the
whole story, though: some images are *too* probable to be real.
"""

# %%
# A mixture learns zeros and sixes, and sees no other digit. The images are those that come with scikit-learn, or
# MNIST's where ``MFA_FAST_DATA`` names a folder that holds it.

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import RocCurveDisplay

from mfa_fast import MFA
from mfa_fast.datasets import load_digits_pair, load_mnist_pair

data = os.environ.get("MFA_FAST_DATA")


def load(a, b):
    """Load two digits."""
    return load_mnist_pair(a, b, data) if data else load_digits_pair(a, b)


digits = load(0, 6)
model = MFA(n_components=4, n_factors=4, random_state=0).fit(digits.X_train)

# %%
# Three kinds of outliers
# -----------------------
# Held-out zeros and sixes are to be told from other digits; from zeros and sixes with noise; and from zeros and sixes
# out of which the model has taken what it holds to be noise: what is left is what the factors of their best component
# explain of them.

inliers = digits.X_test
noise = 0.25 * np.random.RandomState(0).standard_normal(inliers.shape)
outliers = {
    "other digits": np.concatenate([load(1, 7).X_test, load(4, 9).X_test]),
    "noisy": np.clip(inliers + noise, 0, 1).astype(np.float32),
    "smoothed": model.reconstruct(inliers),
}
kinds = {"held out": inliers} | outliers

fig, grid = plt.subplots(len(kinds), 10, figsize=(7.5, 3.2), layout="constrained")
for row, (name, images) in zip(grid, kinds.items(), strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    # "Other digits" come one digit after the other; every so many takes some of each.
    for axes, image in zip(row, images[:: len(images) // 10], strict=False):
        axes.imshow(image.reshape(digits.image_shape), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])

# %%
# Their log-densities
# -------------------
# Other digits and noise lie far below. What was smoothed lies *above* the images that it was made from: without their
# noise these images are nearer to what the model thinks of digits than any digit is.

log_density = {name: model.score_samples(images) for name, images in kinds.items()}
typical = model.score(digits.X_train)

fig, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
lowest = np.quantile(np.concatenate(list(log_density.values())), 0.02)
bins = np.linspace(lowest, max(values.max() for values in log_density.values()), 60)
for name, values in log_density.items():
    axes.hist(values.clip(lowest), bins, density=True, alpha=0.6, label=name)
axes.axvline(typical, color="black", linestyle=":", label="mean of the training images")
axes.set(xlabel="log-density, nats", yticks=[])
_ = axes.legend()

# %%
# Density or typicality
# ---------------------
# Samples of a density in many dimensions all have about the same log-density, whatever its peak is: they are *typical*.
# How far an image's log-density is from that value, on either side, tells all three kinds of outliers. A low density
# alone tells the smoothed images worse than chance would.

atypical = {name: np.abs(values - typical) for name, values in log_density.items()}
improbable = {name: -values for name, values in log_density.items()}

fig, panels = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharey=True)
for axes, title, scores in zip(panels, ("low density", "not typical"), (improbable, atypical), strict=True):
    for name in outliers:
        truth = np.repeat([0, 1], [len(inliers), len(outliers[name])])
        RocCurveDisplay.from_predictions(truth, np.concatenate([scores["held out"], scores[name]]), name=name, ax=axes)
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    axes.set(title=title, xlabel="held-out digits taken for outliers", ylabel="outliers found")

# %%
# And which zeros and sixes are the odd ones?
# -------------------------------------------
# The held-out images of the lowest and, below, of the most typical log-density.

order = np.argsort(log_density["held out"])
near = np.argsort(atypical["held out"])

fig, grid = plt.subplots(2, 10, figsize=(7.5, 1.8), layout="constrained")
for row, name, chosen in zip(grid, ("odd", "typical"), (order[:10], near[:10]), strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, image in zip(row, inliers[chosen], strict=True):
        axes.imshow(image.reshape(digits.image_shape), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
# sphinx_gallery_thumbnail_number = 3
