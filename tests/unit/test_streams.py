"""Samples in files and in batches give what the same array in memory gives, bit for bit."""

import warnings

import numpy as np
import pytest
import sklearn
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import reference as ref
from fits import quietly
from mfa_fast import MFA, MFAClassifier
from mfa_fast.attacks import ld_grad, nearest

D = 6
P = ref.random_parameters(3, D, 2)
N = 1000
NAMES = ("weights_", "means_", "loadings_", "noise_variance_")
SCORING = ("score_samples", "weighted_log_prob", "predict", "predict_proba", "posterior_factors", "reconstruct")
CLASSIFIER_SCORING = (
    "predict", "predict_proba", "predict_log_proba", "decision_function", "class_log_likelihood",
)  # fmt: skip


def _data(dtype=np.float64):
    return np.clip(20 * ref.random_samples(P, N) + 100, 0, 255).astype(dtype)


class Slices:
    """A sequence of batches that is neither a list nor an array."""

    def __init__(self, X, sizes):
        self.X = X
        self.ends = np.cumsum(sizes)
        assert self.ends[-1] == len(X)

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.X[(0 if index == 0 else self.ends[index - 1]) : self.ends[index]].copy()


def _hdf5(X, folder, **options):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    return h5py.File(folder / "X.h5", "w").create_dataset("X", data=X, **options)


def _zarr(X, folder):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    stored = zarr.open_array(folder / "X.zarr", mode="w", shape=X.shape, chunks=(130, 4), dtype=X.dtype)
    stored[:] = X
    return stored


def _memory_map(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def _torch_batches(X, _):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return [torch.from_numpy(part.copy()) for part in np.array_split(X, 3)]


KINDS = {
    "memory map": _memory_map,
    "HDF5": _hdf5,
    "HDF5 in chunks": lambda X, folder: _hdf5(X, folder, chunks=(64, 5), compression="gzip"),
    "Zarr": _zarr,
    "list": lambda X, _: np.array_split(X, 7),
    "tuple of one": lambda X, _: (X,),
    "sequence": lambda X, _: Slices(X, [1, 500, 0, 3, 496]),
    "torch batches": _torch_batches,
}
kinds = pytest.mark.parametrize("kind", KINDS)


def _assert_same(a, b):
    for name in NAMES:
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        assert np.array_equal(x, y), name
    assert a.lower_bounds_ == b.lower_bounds_


@pytest.fixture(params=[1024, 0.05], ids=["all at once", "in blocks"])
def working_memory(request):
    with sklearn.config_context(working_memory=request.param):
        yield request.param


@kinds
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_fit(kind, dtype, tmp_path, working_memory):
    X = _data(dtype)
    options = {"random_state": 0, "max_iter": 3, "min_noise_variance": 1e-2}
    streamed = quietly(MFA(3, 2, **options), KINDS[kind](X, tmp_path))
    assert streamed.n_features_in_ == D
    _assert_same(streamed, quietly(MFA(3, 2, **options), X))


def test_blocks_do_not_show(isa):
    """The memory decides how many rows are taken at once, and nothing else where the start is given."""
    X = _data()
    start = {f"{name}init": getattr(P, name[:-1]) for name in NAMES}
    start["means_init"] = 20 * start["means_init"] + 100
    fits = []
    for memory in (1024, 0.01):
        with sklearn.config_context(working_memory=memory):
            fits.append(quietly(MFA(3, 2, max_iter=5, **start), X))
    _assert_same(*fits)


@kinds
def test_scores(kind, tmp_path, working_memory):
    X = _data(np.float32)
    model = MFA(3, 2, random_state=0, tol=1).fit(X)
    stream = KINDS[kind](X, tmp_path)
    for name in SCORING:
        result, expected = getattr(model, name)(stream), getattr(model, name)(X)
        for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (result, expected)), strict=True):
            assert isinstance(a, np.ndarray)
            assert a.dtype == b.dtype
            assert np.array_equal(a, b), name
    for name in ("score", "bic", "aic"):
        assert getattr(model, name)(stream) == getattr(model, name)(X)


@kinds
def test_classifier(kind, tmp_path, working_memory):
    X = _data(np.uint8)
    y = np.where(X[:, 0] > np.median(X[:, 0]), "high", "low")
    w = np.linspace(0.0, 2.0, N)
    stream = KINDS[kind](X, tmp_path)
    options = {"random_state": 0, "max_iter": 3, "min_noise_variance": 1e-2}
    streamed = quietly(MFAClassifier(2, 1, **options), stream, y, sample_weight=w)
    whole = quietly(MFAClassifier(2, 1, **options), X, y, sample_weight=w)
    for a, b in zip(streamed.mixtures_, whole.mixtures_, strict=True):
        _assert_same(a, b)
    for name in CLASSIFIER_SCORING:
        assert np.array_equal(getattr(streamed, name)(stream), getattr(whole, name)(X)), name
    assert streamed.score(stream, y, sample_weight=w) == whole.score(X, y, sample_weight=w)


@kinds
def test_weights_and_statistics(kind, tmp_path, working_memory):
    X, w = _data(), np.random.default_rng(0).integers(0, 3, N)
    stream = KINDS[kind](X, tmp_path)
    options = {"random_state": 0, "max_iter": 3}
    model = quietly(MFA(3, 2, **options), X, sample_weight=w)
    _assert_same(quietly(MFA(3, 2, **options), stream, sample_weight=w), model)
    assert model.score(stream, sample_weight=w) == model.score(X, sample_weight=w)
    a, b = model.e_step(stream, sample_weight=w), model.e_step(X, sample_weight=w)
    assert all(np.array_equal(x, y) for x, y in zip(a._sums(), b._sums(), strict=True))
    assert a.log_likelihood == b.log_likelihood


def test_an_emptied_component_finds_the_worst_sample_of_any_block(working_memory):
    X = _data()
    X[777] += 400
    start = {f"{name}init": getattr(P, name[:-1]).copy() for name in NAMES}
    start["means_init"] = 20 * start["means_init"] + 100
    start["means_init"][1] = 1e6
    start["noise_variance_init"] = np.full((3, D), 400.0)
    for data in (X, np.array_split(X, 9)):
        with pytest.warns(ConvergenceWarning, match="lost all samples"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "EM did not converge")
            model = MFA(3, 2, max_iter=1, **start).fit(data)
        assert np.array_equal(model.means_[1], X[777])


def test_batches_are_not_kept():
    """No more than the batch at hand and the one before it are alive at any time."""
    alive, most = set(), 0

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    class Batches(Slices):
        def __getitem__(self, index):
            nonlocal most
            batch = super().__getitem__(index).view(Counted)
            alive.add(id(batch))
            most = max(most, len(alive))
            return batch

    with sklearn.config_context(working_memory=1):
        quietly(MFA(2, 1, max_iter=3, random_state=0), Batches(_data(), [100] * 10))
    assert 1 <= most <= 2


def test_no_batch_is_read_twice_at_once(working_memory):
    reads = []

    class Batches(Slices):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    quietly(MFA(2, 1, max_iter=4, tol=0, random_state=0), Batches(_data(), [250] * 4))
    # Looked at for its width, checked, counted, gone through for the start; and once in each iteration.
    assert len(reads) == 2 + 4 + 4 + 4 * 4


# What is refused.


def test_other_widths_and_types():
    X = _data()
    model = MFA(2, 1, random_state=0)
    with pytest.raises(ValueError, match=r"6 features in all batches.*from row 500 on it has 5"):
        model.fit([X[:500], X[500:, :5]])
    with pytest.raises(ValueError, match=r"results in float64.*of dtype float32"):
        model.fit([X[:500], X[500:].astype(np.float32)])
    with pytest.raises(ValueError, match="features"):
        model.fit(X).score_samples([X[:, :5]])


@kinds
def test_numbers_that_are_not_finite(kind, tmp_path, working_memory):
    X = _data()
    model = MFA(2, 1, random_state=0, tol=10).fit(X)
    X[900, 3] = np.nan
    stream = KINDS[kind](X, tmp_path)
    for method in (MFA(2, 1, random_state=0).fit, model.score_samples, model.score, model.e_step):
        with pytest.raises(ValueError, match="NaN"):
            method(stream)


def test_a_sample_too_far_away_is_named_by_its_row(working_memory):
    X = _data(np.float32)
    model = MFA(2, 1, random_state=0, tol=10).fit(X)
    X[900] = 1e30
    for stream in (X, np.array_split(X, 3)):
        with pytest.raises(ValueError, match="row 900 of X"):
            model.score(stream)
    with pytest.raises(ValueError, match="row 900 of X"):
        model.score_samples(np.array_split(X, 3))


def test_iterators_cannot_be_gone_through_again():
    with pytest.raises(TypeError, match=r"X must be readable more than once.*partial_fit"):
        MFA().fit(iter([_data()]))


def test_batches_that_are_none():
    X = _data()
    with pytest.raises(ValueError, match="n_components=1 needs at least two samples"):
        MFA().fit([X[:1]])
    with pytest.raises(ValueError, match="n_components=5 needs"):
        MFA(5).fit([X[:2], X[2:4]])
    with pytest.raises(ValueError, match="minimum of 1"):
        MFA().fit([X[:0]])
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(1000,\)"):
        MFA().fit([X[:500], X[500:]], sample_weight=np.ones(500))
    with pytest.raises(TypeError, match=r"X must be an array, got dict.*X\['name'\]"):
        MFA().fit({"name": X})
    with pytest.raises((TypeError, ValueError), match=r"\bX\b"):
        MFA().fit("words")


def test_an_empty_or_flat_dataset(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "X.h5", "w") as file:
        with pytest.raises(ValueError, match="0 sample"):
            MFA().fit(file.create_dataset("empty", (0, 4), "f4"))
        with pytest.raises(ValueError, match="2D array"):
            MFA().fit(file.create_dataset("flat", (4,), "f4"))
        with pytest.raises(ValueError, match="dim"):
            MFA().fit(file.create_dataset("deep", (4, 2, 2), "f4"))


def test_a_group_of_zarr_is_no_array(tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    group = zarr.open_group(tmp_path / "X.zarr", mode="w")
    with pytest.raises(TypeError, match=r"X must be an array, got Group, .*X\['name'\]"):
        MFA().fit(group)


def test_batches_that_change_are_noticed():
    class Growing(Slices):
        calls = 0

        def __getitem__(self, index):
            Growing.calls += 1
            return np.repeat(super().__getitem__(index), 1 + Growing.calls // 8, axis=0)

    with pytest.raises(ValueError, match="same batches"):
        quietly(MFA(2, 1, max_iter=4, tol=0, random_state=0), Growing(_data(), [250] * 4))


def test_nothing_is_scored_before_a_fit():
    with pytest.raises(NotFittedError):
        MFA().score_samples([_data()])
    with pytest.raises(NotFittedError):
        MFAClassifier().predict([_data()])


@pytest.mark.parametrize(
    "method", ["impute", "conditional", "partial_fit", "classifier's partial_fit", "ld_grad", "nearest"]
)
def test_what_takes_no_batches_says_so(method):
    X = _data()
    model = MFA.from_parameters(*P)
    classifier = MFAClassifier.from_mixtures([model, model])
    calls = {
        "classifier's partial_fit": lambda X: classifier.partial_fit(X, np.arange(N) % 2),
        "ld_grad": lambda X: ld_grad(classifier, X),
        "nearest": lambda X: nearest(classifier, X),
    }
    for stream in ([X[:500], X[500:]], [X[:500], X[700:]], Slices(X, [N]), iter([X])):
        with pytest.raises(TypeError, match=r"X must be one array here, got a sequence of batches"):
            (calls.get(method) or getattr(model, method))(stream)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_any_batch_but_all_may_be_empty(place):
    X = _data()
    batches = [X[:300], X[300:]]
    batches.insert(place, X[:0])
    model = quietly(MFA(2, 1, random_state=0, max_iter=3), batches)
    assert np.array_equal(model.means_, quietly(MFA(2, 1, random_state=0, max_iter=3), X).means_)
    assert np.array_equal(model.score_samples(batches), model.score_samples(X))
    with pytest.raises(ValueError, match="0 sample"):
        model.score_samples([X[:0], X[:0]])


def test_what_holds_arrays_is_no_array(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    model, X = MFA.from_parameters(*P), _data()
    with h5py.File(tmp_path / "X.h5", "w") as file:
        stored = file.create_dataset("X", data=X)
        for method in (model.score, model.predict, MFA().fit, model.partial_fit, model.impute):
            with pytest.raises(TypeError, match=r"X must be an array, got File, .*X\['name'\]"):
                method(file)
    for method in (model.score, model.predict, MFA().fit, model.partial_fit, model.impute):
        with pytest.raises(ValueError, match=r"X must be an array that can be read, got <Closed HDF5 dataset>.*open"):
            method(stored)


def test_arrays_in_files_are_filled_in(tmp_path):
    X = _data()
    X[::3, 1] = np.nan
    model = MFA.from_parameters(*P)
    assert np.array_equal(model.impute(_hdf5(X, tmp_path)), model.impute(X))
