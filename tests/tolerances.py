"""How far off a result may be, and why. The only place for tolerances in the tests."""

import numpy as np

# Relative error of a log-density, of size max(1, |value|). The library's promise for any noise,
# 1e-3 included. float64: the difference form is kept only where its rounding bound allows; what
# remains is summation error, and what residuals lose, which shows where noise is below 1e-7.
LOG_DENSITY = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}

# Posterior factors and what is computed from them, relative to max(1, |value|). They come from a
# linear system whose condition number is some hundreds for the models of the tests; the result is
# rounded to the dtype.
FACTORS = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-9}

# The reference against itself on another way: assembled covariances in float64 have condition
# numbers up to 1e6 at noise_std = 1e-3 (times the loadings), and lose that many digits.
REFERENCE = {1.0: 1e-11, 1e-3: 1e-6}

# Conditional moments against the conditioned joint covariance written out, whose condition number costs digits as in
# REFERENCE, with the noise; relative to max(1, |value|).
CONDITIONAL = {1.0: 1e-10, 1e-3: 1e-6}

# Sums of probabilities: K roundings in the dtype.
PROBABILITY_SUM = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-12}

# Parameters after a few EM iterations, relative to their largest entry: both sides accumulate in
# float64, and EM itself spreads a difference in the last digit over the iterations.
EM_PARAMETERS = 1e-8
# With float32 data the responsibilities are read from log-densities that may be off by 1e-5
# relative.
EM_PARAMETERS_FLOAT32 = 1e-3

# A step along a principal direction, relative to its largest entry: rounding is blown up by how close the neighbouring
# variances lie, a hundredth here; kept in the dtype beside a mean.
PRINCIPAL_DIRECTION = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}

# By how much an EM iteration may lower the mean log-density, relative: rounding, not descent.
EM_MONOTONE = 1e-6

# Gradients by central differences with a step of 1e-6: truncation and cancellation meet near 1e-7.
FINITE_DIFFERENCES = 1e-6

# Adversarial examples of two implementations of the same steps, relative to the length of the step.
# The step length solves a quadratic; its condition loses a few digits.
ATTACK = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-8}

# Mean distances of an iterative attack and of LD-Grad, relative to the latter, which itself is up to 5 % above the
# least there is.
LIBRARY_ATTACK = 0.15

# Where an attack stops: gap at the adversarial example over the gap at the start. The overshoot is
# 1e-6 of the step and the slope there is of the order of the mean slope.
BOUNDARY = 1e-4

# Lower bounds on distances, relative: what rounding may have added is taken off them already, and the
# reference has its own.
NEAREST_ROUNDING = 1e-9
# Distances of nearest points found by two ways, relative to max(1, |value|): the dual's ascent ends where its value
# grows by 1e-13 of itself, which leaves its point off by the root of that; and rounded to the dtype.
NEAREST_POINT = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-6}
# Bounds of the sum rule where they stay below the point: they come from a bisection, which takes another turn where a
# comparison is decided by the last digit.
NEAREST_SUM_BOUND = 2e-2
# A grid of rays around a sample sees a surface this much further out, relative: rays are half a degree
# apart in the plane and two in space, and where surfaces meet the nearest point lies between them.
NEAREST_GRID = 0.05
# By how much distances to subspaces bound too much where the noise is 1e-5 and not 0: samples lie
# off their subspaces by sqrt(d) times that, and the densities' other terms count by its square over
# the gradient.
SUBSPACE_LIMIT = 2e-4

# Means of random samples: this many standard errors; the probability of more is 6e-7 for one
# number, and the seeds are fixed.
STANDARD_ERRORS = 5.0

# Class scores that differ by less than this, relative to their size, may be ordered either way.
TIE = 1e-12

# Peers that maximize the same likelihood with another algorithm and another stopping rule, per
# sample.
PEER_OPTIMUM = 1e-4
# Peers that evaluate the same density in float64.
PEER_DENSITY = 1e-9


def relative_error(actual, expected):
    """Largest |actual - expected| / max(1, |expected|); NaN if any is NaN, so that `<=` fails."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if actual.size == 0:
        return 0.0
    difference = np.abs(actual.astype(np.longdouble) - expected)
    return float(np.max(difference / np.maximum(1, np.abs(expected))))


def scaled_error(actual, expected):
    """Largest |actual - expected| over the largest |expected|."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if actual.size == 0:
        return 0.0
    scale = np.max(np.abs(expected))
    return float(np.max(np.abs(actual - expected)) / (scale if scale > 0 else 1))
