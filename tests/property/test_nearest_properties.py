"""The nearest adversarial example against other ways to look for it, none of which may find a nearer one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import reference as ref
from mfa_fast.attacks import ld_grad, nearest
from models import classifier_of
from tolerances import NEAREST_GRID, NEAREST_ROUNDING, SUBSPACE_LIMIT, TIE


@st.composite
def problems(draw, n_features=(2, 15), n_components=(1, 4), noise_stds=(1.0, 0.1, 1e-3)):
    """Mixtures of two or three classes, priors, samples and a rule."""
    d = draw(st.integers(*n_features))
    seed = draw(st.integers(0, 2**16))
    mixtures = [
        ref.random_parameters(
            draw(st.integers(*n_components)),
            d,
            draw(st.integers(0, min(3, d - 1))),
            noise_type=draw(st.sampled_from(["spherical", "diag"])),
            noise_std=draw(st.sampled_from(noise_stds)),
            seed=seed + c,
        )
        for c in range(draw(st.integers(2, 3)))
    ]
    priors = np.array([draw(st.floats(0.1, 1.0)) for _ in mixtures])
    X = np.concatenate([ref.random_samples(m, 3, seed=seed, stray=0.3) for m in mixtures])
    return mixtures, priors / priors.sum(), X, draw(st.sampled_from(["max", "sum"]))


def _own(X, mixtures, priors, rule):
    return np.argmax(ref.class_scores(X, mixtures, priors, rule), axis=1)


@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
@pytest.mark.parametrize("noise_std", [1.0, 0.3, 0.05])
@pytest.mark.parametrize(("n_features", "n_factors"), [(2, 0), (2, 1), (3, 1), (3, 2)])
def test_a_fine_grid_finds_none_that_is_nearer(rule, noise_type, noise_std, n_features, n_factors):
    mixtures = [
        ref.random_parameters(
            3, n_features, n_factors, noise_type=noise_type, noise_std=noise_std, seed=7 * n_factors + c
        )
        for c in range(2)
    ]
    priors = [0.4, 0.6]
    X = np.concatenate([ref.random_samples(m, 1, seed=1, stray=0) for m in mixtures])
    own = _own(X, mixtures, priors, rule)
    result = nearest(classifier_of(mixtures, priors, rule), X)
    assert result.success.all()
    for x, label, l2, bound, certified in zip(X, own, result.l2, result.lower_bound, result.certified, strict=True):
        found = ref.nearest_on_rays(
            x,
            label,
            mixtures,
            priors,
            rule,
            farthest=(1 + NEAREST_GRID) * l2,
            n_directions=500 if n_features == 2 else 2000,
            n_radii=100,
        )
        assert found >= bound * (1 - NEAREST_ROUNDING)
        assert (
            found <= (1 + NEAREST_GRID) * l2
        )  # that is: finite, the point that was returned is seen from the grid too
        if certified:
            assert found >= l2 * (1 - 1e-6 - NEAREST_ROUNDING)


def _crowded(d, noise, rng):
    """Two or three classes of up to five components of all widths about the same place: where certificates fail."""
    for _ in range(rng.integers(2, 4)):
        n, spread = rng.integers(1, 6), {"spherical": 1, "diag": d}[noise]
        yield ref.Parameters(
            rng.dirichlet(np.ones(n)),
            rng.normal(size=(n, d)),
            0.8 * rng.normal(size=(n, rng.integers(0, d), d)),
            np.broadcast_to(10 ** rng.uniform(-2, 0, size=(n, spread)), (n, d)).copy(),
        )


@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("noise", ["spherical", "diag"])
@pytest.mark.parametrize(("d", "n_directions", "n_radii"), [(1, 2, 1000), (2, 360, 100), (3, 1000, 50)])
def test_without_a_certificate_a_grid_finds_none_that_is_much_nearer(rule, noise, d, n_directions, n_radii):
    rng = np.random.default_rng(1)
    most, n_open = 40, 0
    for _ in range(2000):
        if n_open >= most:
            break
        mixtures = list(_crowded(d, noise, rng))
        priors = rng.dirichlet(np.ones(len(mixtures)))
        X = np.concatenate([ref.random_samples(m, 4, seed=1) for m in mixtures])
        result = nearest(classifier_of(mixtures, priors, rule), X)
        own = _own(X, mixtures, priors, rule)
        for i in np.flatnonzero(~result.certified & (result.lower_bound < (1 - NEAREST_GRID) * result.l2)):
            n_open += 1
            farthest = result.l2[i] if result.success[i] else 20.0
            grid = {"farthest": farthest, "n_directions": n_directions, "n_radii": n_radii}
            found = ref.nearest_on_rays(X[i], own[i], mixtures, priors, rule, **grid)
            assert found >= result.lower_bound[i] * (1 - NEAREST_ROUNDING)
            assert min(result.l2[i], farthest) <= (1 + NEAREST_GRID) * found
    assert n_open >= most


class _Dense:
    """Scores and their gradients through assembled covariances: what a solver calls thousands of times."""

    def __init__(self, mixture, prior):
        covariances = [ref.covariance(mixture, k) for k in range(len(mixture.weights))]
        self.means = mixture.means
        self.precisions = np.linalg.inv(covariances)
        self.constants = np.log(prior * mixture.weights) - 0.5 * np.linalg.slogdet(covariances)[1]

    def __call__(self, x):
        r = x - self.means
        pulls = np.einsum("kij,kj->ki", self.precisions, r)
        return self.constants - 0.5 * np.sum(r * pulls, axis=1), -pulls


def _solve(x, own, classes, rule, start):
    """Return where SciPy's solver ends that looks for the nearest point of the class that is ahead at the start."""
    at_start = [scores(x + start)[0] for scores in classes]
    rival = max((c for c in range(len(classes)) if c != own), key=lambda c: at_start[c].max())
    target = int(np.argmax(at_start[rival]))

    def ahead(delta):
        """By how much it is ahead of the own class; with the maximum rule its best component of every own one."""
        (v, dv), (u, du) = classes[rival](x + delta), classes[own](x + delta)
        if rule == "max":
            return v[target] - u, dv[target] - du
        mean = [np.exp(s - ref.log_sum_exp(s[None])[0]) @ g for s, g in ((v, dv), (u, du))]
        return np.array([ref.log_sum_exp(v[None])[0] - ref.log_sum_exp(u[None])[0]]), (mean[0] - mean[1])[None]

    return minimize(
        lambda delta: delta @ delta,
        start,
        jac=lambda delta: 2 * delta,
        constraints={"type": "ineq", "fun": lambda delta: ahead(delta)[0], "jac": lambda delta: ahead(delta)[1]},
        method="SLSQP",
        options={"maxiter": 100},
    ).x


@settings(max_examples=15)
@given(problems(n_features=(5, 20), n_components=(1, 3), noise_stds=(1.0, 0.3)), st.integers(0, 99))
def test_a_general_solver_finds_none_that_is_nearer(problem, seed):
    mixtures, priors, X, rule = problem
    own = _own(X, mixtures, priors, rule)
    model = classifier_of(mixtures, priors, rule)
    result, attack = nearest(model, X), ld_grad(model, X, steps=50)
    classes = [_Dense(m, p) for m, p in zip(mixtures, priors, strict=True)]
    rng = np.random.default_rng(seed)
    for i, x in enumerate(X):
        starts = [result.X_adv[i] - x, attack.X_adv[i] - x, X[(i + 1) % len(X)] - x, rng.normal(size=x.shape)]
        ends = np.stack([_solve(x, own[i], classes, rule, start) for start in starts])
        # What the solver's tolerance has left on this side is moved beyond the surface.
        tried = np.concatenate([(1 + beyond) * ends for beyond in (0.0, 1e-9, 1e-7, 1e-5, 1e-3)])
        flipped = _own(x + tried, mixtures, priors, rule) != own[i]
        distances = np.linalg.norm(tried[flipped], axis=1)
        assert np.all(distances >= result.lower_bound[i] * (1 - NEAREST_ROUNDING))
        assert flipped.any() or not result.success[i]


@given(problems())
def test_order_of_bound_distance_and_attack(problem):
    mixtures, priors, X, rule = problem
    model = classifier_of(mixtures, priors, rule)
    result, attack = nearest(model, X), ld_grad(model, X, steps=50)
    assert np.all(result.lower_bound >= 0)
    assert np.all(result.lower_bound <= result.l2)
    assert np.all(result.l2 <= np.where(attack.success, attack.l2, np.inf))
    assert np.all(result.success[attack.success])
    found = result.success
    assert np.all(result.n_steps >= 1)
    scores = ref.class_scores(result.X_adv[found], mixtures, priors, rule)
    ordered = np.sort(scores, axis=1)
    tied = ordered[:, -1] - ordered[:, -2] <= TIE * np.maximum(1, np.abs(ordered[:, -1]))
    assert np.all((np.argmax(scores, axis=1) != _own(X, mixtures, priors, rule)[found]) | tied)
    assert np.all(np.isfinite(result.X_adv))


@given(problems(n_components=(1, 1), noise_stds=(1.0, 0.1)))
def test_single_components_are_always_certified(problem):
    """One component in each class: no gap between the dual and the distance, the rules are the same."""
    mixtures, priors, X, rule = problem
    result = nearest(classifier_of(mixtures[:2], priors[:2] / priors[:2].sum(), rule), X)
    assert np.all(result.certified)


@given(problems(), st.integers(2, 5))
def test_threads_and_chunks_give_the_same_bits(problem, n_threads):
    mixtures, priors, X, rule = problem
    X = np.tile(X, (8, 1))
    whole = nearest(classifier_of(mixtures, priors, rule).set_params(n_threads=1), X)
    many = nearest(classifier_of(mixtures, priors, rule).set_params(n_threads=n_threads), X)
    part = nearest(classifier_of(mixtures, priors, rule), X[5:])
    for name in ("X_adv", "l2", "lower_bound", "certified", "n_steps", "source", "target"):
        assert np.array_equal(getattr(whole, name), getattr(many, name))
        assert np.array_equal(getattr(whole, name)[5:], getattr(part, name))


@given(st.integers(6, 30), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**16), st.sampled_from(["max", "sum"]))
def test_half_the_distance_to_the_nearest_subspace(d, n_components, n_factors, seed, rule):
    """Theorem 2 of the JMLR paper, in the limit of no noise; how near the limit is depends on the noise alone."""
    noise_std = 1e-5
    mixtures = [
        ref.random_parameters(n_components, d, n_factors, noise_std=noise_std, tied=True, seed=seed + c)
        for c in range(2)
    ]
    mixtures = [m._replace(noise_variance=np.full_like(m.noise_variance, noise_std**2)) for m in mixtures]
    X = np.concatenate([ref.random_samples(m, 5, seed=seed, stray=0) for m in mixtures])
    y = np.repeat([0, 1], 5)
    result = nearest(classifier_of(mixtures, [0.5, 0.5], rule), X, y)
    other = np.array(
        [
            min(
                ref.distance_to_subspace(x[None], m, a)[0]
                for m, a in zip(mixtures[1 - c].means, mixtures[1 - c].loadings, strict=True)
            )
            for x, c in zip(X, y, strict=True)
        ]
    )
    right = result.n_steps > 0
    assert np.all(result.lower_bound[right] >= 0.5 * other[right] - SUBSPACE_LIMIT)
