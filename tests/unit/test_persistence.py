"""Models on disk: safetensors, no pickle."""

import os
import sys

import numpy as np
import pytest
from safetensors import safe_open

import reference as ref
from mfa_fast import MFA, MFAClassifier

P = ref.random_parameters(3, 5, 2, noise_type="diag")
X = ref.random_samples(P, 100)


def _mixture():
    return MFA.from_parameters(*P)


def _fitted():
    return MFA(2, 1, noise_type="diag", tied_noise=True, random_state=3, tol=1e-2).fit(X)


def _classifier(classes=None):
    other = MFA.from_parameters(*ref.random_parameters(2, 5, 1, seed=1))
    return MFAClassifier.from_mixtures([_mixture(), other], classes=classes, priors=[0.2, 0.8], rule="sum")


@pytest.mark.parametrize("make", [_mixture, _fitted])
def test_a_mixture_comes_back(make, tmp_path):
    model = make()
    path = tmp_path / "model.safetensors"
    model.save(path)
    copy = MFA.load(path)
    for name in ("n_components", "n_factors", "noise_type", "tied_noise"):
        assert getattr(copy, name) == getattr(model, name)
    for name in ("weights_", "means_", "loadings_", "noise_variance_"):
        value, expected = getattr(copy, name), getattr(model, name)
        assert value.dtype == expected.dtype
        assert np.array_equal(value, expected)
    assert np.array_equal(copy.score_samples(X), model.score_samples(X))
    assert copy.n_features_in_ == 5
    assert np.array_equal(copy.sample(9, random_state=1)[0], model.sample(9, random_state=1)[0])


def test_weights_in_float32_whose_sum_is_1_to_rounding_come_back(tmp_path):
    weights = np.float32([1240 / 3929, 699 / 3929, 1990 / 3929])  # divided by their sum, one is another float32
    model = MFA.from_parameters(weights, P.means.astype(np.float32), *P[2:])
    assert np.array_equal(model.weights_, weights)
    model.save(tmp_path / "model")
    copy = MFA.load(tmp_path / "model")
    assert np.array_equal(copy.weights_, weights)
    model.m_step(model.e_step(X[:50]) + copy.e_step(X[50:]))  # statistics of one are those of the other


def test_what_a_fit_has_left_comes_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcde"))
    for model in (MFA(2, 1, random_state=0).fit(frame), MFA(2, 1, random_state=0).partial_fit(frame)):
        model.save(tmp_path / "model")
        saved, loaded = vars(model), vars(MFA.load(tmp_path / "model"))
        assert np.array_equal(loaded["feature_names_in_"], saved["feature_names_in_"])
        assert loaded["feature_names_in_"].dtype == object
        names = {name for name in saved if name.startswith(("converged", "n_iter_", "lower_", "n_steps", "n_samples"))}
        assert len(names) >= 3
        for name in names:
            assert (type(loaded[name]), loaded[name]) == (type(saved[name]), saved[name]), name


@pytest.mark.parametrize("classes", [None, ["no", "yes"], [3, 8], [-1.0, 2.0], [False, True]], ids=str)
def test_a_classifier_comes_back(classes, tmp_path):
    model = _classifier(classes)
    path = str(tmp_path / "classifier.safetensors")
    model.save(path)
    copy = MFAClassifier.load(path)
    assert np.array_equal(copy.classes_, model.classes_)
    assert copy.classes_.dtype.kind == model.classes_.dtype.kind
    assert np.array_equal(copy.priors_, model.priors_)
    assert copy.rule == "sum"
    assert np.array_equal(copy.predict_proba(X), model.predict_proba(X))
    assert np.array_equal(copy.predict(X), model.predict(X))


def test_a_fitted_classifier_comes_back(tmp_path):
    y = np.where(X[:, 0] > np.median(X[:, 0]), "right", "left")
    model = MFAClassifier(2, 1, random_state=0, tol=1e-2).fit(X, y)
    model.save(tmp_path / "m")
    copy = MFAClassifier.load(tmp_path / "m")
    for name in ("n_components", "n_factors", "rule", "noise_type"):
        assert getattr(copy, name) == getattr(model, name)
    assert np.array_equal(copy.decision_function(X), model.decision_function(X))


def test_a_loaded_model_may_be_fitted_and_saved_again(tmp_path):
    _fitted().save(tmp_path / "a")
    model = MFA.load(tmp_path / "a").fit(X)
    model.save(tmp_path / "a")
    assert np.array_equal(MFA.load(tmp_path / "a").means_, model.means_)


def test_a_model_fitted_with_parameters_of_numpy_is_saved(tmp_path):
    # As a grid search sets them.
    X = np.random.default_rng(0).normal(size=(60, 4))
    model = MFA(np.int64(2), 1, tol=np.float64(0.1), min_noise_variance=np.float32(0.25), random_state=0).fit(X)
    assert isinstance(model.converged_, bool)
    model.save(tmp_path / "model.safetensors")
    assert MFA.load(tmp_path / "model.safetensors").get_params() == model.get_params()


def test_the_file_is_plain_safetensors(tmp_path):
    _mixture().save(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="numpy") as file:
        shapes = [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    for shape in ((3,), (3, 5), (3, 2, 5)):
        assert shape in shapes


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_files_have_the_permissions_of_any_other(tmp_path):
    path, plain = tmp_path / "model", tmp_path / "plain"
    mask = os.umask(0o027)
    try:
        _mixture().save(path)
        plain.touch()
    finally:
        os.umask(mask)
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o664)
    _mixture().save(path)
    assert path.stat().st_mode & 0o777 == 0o664


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "store").mkdir()
    link, target = tmp_path / "latest", tmp_path / "store" / "model"
    link.symlink_to(target)
    for _ in range(2):  # the first finds a link that leads nowhere yet
        _mixture().save(link)
        assert link.is_symlink()
        assert MFA.load(target).n_features_in_ == MFA.load(link).n_features_in_
        assert [entry.name for entry in target.parent.iterdir()] == ["model"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as /dev/null, which root could replace
    with pytest.raises(OSError, match="pipe' is a device, a pipe or a socket"):
        _mixture().save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(OSError, match="model' cannot be written"):
        _mixture().save(tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", [MFA, MFAClassifier])
def test_files_that_cannot_be_read(kind, tmp_path):
    with pytest.raises(OSError, match="absent"):
        kind.load(tmp_path / "absent")
    path = tmp_path / "model"
    (_mixture() if kind is MFA else _classifier()).save(path)
    whole = path.read_bytes()
    for content in (b"", b"not a model at all", whole[:20], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model"):
            kind.load(path)


def test_a_label_out_of_range_is_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "model"
    _classifier(np.array([10, 200], np.uint8)).save(path)
    path.write_bytes(path.read_bytes().replace(b"[10, 200]", b"[10, 900]"))
    with pytest.raises(ValueError, match="model' does not hold a whole model"):
        MFAClassifier.load(path)


def test_the_other_kind_of_model_is_refused(tmp_path):
    _mixture().save(tmp_path / "mixture")
    with pytest.raises(ValueError, match=r"holds mfa_fast\.MFA, expected .*; use MFA\.load"):
        MFAClassifier.load(tmp_path / "mixture")
    _classifier().save(tmp_path / "classifier")
    with pytest.raises(ValueError, match="classifier"):
        MFA.load(tmp_path / "classifier")


def test_a_file_of_something_else_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3)}, tmp_path / "weights")
    for kind in (MFA, MFAClassifier):
        with pytest.raises(ValueError, match="weights"):
            kind.load(tmp_path / "weights")


@pytest.mark.parametrize("make", [_mixture, _classifier])
def test_paths_that_lead_to_no_file(make, tmp_path):
    model = make()
    for method in (model.save, type(model).load):
        with pytest.raises(TypeError, match="path must be that of a file, got 3 of type int"):
            method(3)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent' to write 'model' into"):
        model.save(tmp_path / "absent" / "model")
    with pytest.raises(ValueError, match="is a folder; give the path of a model file"):
        type(model).load(tmp_path)


def test_a_file_of_a_later_format_is_refused(tmp_path):
    path = tmp_path / "model"
    _mixture().save(path)
    path.write_bytes(path.read_bytes().replace(b'"format":"1"', b'"format":"9"'))
    with pytest.raises(ValueError, match=r"holds mfa_fast\.MFA \(format 9\), expected a model of format 1"):
        MFA.load(path)
