"""Streams of samples: what they give, where they are, and how workers share them."""

import pickle
import re
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import reference as ref
from mfa_fast import MFA, MFAClassifier
from mfa_fast.datasets import SampleStream

D = 5
CLASSES = np.array(["no", "yes"])
P = ref.random_parameters(3, D, 2)


def _classifier():
    shifted = P._replace(means=P.means + 1)
    mixtures = [MFA.from_parameters(*p) for p in (P, shifted)]
    return MFAClassifier.from_mixtures(mixtures, classes=CLASSES)


def _assert_same(batches, expected):
    for (X, y), (X_expected, y_expected) in zip(batches, expected, strict=True):
        assert np.array_equal(X, X_expected)
        assert np.array_equal(y, y_expected)


def _joined(batches):
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize("noise", [True, False])
def test_batches_are_consecutive_samples(noise):
    stream = SampleStream(_classifier(), 7, 3, noise=noise)
    assert iter(stream) is stream
    X, y = _joined(islice(stream, 5))
    X_expected, y_expected = _classifier().sample(35, noise=noise, random_state=3)
    assert np.array_equal(X, X_expected)
    assert np.array_equal(y, y_expected)
    assert stream.position == 35


def test_seeds_and_batches_differ():
    batches = [*islice(SampleStream(_classifier(), 8, 0), 3)]
    batches += [*islice(SampleStream(_classifier(), 8, 1), 3)]
    rows = np.concatenate([X for X, _ in batches])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_batch_size_does_not_matter():
    first = _joined(islice(SampleStream(_classifier(), 6, 0), 4))
    second = _joined(islice(SampleStream(_classifier(), 8, 0), 3))
    _assert_same([first], [second])


def test_start():
    stream = SampleStream(_classifier(), 4, 0, start=10)
    assert stream.position == 10
    X, y = _classifier().sample(14, random_state=0)
    _assert_same([next(stream)], [(X[10:], y[10:])])


def test_of_a_mixture():
    model = MFA.from_parameters(*P)
    _assert_same([next(SampleStream(model, 9, 0))], [model.sample(9, random_state=0)])


# Saving the position.


def test_resumes():
    stream = SampleStream(_classifier(), 5, 0)
    next(stream)
    state = pickle.loads(pickle.dumps(stream.state_dict()))
    expected = list(islice(stream, 3))
    resumed = SampleStream(_classifier(), 5, 0)
    resumed.load_state_dict(state)
    assert resumed.position == 5
    _assert_same(islice(resumed, 3), expected)
    larger = SampleStream(_classifier(), 15, 0)
    larger.load_state_dict(state)
    _assert_same([next(larger)], [_joined(expected)])


def test_pickle():
    stream = SampleStream(_classifier(), 5, 0)
    next(stream)
    copy = pickle.loads(pickle.dumps(stream))
    _assert_same([next(copy)], [next(stream)])


class _Interrupted:
    """Fails once, in the middle of a run."""

    def __init__(self, classifier):
        self._classifier = classifier
        self.fail = False

    def sample(self, *args, **kwargs):
        if self.fail:
            self.fail = False
            raise KeyboardInterrupt
        return self._classifier.sample(*args, **kwargs)


def test_an_interrupted_batch_is_not_lost():
    expected = list(islice(SampleStream(_classifier(), 5, 0), 2))
    classifier = _Interrupted(_classifier())
    stream = SampleStream(classifier, 5, 0)
    first = next(stream)
    classifier.fail = True
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    _assert_same([first, next(stream)], expected)


def _refused(error_type, words, function, *args, **kwargs):
    with pytest.raises(error_type, match=f"^{re.escape(words)}") as info:
        function(*args, **kwargs)
    assert "\n" not in str(info.value)


def test_state_of_another_stream():
    load = SampleStream(_classifier(), 5, 0).load_state_dict
    state = SampleStream(_classifier(), 5, 1).state_dict()
    words = "state_dict must come from a stream with seed=0; got seed=1; make this stream with seed=1"
    _refused(ValueError, words, load, state)
    state = SampleStream(_classifier(), 5, 0, noise=False).state_dict()
    _refused(ValueError, "state_dict must come from a stream with noise=True; got", load, state)
    words = "state_dict must have the entries position, seed, noise; got none for noise, seed;"
    _refused(ValueError, words, load, {"position": 3})
    state = {"position": -1, "seed": 0, "noise": True}
    words = "state_dict['position'] must be an integer from 0 to 9223372036854775803; got -1."
    _refused(ValueError, words, load, state)
    _refused(TypeError, "state_dict must be a mapping; got an object of type int", load, 3)


# Arguments.


def test_arguments():
    def make(batch_size=5, seed=0, **kwargs):
        SampleStream(_classifier(), batch_size, seed, **kwargs)

    words = "batch_size must be an integer of at least 1; got "
    _refused(ValueError, words + "0", make, batch_size=0)
    _refused(TypeError, words + "2.5 of type float", make, batch_size=2.5)
    words = "seed must be an integer from 0 to 4294967295; got "
    _refused(ValueError, words + "-1", make, seed=-1)
    _refused(ValueError, words + "4294967296", make, seed=2**32)
    _refused(TypeError, words + "None of type NoneType", make, seed=None)
    _refused(ValueError, "start must be an integer from 0 to 9223372036854775803; got -1.", make, start=-1)
    _refused(TypeError, "noise must be True or False, got 1.", make, noise=1)
    make(batch_size=np.int32(5), seed=np.uint32(2**32 - 1), noise=np.bool_(False))


def test_classifier():
    words = "classifier must be a fitted MFAClassifier; got an object of type "
    _refused(TypeError, words + "ndarray", SampleStream, np.ones(3), 5, 0)
    with pytest.raises(NotFittedError):
        SampleStream(MFAClassifier(), 5, 0)


# As a dataset of torch.


def _loaded(stream, n_workers, n_batches):
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(stream.torch(), batch_size=None, num_workers=n_workers)
    return [(X.numpy(), y.numpy()) for X, y in islice(loader, n_batches)]


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_workers_give_the_batches_of_the_stream(n_workers):
    stream = SampleStream(_classifier(), 6, 2, start=12)
    expected = [(X, np.searchsorted(CLASSES, y)) for X, y in islice(stream, 7)]
    stream = SampleStream(_classifier(), 6, 2)
    next(stream), next(stream)
    batches = _loaded(stream, n_workers, 7)
    _assert_same(batches, expected)
    assert all(y.dtype == np.int64 for _, y in batches)
    assert stream.position == 12


def test_torch_keeps_its_start():
    stream = SampleStream(_classifier(), 6, 2)
    pytest.importorskip("torch")
    dataset = stream.torch()
    first = next(iter(dataset))
    next(stream)
    again = next(iter(dataset))
    _assert_same([again], [first])


def test_torch_dtype_and_labels_of_a_mixture():
    torch = pytest.importorskip("torch")
    model = MFA.from_parameters(*(p.astype(np.float32) for p in P))
    X, y = next(iter(SampleStream(model, 6, 0).torch()))
    assert X.dtype == torch.float32
    assert y.dtype == torch.int64
    assert np.array_equal(y, model.sample(6, random_state=0)[1])


def test_torch_dataset_can_be_pickled():
    """As workers that are spawned need it."""
    pytest.importorskip("torch")
    dataset = SampleStream(_classifier(), 6, 0).torch()
    copy = pickle.loads(pickle.dumps(dataset))
    _assert_same(islice(copy, 2), islice(dataset, 2))


def test_without_torch(monkeypatch):
    stream = SampleStream(_classifier(), 6, 0)
    monkeypatch.delitem(sys.modules, "mfa_fast.datasets._torch_stream", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    _refused(ImportError, "SampleStream.torch needs torch (", stream.torch)


def test_optional_libraries_are_imported_only_when_asked_for():
    code = "import sys, mfa_fast.datasets; print({'torch', 'PIL'} & {*sys.modules})"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "set()"
