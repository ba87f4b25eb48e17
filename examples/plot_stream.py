"""
A million streamed samples
==========================

Learners are usually judged by how they do on a few thousand images. Here they may see as many as they like, none of
them twice, and it is known how well the best of all classifiers does.
"""

# %%
# Threes and eights with much noise, so that even the best classifier errs now and then.

import os
import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

from mfa_fast import MFAClassifier
from mfa_fast.datasets import SampleStream, load_digits_pair, load_mnist_pair

data = os.environ.get("MFA_FAST_DATA")
digits = load_mnist_pair(3, 8, data) if data else load_digits_pair(3, 8)
fitted = MFAClassifier(n_components=5, n_factors=4, rule="sum", tol=1e-2, random_state=0).fit(
    digits.X_train, digits.y_train
)
bayes = fitted.symmetric(noise_std=0.4 if data is None else 0.8)

X_test, y_test = bayes.sample(20_000, random_state=0)
least_error = 1 - bayes.score(X_test, y_test)
least_loss = log_loss(y_test, bayes.predict_proba(X_test))
print(f"Bayes-optimal: {least_error:.2%} errors, log-loss {least_loss:.3f}")

fig, grid = plt.subplots(2, 10, figsize=(7.5, 1.6), layout="constrained")
for row, label in zip(grid, bayes.classes_, strict=True):
    row[0].set_ylabel(label, rotation=0, ha="right", va="center")
    for axes, image in zip(row, X_test[y_test == label], strict=False):
        axes.imshow(image.reshape(digits.image_shape), cmap="gray_r", vmin=-0.5, vmax=1.5)
        axes.set(xticks=[], yticks=[])

# %%
# A million images, each shown once
# ---------------------------------
# :class:`~mfa_fast.datasets.SampleStream` gives fresh batches without end. Its sample *i* depends on the seed and on
# *i* alone, so a stream can be stopped, saved and resumed, and whoever uses the same seed gets the same million.

learners = {
    "linear, SGD": SGDClassifier(loss="log_loss", learning_rate="invscaling", eta0=0.1, power_t=0.3, random_state=0),
    "network": MLPClassifier((32,), batch_size=500, learning_rate_init=0.005, random_state=0),
}
n_samples, batch_size = 1_000_000, 5_000
checks = np.unique(np.geomspace(1, n_samples // batch_size, 16).astype(int))

stream = SampleStream(bayes, batch_size, seed=1)
errors, losses = {name: [] for name in learners}, {name: [] for name in learners}
seconds = dict.fromkeys(["sampling", *learners], 0.0)
for batch in range(1, checks[-1] + 1):
    start = time.perf_counter()
    X, y = next(stream)
    seconds["sampling"] += time.perf_counter() - start
    for name, learner in learners.items():
        start = time.perf_counter()
        learner.partial_fit(X, y, classes=bayes.classes_)
        seconds[name] += time.perf_counter() - start
        if batch in checks:
            errors[name].append(1 - learner.score(X_test, y_test))
            losses[name].append(log_loss(y_test, learner.predict_proba(X_test)))

for name, spent in seconds.items():
    print(f"{name:<12} {stream.position / spent:>12,.0f} images per second")

# %%
# How near they come
# ------------------
# The linear classifier has soon seen enough: what it still lacks, no number of images will give it. The network goes on
# towards the optimum.

fig, panels = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained")
for axes, title, curves, least in zip(
    panels, ("error rate", "log-loss, nats"), (errors, losses), (least_error, least_loss), strict=True
):
    for name, values in curves.items():
        axes.plot(checks * batch_size, values, "o-", markersize=4, label=name)
    axes.axhline(least, color="black", linestyle=":", label="Bayes-optimal")
    axes.set(xscale="log", xlabel="images seen", title=title)
    axes.set_ylim(bottom=0)
_ = panels[0].legend()
# sphinx_gallery_thumbnail_number = 2
