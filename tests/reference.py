"""Mixtures of factor analyzers as dense formulas in NumPy and SciPy: what every test compares with.

Slow and short on purpose. Densities are evaluated in residual form and, unless asked otherwise, in
long double; `weighted_log_prob_dense` goes a different way (assembled covariances) to check them.

Symbols: n samples, d features, K components, L factors; component k is N(mu_k, A_k A_k^T + D_k)
with weight w_k. Loadings are stored as (K, L, d), so `A_k` on paper is `loadings[k].T`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logsumexp

BLOCK = 4096  # rows at a time, so that MNIST fits in memory
NEGLIGIBLE = 1e-16  # responsibilities below it are left out of the M-step


class Parameters(NamedTuple):
    """A mixture: weights (K,), means (K, d), loadings (K, L, d), noise_variance (K, d)."""

    weights: np.ndarray
    means: np.ndarray
    loadings: np.ndarray
    noise_variance: np.ndarray


# Linear algebra in any precision, for matrices of a few rows.


def _cholesky(m):
    c = np.zeros_like(m)
    for j in range(len(m)):
        c[j, j] = np.sqrt(m[j, j] - c[j, :j] @ c[j, :j])
        c[j + 1 :, j] = (m[j + 1 :, j] - c[j + 1 :, :j] @ c[j, :j]) / c[j, j]
    return c


def _solve(c, b):
    """Return (C C^T)^-1 b."""
    y = b.copy()
    for i in range(len(c)):
        y[i] = (y[i] - c[i, :i] @ y[:i]) / c[i, i]
    for i in reversed(range(len(c))):
        y[i] = (y[i] - c[i + 1 :, i] @ y[i + 1 :]) / c[i, i]
    return y


class Component:
    """One factor analyzer in the precision asked for."""

    def __init__(self, parameters: Parameters, k: int, precision=np.longdouble):
        self.precision = precision
        self.mean = parameters.means[k].astype(precision)
        self.loadings = parameters.loadings[k].astype(precision)
        self.noise = parameters.noise_variance[k].astype(precision)
        scaled = self.loadings / self.noise
        self.cholesky = _cholesky(np.eye(len(scaled), dtype=precision) + scaled @ self.loadings.T)

    def factors(self, r):
        """z* (n, L) = M^-1 A^T D^-1 r."""
        return _solve(self.cholesky, (self.loadings / self.noise) @ r.T).T

    def factor_covariance(self):
        return _solve(self.cholesky, np.eye(len(self.loadings), dtype=self.precision))

    def log_density(self, X):
        """log N(x; mu, A A^T + D), residual form."""
        r = X.astype(self.precision) - self.mean
        z = self.factors(r)
        e = r - z @ self.loadings
        mahalanobis = np.sum(e * e / self.noise, axis=1) + np.sum(z * z, axis=1)
        log_det = 2 * np.sum(np.log(np.diag(self.cholesky))) + np.sum(np.log(self.noise))
        log_2_pi = np.log(2 * self.precision(np.pi))
        return -(len(self.mean) * log_2_pi + log_det + mahalanobis) / 2

    def precision_product(self, r):
        """S^-1 r = D^-1 (r - A z*) for the rows of r."""
        return (r - self.factors(r) @ self.loadings) / self.noise


def covariance(parameters: Parameters, k: int):
    return parameters.loadings[k].T @ parameters.loadings[k] + np.diag(parameters.noise_variance[k])


# Scores of one mixture.


def weighted_log_prob(X, parameters: Parameters, precision=np.longdouble):
    """log w_k + log N(x; mu_k, S_k), (n, K)."""
    X = np.asarray(X)
    components = [Component(parameters, k, precision) for k in range(len(parameters.weights))]
    log_weights = np.log(np.asarray(parameters.weights).astype(precision))
    blocks = [X[i : i + BLOCK] for i in range(0, len(X), BLOCK)]
    log_density = [np.stack([c.log_density(block) for c in components], axis=1) for block in blocks]
    return np.concatenate(log_density) + log_weights


def weighted_log_prob_dense(X, parameters: Parameters):
    """The same through Cholesky factors of the assembled covariances, in float64."""
    columns = []
    for k, weight in enumerate(parameters.weights):
        factor = cho_factor(covariance(parameters, k), lower=True)
        r = np.asarray(X, dtype=np.float64) - parameters.means[k]
        mahalanobis = np.sum(r.T * cho_solve(factor, r.T), axis=0)
        log_det = 2 * np.sum(np.log(np.diag(factor[0])))
        columns.append(np.log(weight) - (r.shape[1] * np.log(2 * np.pi) + log_det + mahalanobis) / 2)
    return np.stack(columns, axis=1)


def log_sum_exp(values, axis=1):
    """Log of a sum of exponentials, in the precision of the values."""
    top = values.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.sum(np.exp(values - top), axis=axis))


def score_samples(X, parameters: Parameters, precision=np.longdouble):
    return log_sum_exp(weighted_log_prob(X, parameters, precision))


def responsibilities(X, parameters: Parameters, precision=np.longdouble):
    joint = weighted_log_prob(X, parameters, precision)
    return np.exp(joint - log_sum_exp(joint)[:, None])


def predict(X, parameters: Parameters, precision=np.longdouble):
    return np.argmax(weighted_log_prob(X, parameters, precision), axis=1)


def posterior_factors(X, parameters: Parameters, precision=np.longdouble):
    """Return labels (n,), and E[z | x, label] (n, L)."""
    X = np.asarray(X).astype(precision)
    labels = predict(X, parameters, precision)
    z = np.zeros((len(X), parameters.loadings.shape[1]), dtype=precision)
    for k in np.unique(labels):
        component = Component(parameters, k, precision)
        z[labels == k] = component.factors(X[labels == k] - component.mean)
    return labels, z


def reconstruct(X, parameters: Parameters, precision=np.longdouble):
    """mu_k + A_k z* of the best component."""
    labels, z = posterior_factors(X, parameters, precision)
    return parameters.means[labels] + np.einsum("nl,nld->nd", z, parameters.loadings[labels])


# Missing values: NaN in X. Densities are those of what a row has.


def observed_part(parameters: Parameters, observed) -> Parameters:
    """The mixture of some features, of which the others have been integrated out."""
    return Parameters(
        parameters.weights,
        parameters.means[:, observed],
        parameters.loadings[:, :, observed],
        parameters.noise_variance[:, observed],
    )


def marginal_weighted_log_prob(X, parameters: Parameters, precision=np.longdouble):
    """log w_k + log N(x_o; mu_ko, S_koo), (n, K), row by row."""
    rows = []
    for x in np.asarray(X):
        o = ~np.isnan(x)
        rows.append(weighted_log_prob(x[None, o], observed_part(parameters, o), precision)[0])
    return np.array(rows)


def marginal_weighted_log_prob_dense(X, parameters: Parameters):
    """The same from slices of the assembled covariances, in float64."""
    out = np.tile(np.log(parameters.weights), (len(X), 1))
    for i, x in enumerate(np.asarray(X, dtype=np.float64)):
        o = ~np.isnan(x)
        if not o.any():
            continue  # not every SciPy solves no equations
        for k in range(len(parameters.weights)):
            factor = cho_factor(covariance(parameters, k)[np.ix_(o, o)], lower=True)
            r = x[o] - parameters.means[k, o]
            log_det = 2 * np.sum(np.log(np.diag(factor[0])))
            out[i, k] -= (o.sum() * np.log(2 * np.pi) + log_det + r @ cho_solve(factor, r)) / 2
    return out


class Joint(NamedTuple):
    """Mean (d + L) and covariance of a row's features and factors given what it has, under one component."""

    mean: np.ndarray
    covariance: np.ndarray


def joint_given_observed(x, parameters: Parameters, k: int) -> Joint:
    """Condition the joint normal distribution of features and factors, written out, on what is observed; float64."""
    loadings = parameters.loadings[k]
    identity = np.eye(len(loadings))
    joint = np.block([[covariance(parameters, k), loadings.T], [loadings, identity]])
    mean = np.concatenate([parameters.means[k], np.zeros(len(loadings))])
    o = np.flatnonzero(~np.isnan(x))
    if len(o) == 0:
        return Joint(mean, joint)
    gain = cho_solve(cho_factor(joint[np.ix_(o, o)], lower=True), joint[o]).T
    given = mean + gain @ (x[o] - mean[o])
    given[o] = x[o]
    left = joint - gain @ joint[o]
    left[o] = left[:, o] = 0
    return Joint(given, left)


def conditional_moments(X, parameters: Parameters):
    """Mean and variance (n, d) of a mixture given what is observed; the latter is 0 there."""
    joint = marginal_weighted_log_prob(X, parameters, np.float64)
    shares = np.exp(joint - logsumexp(joint, axis=1)[:, None])
    d = np.shape(X)[1]
    mean, variance = np.empty(np.shape(X)), np.empty(np.shape(X))
    for i, x in enumerate(np.asarray(X, dtype=np.float64)):
        given = [joint_given_observed(x, parameters, k) for k in range(len(parameters.weights))]
        means = np.array([g.mean[:d] for g in given])
        variances = np.array([np.diag(g.covariance)[:d] for g in given])
        mean[i] = shares[i] @ means
        variance[i] = shares[i] @ (variances + (means - mean[i]) ** 2)
    observed = ~np.isnan(np.asarray(X))
    mean[observed] = np.asarray(X)[observed]
    variance[observed] = 0
    return mean, variance


# Classifiers: one mixture per class.


def class_log_likelihood(X, mixtures: Sequence[Parameters], rule="max", precision=np.longdouble):
    """log p(x | class), (n, n_classes); rule "max" keeps the best component alone."""
    reduce = {"max": lambda values: values.max(axis=1), "sum": log_sum_exp}[rule]
    return np.stack([reduce(weighted_log_prob(X, m, precision)) for m in mixtures], axis=1)


def class_scores(X, mixtures, priors, rule="max", precision=np.longdouble):
    return class_log_likelihood(X, mixtures, rule, precision) + np.log(priors)


def class_proba(X, mixtures, priors, rule="max", precision=np.longdouble):
    scores = class_scores(X, mixtures, priors, rule, precision)
    return np.exp(scores - log_sum_exp(scores)[:, None])


def decision_function(X, mixtures, priors, rule="max", precision=np.longdouble):
    """Binary: score of class 1 minus score of class 0."""
    scores = class_scores(X, mixtures, priors, rule, precision)
    return scores[:, 1] - scores[:, 0]


def gap_gradient(X, source: Component, target: Component):
    """grad (log p_source - log p_target)(x) = -S_s^-1 (x - mu_s) + S_t^-1 (x - mu_t)."""
    X = np.asarray(X).astype(source.precision)
    return target.precision_product(X - target.mean) - source.precision_product(X - source.mean)


# Expectation maximization.


def em_step(X, parameters: Parameters, noise_type="spherical", tied_noise=False, floor=1e-6):
    """One iteration: (new parameters, mean log-density under the old ones).

    Means and loadings come from one regression of x on [z; 1] (Ghahramani & Hinton 1996); the noise
    is what it leaves unexplained, averaged over the features where it is spherical (Tipping &
    Bishop 1999), over the components where it is tied.
    """
    X = np.asarray(X, dtype=np.float64)
    joint = weighted_log_prob(X, parameters, np.float64)
    evidence = logsumexp(joint, axis=1)
    gamma = np.exp(joint - evidence[:, None])

    def sums(k):
        rows = gamma[:, k] > NEGLIGIBLE
        g = gamma[rows, k]
        component = Component(parameters, k, np.float64)
        r = X[rows] - component.mean
        z1 = np.column_stack([component.factors(r), np.ones(len(r))])
        second_moment = (g * z1.T) @ z1
        n_factors = len(component.loadings)
        second_moment[:n_factors, :n_factors] += g.sum() * component.factor_covariance()
        return second_moment, (g * z1.T) @ r, g @ (r * r)

    return _m_step(parameters, sums, noise_type, tied_noise, floor), float(evidence.mean())


def marginal_em_step(X, parameters: Parameters, noise_type="spherical", tied_noise=False, floor=1e-6):
    """The same where X has NaN, from the joint distribution of each row's features and factors."""
    X = np.asarray(X, dtype=np.float64)
    d = X.shape[1]
    joint = marginal_weighted_log_prob(X, parameters, np.float64)
    evidence = logsumexp(joint, axis=1)
    gamma = np.exp(joint - evidence[:, None])
    informative = np.flatnonzero(~np.isnan(X).all(axis=1))  # what has no feature has no say

    def sums(k):
        n_factors = parameters.loadings.shape[1]
        second_moment = np.zeros((n_factors + 1, n_factors + 1))
        cross, squares = np.zeros((n_factors + 1, d)), np.zeros(d)
        for i in informative:
            g, given = gamma[i, k], joint_given_observed(X[i], parameters, k)
            r, z1 = given.mean[:d] - parameters.means[k], np.append(given.mean[d:], 1.0)
            second_moment += g * np.outer(z1, z1)
            second_moment[:-1, :-1] += g * given.covariance[d:, d:]
            cross += g * np.outer(z1, r)
            cross[:-1] += g * given.covariance[d:, :d]
            squares += g * (r * r + np.diag(given.covariance)[:d])
        return second_moment, cross, squares

    return _m_step(parameters, sums, noise_type, tied_noise, floor), float(evidence[informative].mean())


def _m_step(parameters: Parameters, sums, noise_type, tied_noise, floor):
    """sums(k) returns those of [z; 1] [z; 1]^T, [z; 1] r^T and r * r."""
    n_components, n_factors, n_features = parameters.loadings.shape
    means, loadings = np.empty_like(parameters.means), np.empty_like(parameters.loadings)
    unexplained = np.empty((n_components, n_features))
    counts = np.empty(n_components)
    for k in range(n_components):
        second_moment, cross, squares = sums(k)
        counts[k] = second_moment[-1, -1]
        regression = np.linalg.solve(second_moment, cross)
        loadings[k] = regression[:n_factors]
        means[k] = parameters.means[k] + regression[n_factors]
        unexplained[k] = squares - np.sum(regression * cross, axis=0)

    if tied_noise:
        noise = np.tile(unexplained.sum(axis=0) / counts.sum(), (n_components, 1))
    else:
        noise = unexplained / counts[:, None]
    if noise_type == "spherical":
        noise = np.repeat(noise.mean(axis=1, keepdims=True), n_features, axis=1)
    noise = np.maximum(noise, floor)
    return Parameters(counts / counts.sum(), means, loadings, noise)


def em(X, parameters: Parameters, n_iter, *, step=em_step, **options):
    """Return parameters after n_iter iterations, and the n_iter + 1 mean log-densities on the way.

    The first is that of the start, the last that of the result.
    """
    bounds = []
    for _ in range(n_iter):
        parameters, bound = step(X, parameters, **options)
        bounds.append(bound)
    bounds.append(step(X, parameters, **options)[1])
    return parameters, np.array(bounds)


def stepwise_em(batches, parameters: Parameters, sizes, noise_type="spherical", tied_noise=False, floor=1e-6):
    """Parameters after one step for each batch (Cappé & Moulines 2009), from raw moments: none is about a mean."""
    n_components, n_factors, n_features = parameters.loadings.shape
    moments = None
    for batch, size in zip(batches, sizes, strict=True):
        X = np.asarray(batch, dtype=np.float64)
        gamma = responsibilities(X, parameters, np.float64) / len(X)
        seconds = np.empty((n_components, n_factors + 1, n_factors + 1))
        crosses = np.empty((n_components, n_factors + 1, n_features))
        for k in range(n_components):
            component = Component(parameters, k, np.float64)
            z1 = np.column_stack([component.factors(X - component.mean), np.ones(len(X))])
            seconds[k] = (gamma[:, k] * z1.T) @ z1
            seconds[k, :n_factors, :n_factors] += gamma[:, k].sum() * component.factor_covariance()
            crosses[k] = (gamma[:, k] * z1.T) @ X
        new = (seconds, crosses, gamma.T @ (X * X))
        moments = new if moments is None else [(1 - size) * a + size * b for a, b in zip(moments, new, strict=True)]
        second, cross, square = moments
        regression = np.linalg.solve(second, cross)
        counts = second[:, -1, -1]
        unexplained = square - np.sum(regression * cross, axis=1)
        noise = unexplained.sum(axis=0, keepdims=True) / counts.sum() if tied_noise else unexplained / counts[:, None]
        if noise_type == "spherical":
            noise = noise.mean(axis=1, keepdims=True)
        noise = np.broadcast_to(np.maximum(noise, floor), (n_components, n_features))
        parameters = Parameters(counts / counts.sum(), regression[:, n_factors], regression[:, :n_factors], noise)
    return parameters


def n_parameters(n_components, n_factors, n_features, noise_type="spherical", tied_noise=False):
    """Dimension of the set of mixtures: by how many ways covariances change with loadings and noise, at random ones."""
    K, L, d = n_components, n_factors, n_features
    loadings = np.random.default_rng(0).normal(size=(K, L, d))
    kinds_of_noise = [np.eye(d)] if noise_type == "spherical" else [np.diag(row) for row in np.eye(d)]
    owners = [np.ones(K)] if tied_noise else np.eye(K)
    changes = [np.multiply.outer(owner, noise) for owner in owners for noise in kinds_of_noise]
    for k, factor, j in np.ndindex(K, L, d):
        change = np.zeros((K, d, d))
        change[k, j] = loadings[k, factor]
        changes.append(change + change.transpose(0, 2, 1))
    return int(K - 1 + K * d + np.linalg.matrix_rank(np.reshape(changes, (len(changes), -1))))


# LD-Grad.


def step_to_zero(f, b, c):
    """Smallest a > 0 with f - a b + a^2 c = 0; where there is none, the a that makes it least."""
    discriminant = b * b - 4 * c * f
    if discriminant < 0:
        return b / (2 * c)
    return 2 * f / (b + np.sqrt(discriminant))


def ld_grad(X, y, mixtures, priors, *, steps=3, overshoot=1e-6, rule="max", precision=np.longdouble):
    """LD-Grad with exact quadratic steps; y holds class indices. Return X_adv, success, n_steps.

    A step goes along the gradient between the best component of the sample's class and the best one
    of the class that comes next, and closes the gap between these classes under the rule. Under the
    sum rule all components of the two classes take part, by their responsibilities; those below
    1e-6 do not, in the library neither.
    """
    X_adv = np.array(X, dtype=precision)
    success = np.zeros(len(X_adv), dtype=bool)
    n_steps = np.zeros(len(X_adv), dtype=int)
    components = [[Component(m, k, precision) for k in range(len(m.weights))] for m in mixtures]
    for i, own in enumerate(y):
        while True:
            x = X_adv[i : i + 1]
            scores = class_scores(x, mixtures, priors, rule, precision)[0]
            success[i] = np.argmax(scores) != own
            if success[i] or n_steps[i] == steps:
                break
            rival = max((c for c in range(len(mixtures)) if c != own), key=lambda c: scores[c])
            terms = []
            for c, sign in ((own, -1), (rival, 1)):
                if rule == "max":
                    shares = np.zeros(len(components[c]))
                    shares[predict(x, mixtures[c], precision)[0]] = 1
                else:
                    shares = responsibilities(x, mixtures[c], precision)[0]
                terms += [(sign * r, one) for r, one in zip(shares, components[c], strict=True) if r > 1e-6]
            g = sum(r * one.precision_product(x - one.mean) for r, one in terms)
            curvature = sum(r * one.precision_product(g) for r, one in terms)
            a = step_to_zero(scores[own] - scores[rival], np.sum(g * g), np.sum(g * curvature) / 2)
            X_adv[i] -= (1 + overshoot) * a * g[0]
            n_steps[i] += 1
    return X_adv, success, n_steps


def philox(counter, key):
    """Four random words of 32 bits from four and two: Philox 4x32 with ten rounds (Salmon et al., 2011)."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second >> 32 ^ b ^ k, second % 2**32, first >> 32 ^ d ^ m, first % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return a, b, c, d


def _words(seed, index, stream, block):
    return philox((block, stream, index % 2**32, index >> 32), (seed % 2**32, seed >> 32))


def _uniform(high, low):
    return ((high << 20 | low >> 12) + 0.5) / 2**52


def _normals(seed, index, stream, n):
    pairs = []
    for block in range((n + 1) // 2):
        a, b, c, d = _words(seed, index, stream, block)
        radius, angle = np.sqrt(-2 * np.log(_uniform(a, b))), 2 * np.pi * _uniform(c, d)
        pairs += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.array(pairs[:n])


def sample(parameters: Parameters, n_samples, *, seed, start=0, noise=True):
    """Samples start, start + 1, ... of a seed in float64, and their components; docs/theory.md, section 5."""
    _, n_factors, n_features = parameters.loadings.shape
    cumulated = np.cumsum(parameters.weights)
    X, labels = np.empty((n_samples, n_features)), np.empty(n_samples, dtype=np.int64)
    for i in range(n_samples):
        k = np.searchsorted(cumulated, cumulated[-1] * _uniform(*_words(seed, start + i, 0, 0)[:2]), side="right")
        X[i] = parameters.means[k] + _normals(seed, start + i, 1, n_factors) @ parameters.loadings[k]
        if noise:
            X[i] += np.sqrt(parameters.noise_variance[k]) * _normals(seed, start + i, 2, n_features)
        labels[i] = k
    return X, labels


# Models and data to test with.


def random_parameters(
    n_components,
    n_features,
    n_factors,
    *,
    noise_type="spherical",
    tied=False,
    noise_std=1.0,
    seed=0,
):
    """A mixture with means and loadings of order one; its last component lies close to its first.

    The close pair gives responsibilities that are neither 0 nor 1 however small the noise is.
    """
    rng = np.random.default_rng(seed)
    shape = (1 if tied else n_components, 1 if noise_type == "spherical" else n_features)
    spread = rng.uniform(0.5, 1.5, size=shape)
    noise = np.broadcast_to(noise_std**2 * spread, (n_components, n_features)).copy()
    weights = rng.uniform(0.5, 1.5, size=n_components)
    means = rng.normal(size=(n_components, n_features))
    loadings = rng.normal(size=(n_components, n_factors, n_features)) / np.sqrt(n_factors + 1)
    if n_components > 1:
        means[-1] = means[0] + 0.3 * noise_std * rng.normal(size=n_features)
        loadings[-1] = loadings[0]
    return Parameters(weights / weights.sum(), means, loadings, noise)


def random_samples(parameters: Parameters, n_samples, *, seed=0, stray=0.2):
    """Samples of the mixture; a fraction `stray` of them is moved off it by numbers of size one."""
    rng = np.random.default_rng(seed)
    _, n_factors, n_features = parameters.loadings.shape
    labels = rng.choice(len(parameters.weights), size=n_samples, p=parameters.weights)
    z = rng.normal(size=(n_samples, n_factors))
    X = parameters.means[labels] + np.einsum("nl,nld->nd", z, parameters.loadings[labels])
    X += np.sqrt(parameters.noise_variance[labels]) * rng.normal(size=X.shape)
    moved = rng.uniform(size=n_samples) < stray
    return X + moved[:, None] * rng.normal(size=(n_samples, n_features))


def hide(X, rate=0.4, *, seed=0):
    """Values missing at random; one row has nothing left, one lacks nothing, and some lack the same."""
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(size=X.shape) < rate
    hidden[::4] = hidden[0]
    hidden[1], hidden[2] = True, False
    X = X.copy()
    X[hidden] = np.nan
    return X


# The nearest adversarial example, by looking everywhere.


def directions(n_features, n):
    """Unit vectors all around: the two of a line, a circle in the plane, a spiral on the sphere in space."""
    if n_features == 1:
        return np.array([[1.0], [-1.0]])
    if n_features == 2:
        angles = 2 * np.pi * np.arange(n) / n
        return np.column_stack([np.cos(angles), np.sin(angles)])
    heights = 1 - 2 * (np.arange(n) + 0.5) / n
    angles = np.pi * (1 + 5**0.5) * np.arange(n)
    rings = np.sqrt(1 - heights**2)
    return np.column_stack([rings * np.cos(angles), rings * np.sin(angles), heights])


def nearest_on_rays(x, own, mixtures, priors, rule, *, farthest, n_directions, n_radii):
    """Least distance, of those on a grid up to `farthest`, at which a point about x is in another class than `own`."""
    radii = farthest * np.arange(1, n_radii + 1) / n_radii
    rays = directions(len(x), n_directions)
    X = (x + radii[:, None, None] * rays).reshape(-1, len(x))
    flipped = np.argmax(class_scores(X, mixtures, priors, rule, np.float64), axis=1) != own
    at_radius = flipped.reshape(n_radii, len(rays)).any(axis=1)
    return radii[np.argmax(at_radius)] if at_radius.any() else np.inf


def distance_to_subspace(X, mean, loadings):
    """Distance of rows from the affine subspace mean + span(loadings)."""
    basis, _ = np.linalg.qr(np.asarray(loadings).T)
    r = np.asarray(X, dtype=np.float64) - mean
    return np.linalg.norm(r - (r @ basis) @ basis.T, axis=1)
