"""Missing values: densities and factors by what is observed, and errors about what is not."""

import time

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import reference as ref
from fits import quietly
from mfa_fast import MFA, MFAClassifier, _core, attacks
from missing_cases import hidden_problem, marginal_model, noises
from tolerances import FACTORS, LOG_DENSITY, PROBABILITY_SUM, REFERENCE, relative_error

# Sizes around vectors and the block of 64 rows of one pattern.
SHAPES = [(1, 1, 0), (3, 7, 2), (4, 9, 0), (2, 17, 5), (5, 33, 1), (3, 130, 6)]


@parametrize_with_checks([MFA(missing="marginal"), MFAClassifier(missing="marginal")])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# ------------------------------------------------------------------------------------------------------- the reference


@noises
@pytest.mark.parametrize("noise_std", [1.0, 1e-3])
def test_reference_agrees_with_slices_of_the_covariance(noise_std, noise_type, tied):
    p, X = hidden_problem(noise_type=noise_type, tied=tied, noise_std=noise_std)
    dense = ref.marginal_weighted_log_prob_dense(X, p)
    assert relative_error(dense, ref.marginal_weighted_log_prob(X, p)) <= REFERENCE[noise_std]


# ------------------------------------------------------------------------------------------------------------- scoring


@noises
@pytest.mark.parametrize("noise_std", [1.0, 1e-3])
@pytest.mark.parametrize("shape", SHAPES)
def test_log_densities(shape, noise_std, noise_type, tied, dtype):
    p, X = hidden_problem(shape, noise_type=noise_type, tied=tied, noise_std=noise_std, dtype=dtype)
    model, expected = marginal_model(p), ref.marginal_weighted_log_prob(X, p)
    values = model.weighted_log_prob(X)
    assert values.dtype == dtype
    assert relative_error(values, expected) <= LOG_DENSITY[dtype]
    assert relative_error(model.score_samples(X), ref.log_sum_exp(expected)) <= LOG_DENSITY[dtype]
    assert np.array_equal(model.predict(X), np.argmax(expected, axis=1))
    shares = np.exp(expected - ref.log_sum_exp(expected)[:, None])
    assert relative_error(model.predict_proba(X), shares) <= PROBABILITY_SUM[dtype] * max(1, np.abs(expected).max())


@pytest.mark.parametrize("shape", [(3, 130, 6), (2, 300, 0), (2, 300, 70)])
def test_log_densities_on_every_instruction_set(shape, isa):
    p, X = hidden_problem(shape, 20, noise_std=1e-3)
    assert relative_error(marginal_model(p).weighted_log_prob(X), ref.marginal_weighted_log_prob(X, p)) <= 1e-10


def test_log_densities_of_more_rows_than_a_block_of_one_pattern():
    p = ref.random_parameters(3, 20, 4, noise_std=0.1, seed=1)
    X = ref.random_samples(p, 150, seed=2)
    X[:, 10:] = np.nan
    assert relative_error(marginal_model(p).weighted_log_prob(X), ref.marginal_weighted_log_prob(X, p)) <= 1e-10


def test_long_rows_of_equal_entries_on_every_instruction_set(isa):
    # Where all terms are alike, all roundings of a sum may go one way.
    d, rng, long = 12_288, np.random.default_rng(0), np.longdouble
    for _ in range(8):
        r, b = 128 * rng.uniform(0.8, 1.0), rng.uniform(1.0, 2.0)
        model = MFA.from_parameters([1.0], np.zeros((1, d)), np.full((1, 1, d), b), 1.0)
        model.set_params(missing="marginal")
        X = np.full((1, d), r)
        X[0, -1] = np.nan
        m = 1 + (d - 1) * long(b) ** 2
        q = (d - 1) * long(r) ** 2 / m
        expected = -((d - 1) * np.log(2 * long(np.pi)) + np.log(m) + q) / 2
        assert relative_error(model.score_samples(X), np.array([expected])) <= LOG_DENSITY[X.dtype]


def test_log_densities_far_from_the_origin():
    p, X = hidden_problem(noise_std=1e-3)
    far = p._replace(means=p.means + 1e4)
    values = marginal_model(far).weighted_log_prob(X + 1e4)
    assert relative_error(values, ref.marginal_weighted_log_prob(X + 1e4, far)) <= 1e-10


@pytest.mark.parametrize("noise_std", [1.0, 1e-3])
def test_factors_and_reconstructions(noise_std, dtype):
    p, X = hidden_problem((3, 9, 2), noise_std=noise_std, dtype=dtype)
    model = marginal_model(p)
    labels, z = model.posterior_factors(X)
    expected = np.array(
        [
            ref.Component(ref.observed_part(p, ~np.isnan(x)), k).factors((x - p.means[k])[None, ~np.isnan(x)])[0]
            for x, k in zip(X.astype(np.longdouble), labels, strict=True)
        ]
    )
    assert relative_error(z, expected) <= FACTORS[dtype]
    projections = p.means[labels] + np.einsum("nl,nld->nd", expected, p.loadings[labels])
    assert relative_error(model.reconstruct(X), projections) <= FACTORS[dtype]


def test_nothing_observed():
    p, X = hidden_problem()
    model = marginal_model(p)
    nothing = np.full((3, 7), np.nan)
    assert np.abs(model.score_samples(nothing)).max() <= 1e-15
    assert relative_error(model.predict_proba(nothing), np.tile(p.weights, (3, 1))) <= 1e-14
    assert np.array_equal(model.posterior_factors(nothing)[1], np.zeros((3, 2)))
    assert relative_error(model.impute(nothing), np.tile(p.weights @ p.means, (3, 1))) <= 1e-14
    assert model.score(np.vstack([X[2:3], nothing])) == pytest.approx(model.score(X[2:3]) / 4)


def test_criteria_take_missing_values():
    p, X = hidden_problem()
    model = marginal_model(p)
    n = len(X)
    total = float(np.sum(ref.log_sum_exp(ref.marginal_weighted_log_prob(X, p))))
    assert model.score(X) == pytest.approx(total / n, rel=1e-12)
    assert model.bic(X) == pytest.approx(-2 * total + model.n_parameters() * np.log(n), rel=1e-12)
    assert model.aic(X) == pytest.approx(-2 * total + 2 * model.n_parameters(), rel=1e-12)


def test_weight_zero_component():
    p, X = hidden_problem()
    p = p._replace(weights=np.array([0.5, 0.0, 0.5]))
    values = marginal_model(p).weighted_log_prob(X)
    assert np.all(values[:, 1] == -np.inf)
    assert np.all(marginal_model(p).predict_proba(X)[:, 1] == 0)
    assert np.all(np.isfinite(marginal_model(p).impute(X)))


@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_rows_do_not_influence_each_other(noise_type, dtype):
    p, X = hidden_problem((3, 33, 4), n=140, noise_type=noise_type, noise_std=1e-3, dtype=dtype)
    X[70:] = np.where(np.isnan(X[0]), np.nan, X[70:])  # many rows of one pattern
    methods = ("weighted_log_prob", "score_samples", "predict_proba", "predict", "reconstruct", "impute")
    order = np.random.default_rng(0).permutation(len(X))
    for name in methods:
        expected = getattr(marginal_model(p, n_threads=1), name)(X)
        assert np.array_equal(getattr(marginal_model(p, n_threads=3), name)(X), expected), name
        method = getattr(marginal_model(p, n_threads=2), name)
        for size in (1, 7, 64, 65):
            parts = [method(X[i : i + size]) for i in range(0, len(X), size)]
            assert np.array_equal(np.concatenate(parts), expected), (name, size)
        assert np.array_equal(method(X[order]), expected[order]), name


@pytest.mark.parametrize("screening", [True, False])
def test_complete_rows_are_scored_as_ever(screening, dtype):
    p = ref.random_parameters(20, 40, 3, noise_std=0.1, seed=1)
    X = ref.random_samples(p, 300, seed=2).astype(dtype)
    mixed = np.concatenate([X, X])
    mixed[300:, ::3] = np.nan
    mixed = mixed[np.arange(600).reshape(2, 300).T.ravel()]  # every second row
    plain = MFA.from_parameters(*p).set_params(screening=screening)
    for name in ("weighted_log_prob", "score_samples", "predict_proba", "predict", "reconstruct"):
        expected = getattr(plain, name)(X)
        assert np.array_equal(getattr(marginal_model(p, screening=screening), name)(mixed)[::2], expected), name
        assert np.array_equal(getattr(marginal_model(p, screening=screening), name)(X), expected), name


@pytest.mark.parametrize("kind", ["fortran", "strided", "reversed", "float16", "longdouble", "list", "byte-swapped"])
def test_layouts(kind):
    p, X = hidden_problem()
    X = X.astype(np.float16).astype(np.float64)
    given = {
        "fortran": np.asfortranarray(X),
        "strided": np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": X[::-1, ::-1].copy()[::-1, ::-1],
        "float16": X.astype(np.float16),
        "longdouble": X.astype(np.longdouble),
        "list": X.tolist(),
        "byte-swapped": X.astype(X.dtype.newbyteorder()),
    }[kind]
    model = marginal_model(p)
    assert np.array_equal(model.weighted_log_prob(given), model.weighted_log_prob(X))
    assert np.array_equal(model.impute(given), model.impute(X))
    assert np.array_equal(
        model.conditional(given).sample(2, random_state=0), model.conditional(X).sample(2, random_state=0)
    )


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'mfa_fast[torch]'")
    p, X = hidden_problem()
    model, given = marginal_model(p), torch.tensor(X)
    for name in ("score_samples", "impute"):
        value = getattr(model, name)(given)
        assert isinstance(value, torch.Tensor)
        assert np.array_equal(value.numpy(), getattr(model, name)(X))
    conditional = model.conditional(given)
    for value in (conditional.mean, conditional.variance, conditional.sample(2), conditional.component_mean(1)):
        assert isinstance(value, torch.Tensor)


def test_pandas_missing_values():
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    p, X = hidden_problem()
    frame = pd.DataFrame(X).astype("Float64")
    assert frame.isna().to_numpy().any()
    assert np.array_equal(marginal_model(p).score_samples(frame), marginal_model(p).score_samples(X))


def test_none_is_a_missing_value():
    p, X = hidden_problem()
    objects = np.where(np.isnan(X), None, X)
    for given in (objects, objects.tolist()):
        assert np.array_equal(marginal_model(p).score_samples(given), marginal_model(p).score_samples(X))
        assert np.array_equal(MFA.from_parameters(*p).impute(given), MFA.from_parameters(*p).impute(X))
        with pytest.raises(ValueError, match="X contains NaN, in row"):
            MFA.from_parameters(*p).score_samples(given)


def test_rows_are_grouped_by_pattern():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 70))
    masks = rng.uniform(size=(5, 70)) < 0.5
    which = rng.integers(5, size=200)
    X[masks[which]] = np.nan
    X[7], X[8] = np.nan, 0.0
    pattern = np.empty(200, np.int64)
    _core.patterns(X, pattern, n_threads=2)
    assert pattern[7] == -1
    assert pattern[8] == 0
    rest = np.delete(np.arange(200), [7, 8])
    assert set(pattern[rest]) == {1, 2, 3, 4, 5}
    for number in range(1, 6):
        assert len(set(which[rest][pattern[rest] == number])) == 1


@pytest.mark.parametrize("rows", [[0, 1, 1], [2, 0, 2], [1, 1, 1]])
def test_kernels_refuse_a_row_in_two_places(rows):
    """Threads would write its results at the same time."""
    p = ref.random_parameters(2, 4, 1, seed=1)
    X = np.where(np.eye(3, 4) > 0, np.nan, 1.0)
    out = np.zeros((3, 2))
    packed = marginal_model(p)._scorer().model
    starts = np.array([0, 1, 3])
    _core.marginal_log_densities(packed, X, (np.array([2, 0, 1]), np.array([0, 1, 2, 3])), out, n_threads=1)
    assert np.all(out < 0)
    with pytest.raises(ValueError, match=f"rows must be distinct, got {max(set(rows), key=rows.count)} twice"):
        _core.marginal_log_densities(packed, X, (np.array(rows), starts), out, n_threads=1)


def test_rows_of_one_pattern_share_its_factors():
    p = ref.random_parameters(3, 150, 20, seed=1)
    X = ref.random_samples(p, 600, seed=2)
    hidden = np.random.default_rng(0).uniform(size=X.shape) < 0.5
    model = marginal_model(p, n_threads=1)

    def seconds(hidden):
        given, best = np.where(hidden, np.nan, X), np.inf
        for _ in range(5):
            started = time.perf_counter()
            model.weighted_log_prob(given)
            best = min(best, time.perf_counter() - started)
        return best

    # The factors of a pattern take as long as some ten rows: 600 of them against 1.
    assert seconds(hidden) > 3 * seconds(np.broadcast_to(hidden[0], hidden.shape))


# -------------------------------------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_classifier_scores_what_is_observed(rule):
    mixtures = [ref.random_parameters(2, 7, 2, seed=seed) for seed in (1, 2)]
    X = ref.hide(ref.random_samples(mixtures[0], 60))
    classifier = MFAClassifier.from_mixtures([marginal_model(m) for m in mixtures], rule=rule)
    assert classifier.missing == "marginal"
    values = [ref.marginal_weighted_log_prob(X, m) for m in mixtures]
    expected = np.stack([v.max(axis=1) if rule == "max" else ref.log_sum_exp(v) for v in values], axis=1)
    assert relative_error(classifier.class_log_likelihood(X), expected) <= 1e-10
    some = ~np.isnan(X).all(axis=1)  # of nothing, the classes are equally likely
    assert np.array_equal(classifier.predict(X[some]), np.argmax(expected[some], axis=1))
    assert np.allclose(classifier.predict_proba(X).sum(axis=1), 1)


def test_attacks_take_no_missing_values():
    mixtures = [ref.random_parameters(2, 7, 2, seed=seed) for seed in (1, 2)]
    classifier = MFAClassifier.from_mixtures([marginal_model(m) for m in mixtures])
    assert [m.missing for m in classifier.symmetric().mixtures_] == ["marginal", "marginal"]
    for attack in (attacks.ld_grad, attacks.nearest):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            attack(classifier, ref.hide(ref.random_samples(mixtures[0], 10)))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("method", ["score_samples", "predict", "score"])
def test_what_missing_may_be_is_told_when_scoring_too(method):
    p = ref.random_parameters(2, 5, 1)
    model = marginal_model(p).set_params(missing="marginalise")
    with pytest.raises(ValueError, match="missing must be one of 'error', 'marginal'; got 'marginalise'"):
        getattr(model, method)(np.zeros((2, 5)))


@pytest.mark.parametrize("estimator", [MFA, MFAClassifier])
def test_tags_say_whether_nan_is_taken(estimator):
    assert estimator(missing="marginal").__sklearn_tags__().input_tags.allow_nan
    assert not estimator().__sklearn_tags__().input_tags.allow_nan
    assert clone(estimator(missing="marginal")).missing == "marginal"


@pytest.mark.parametrize("method", ["score_samples", "predict", "weighted_log_prob", "reconstruct", "e_step"])
def test_nan_is_an_error_unless_asked_for(method):
    p, X = hidden_problem()
    X[np.arange(len(X)) != 5] = 0.0
    words = r"Input X contains NaN, in row 5\. With missing='marginal', MFA .* MFA\.impute"
    with pytest.raises(ValueError, match=words):
        getattr(MFA.from_parameters(*p), method)(X)
    for weights in (None, np.arange(len(X))):  # with weights, the first row is left out of the start
        with pytest.raises(ValueError, match=words):
            MFA(2, 1).fit(X, sample_weight=weights)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_the_first_row_of_nan_is_named(n_threads):
    p, X = hidden_problem()
    X = np.tile(np.nan_to_num(X), (20_000 // len(X), 1))
    X[[10, 9_000, len(X) - 1]] = np.nan
    model = MFA.from_parameters(*p).set_params(n_threads=n_threads)
    with pytest.raises(ValueError, match=r"in row 10\."):
        model.score_samples(X)


def test_a_classifier_names_the_row_of_all_samples():
    _, X = hidden_problem()
    X = np.nan_to_num(X)
    y = np.arange(len(X)) % 2
    spoilt = X.copy()
    spoilt[45, 1] = np.nan
    words = r"class 1 .*Input X contains NaN, in row 45\."
    known = MFAClassifier().partial_fit(X, y, classes=[0, 1])
    for fit, more in (
        (MFAClassifier().fit, {}),
        (MFAClassifier().partial_fit, {"classes": [0, 1]}),
        (known.partial_fit, {}),
    ):
        with pytest.raises(ValueError, match=words):
            fit(spoilt, y, **more)
    with pytest.raises(ValueError, match=words):
        MFAClassifier().fit([spoilt[:20], spoilt[20:]], y)


@pytest.mark.parametrize("value", [None, "ignore", True])
def test_bad_missing(value):
    with pytest.raises(ValueError, match="missing must be one of 'error', 'marginal'"):
        MFA(missing=value).fit(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="missing must be one of 'error', 'marginal'"):
        MFAClassifier(missing=value).fit(np.eye(4), [0, 0, 1, 1])


@pytest.mark.parametrize("row", [2, 5])  # complete, and not
@pytest.mark.parametrize("method", ["score_samples", "weighted_log_prob", "impute", "conditional", "fit"])
def test_infinite_numbers_are_named(method, row):
    p, X = hidden_problem()
    X[row, np.flatnonzero(~np.isnan(X[row]))[0]] = np.inf
    with pytest.raises(ValueError, match=f"Input X contains infinity.*, in row {row}: leave"):
        getattr(marginal_model(p), method)(X)


def test_a_row_out_of_range_is_named():
    p, X = hidden_problem(dtype=np.float32)
    for row in (2, 5):
        far = X.copy()
        far[row, np.flatnonzero(~np.isnan(X[row]))[0]] = 1e30
        with pytest.raises(ValueError, match=f"row {row} of X"):
            marginal_model(p).score_samples(far)


def test_a_feature_that_is_never_observed_is_named():
    _, X = hidden_problem()
    X[:, 3] = np.nan
    with pytest.raises(ValueError, match="feature 3 of X is NaN in all 90 samples"):
        MFA(2, 1, missing="marginal").fit(X)
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises(ValueError, match=r"feature 3 \('d'\) of X"):
        MFA(2, 1, missing="marginal").fit(pd.DataFrame(X, columns=list("abcdefg")))


def test_too_few_samples_with_a_feature():
    X = np.full((10, 3), np.nan)
    X[:2] = np.eye(2, 3)
    with pytest.raises(ValueError, match="n_components=3 needs at least as many samples with an observed feature"):
        MFA(3, 1, missing="marginal").fit(X)


@pytest.mark.parametrize(
    ("rows", "columns", "what"),
    [
        (slice(1, None), 2, "feature 2 of X is NaN in all {} samples that were drawn from 3000"),
        (slice(4, None), slice(None), "there are only . among the {} that were drawn from 3000"),
    ],
)
def test_what_is_missing_in_a_part_is_not_said_to_be_in_all(rows, columns, what):
    X = np.random.default_rng(0).normal(size=(3000, 3))
    X[rows, columns] = np.nan
    model = MFA(4, 1, missing="marginal", random_state=1)
    message = what.format(r"\d{3}") + ".*let more be drawn"
    with sklearn.config_context(working_memory=1), pytest.raises(ValueError, match=message):
        model.fit(X)
    assert np.isfinite(quietly(model, X).means_).all()


def test_an_ill_conditioned_part_of_a_model_is_refused():
    # Together with the third feature the two factors are told apart; without it, not to double precision.
    loadings = [[[1e9, 1e9, 1e9], [1e9, 1e9, -1e9]]]
    model = marginal_model(ref.Parameters(np.ones(1), np.zeros((1, 3)), np.array(loadings), np.ones((1, 3))))
    with pytest.raises(ValueError, match="component 0"):
        model.score_samples([[0.0, 0.0, np.nan]])
