"""What scikit-learn's callbacks see of a fit, and how they end it early."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import reference as ref
from mfa_fast import MFA, MFAClassifier

P = ref.random_parameters(3, 6, 2, noise_std=0.3)
X = ref.random_samples(P, 400)
Y = np.array(["no", "yes"])[(X[:, 0] > np.median(X[:, 0])).astype(int)]

# Means one of which is far from all samples, and classes of which each has a sample far from the others.
FAR = [np.zeros(6), np.full(6, 1e6)]
APART = np.vstack([X, np.full((2, 6), 1e4)])
APART_Y = np.arange(402) % 2

# A model that takes more than ten iterations.
SLOW = {"n_components": 3, "n_factors": 2, "init_params": "random", "random_state": 0, "tol": 1e-4}


def test_without_callbacks_in_scikit_learn_a_fit_is_the_same():
    script = """
import sys
import sklearn.linear_model, sklearn.model_selection, sklearn.pipeline, sklearn.svm
sys.modules["sklearn.callback"] = None  # as in a scikit-learn that has none: importing it is an ImportError
import numpy as np
from mfa_fast import MFA, MFAClassifier
X = np.random.default_rng(0).normal(size=(60, 4))
print(MFA(2, 1, random_state=0).fit(X).score(X), hasattr(MFA, "set_callbacks"))
print(MFAClassifier(random_state=0).fit(X, np.arange(60) % 2).score(X, np.arange(60) % 2))
"""
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    data = np.random.default_rng(0).normal(size=(60, 4))
    y = np.arange(60) % 2
    assert float(lines[0]) == MFA(2, 1, random_state=0).fit(data).score(data)
    assert lines[1] == "False"
    assert float(lines[2]) == MFAClassifier(random_state=0).fit(data, y).score(data, y)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("max_iter=2", lambda: MFA(**SLOW, max_iter=2).fit(X)),
        ("max_iter=2", lambda: MFA(**SLOW, max_iter=2).fit_predict(X)),
        ("max_iter=2", lambda: MFAClassifier(**SLOW, max_iter=2).fit(X, Y)),
        ("single sample", lambda: MFAClassifier(2, 1, random_state=0).partial_fit(APART, APART_Y, classes=[0, 1])),
        ("lost all samples", lambda: MFA(2, means_init=FAR, random_state=0).fit(X)),
        ("lost all samples", lambda: MFA(2, means_init=FAR, random_state=0).partial_fit(X)),
    ],
    ids=["fit", "fit_predict", "classifier's fit", "classifier's partial_fit", "EM", "stepwise EM"],
)
def test_a_warning_names_the_line_outside_the_library(words, call):
    with pytest.warns(ConvergenceWarning) as record:
        call()
    assert any(words in str(warning.message) for warning in record)
    assert {warning.filename for warning in record} == {__file__}


callbacks = pytest.importorskip("sklearn.callback", reason="this scikit-learn has no callbacks (they came with 1.9)")


class Recorder:
    """Keeps the names of tasks as they begin and end, and what models they leave."""

    def __init__(self, stop=lambda context: False):
        self.stop = stop
        self.tasks = []
        self.models = []
        self.open = False

    def setup(self, estimator, context):
        self.open = True

    def teardown(self, estimator, context):
        self.open = False

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.tasks.append(("end", context.task_name, context.task_id))
        if context.task_name == "iteration":
            self.models.append(fitted_estimator)
        return self.stop(context)

    def ended(self, name):
        return [task_id for event, task, task_id in self.tasks if event == "end" and task == name]


class PropagatedRecorder(Recorder):
    max_propagation_depth = None


def _after(name, number):
    """Stop after so many tasks of a name."""
    return lambda context: context.task_name == name and context.task_id == number - 1


def test_every_task_begins_and_ends_within_its_own():
    recorder = Recorder()
    model = MFA(**SLOW, n_init=2, max_iter=3).set_callbacks(recorder)
    with pytest.warns(ConvergenceWarning):
        model.fit(X)
    steps = [(event, "iteration", i) for i in range(3) for event in ("begin", "end")]
    starts = [[("begin", "start", s), *steps, ("end", "start", s)] for s in range(2)]
    assert recorder.tasks == [("begin", "fit", 0), *starts[0], *starts[1], ("end", "fit", 0)]
    assert not recorder.open


def test_callbacks_change_no_result():
    a, b = MFA(**SLOW).set_callbacks(Recorder()).fit(X), MFA(**SLOW).fit(X)
    assert np.array_equal(a.means_, b.means_)
    assert a.lower_bounds_ == b.lower_bounds_


def test_a_callback_sees_the_model_after_each_iteration(dtype):
    recorder = Recorder()
    data = X.astype(dtype)
    model = MFA(**SLOW).set_callbacks(recorder).fit(data)
    assert len(recorder.models) == model.n_iter_ > 10
    for i in (1, 5):
        seen, expected = recorder.models[i - 1], MFA(**SLOW, max_iter=i)
        with pytest.warns(ConvergenceWarning):
            expected.fit(data)
        assert seen.n_iter_ == i
        assert seen.means_.dtype == dtype
        assert seen.lower_bounds_ == expected.lower_bounds_
        assert np.array_equal(seen.score_samples(data), expected.score_samples(data))
    assert recorder.models[-1].converged_


def test_a_callback_stops_a_start_early():
    model = MFA(**SLOW).set_callbacks(Recorder(_after("iteration", 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # to stop was what was wanted: no ConvergenceWarning
        model.fit(X)
    assert model.n_iter_ == len(model.lower_bounds_) == 4
    assert not model.converged_
    expected = MFA(**SLOW, max_iter=4)
    with pytest.warns(ConvergenceWarning):
        expected.fit(X)
    assert np.array_equal(model.means_, expected.means_)


def test_a_callback_lets_no_other_start_begin():
    recorder = Recorder(_after("start", 2))
    MFA(**SLOW, n_init=5).set_callbacks(recorder).fit(X)
    assert recorder.ended("start") == [0, 1]


def test_a_failing_callback_is_torn_down_and_leaves_the_model_unfitted():
    def fail(context):
        if context.task_name == "iteration":
            raise RuntimeError("enough")

    recorder = Recorder(fail)
    model = MFA(**SLOW).set_callbacks(recorder)
    with pytest.raises(RuntimeError, match="enough"):
        model.fit(X)
    assert not recorder.open
    assert not hasattr(model, "means_")
    model.set_callbacks().fit(X)
    assert model.n_iter_ > 10


@pytest.mark.parametrize(
    "estimator", [MFA(**SLOW), MFAClassifier(2, 1, random_state=0)], ids=lambda e: type(e).__name__
)
def test_a_fit_leaves_nothing_of_its_callbacks(estimator):
    plain = set(vars(clone(estimator).fit(X, Y)))
    watched = clone(estimator).set_callbacks(PropagatedRecorder()).fit(X, Y)
    assert set(vars(watched)) - plain == {"_skl_callbacks"}
    for mixture in getattr(watched, "mixtures_", []):
        assert not [name for name in vars(mixture) if "callback" in name]
    copy = pickle.loads(pickle.dumps(watched.set_callbacks()))
    assert np.array_equal(copy.predict(X), watched.predict(X))


def test_a_classifier_hands_propagated_callbacks_on():
    recorder = PropagatedRecorder()
    model = MFAClassifier(2, 1, random_state=0).set_callbacks(recorder).fit(X, Y)
    assert len(recorder.ended("iteration")) == sum(mixture.n_iter_ for mixture in model.mixtures_)
    assert len(recorder.ended("start")) == 2
    recorder = Recorder()
    MFAClassifier(2, 1, random_state=0).set_callbacks(recorder).fit(X, Y)
    assert [name for event, name, _ in recorder.tasks if event == "end"] == ["class 'no'", "class 'yes'", "fit"]


def test_pipelines_and_searches_hand_callbacks_on():
    recorder = PropagatedRecorder()
    make_pipeline(StandardScaler(), MFAClassifier(2, 1, random_state=0)).set_callbacks(recorder).fit(X, Y)
    assert recorder.ended("iteration")
    recorder = PropagatedRecorder()
    search = GridSearchCV(MFA(random_state=0, tol=1e-2), {"n_components": [1, 2]}, cv=2).set_callbacks(recorder).fit(X)
    assert len(recorder.ended("start")) == 2 * 2 + 1
    assert search.best_params_ == {"n_components": 2}


def test_a_progress_bar_reaches_the_end(capsys):
    pytest.importorskip("rich")
    MFA(**SLOW, n_init=2).set_callbacks(callbacks.ProgressBar()).fit(X)
    lines = capsys.readouterr().out.splitlines()
    for name in ("MFA - fit", "MFA - start #0", "MFA - start #1"):
        (line,) = [line for line in lines if name in line]
        assert "100%" in line


def test_scores_are_monitored():
    monitor = callbacks.ScoringMonitor(scoring={"log_likelihood": lambda model, X, y: model.score(X)})
    model = MFA(**SLOW).set_callbacks(monitor).fit(X, Y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    scores = np.array([row["log_likelihood"] for row in rows])
    assert len(scores) == model.n_iter_
    assert scores[-1] == model.score(X)
    assert np.all(np.diff(scores) > -1e-9)  # EM never lowers it


class Metadata(Recorder):
    """Keeps what the fit was given beside X and y."""

    def on_fit_task_end(self, estimator, context, *, metadata=None):
        self.models.append(metadata)


@pytest.mark.parametrize("make", [MFA, MFAClassifier], ids=lambda c: c.__name__)
def test_callbacks_see_the_weights(make):
    weights = np.ones(len(X))
    for given in ({}, {"sample_weight": weights}):
        recorder = Metadata()
        make(random_state=0).set_callbacks(recorder).fit(X, Y, **given)
        assert recorder.models
        for seen in recorder.models:
            assert seen.keys() == given.keys()
            assert seen.get("sample_weight") is given.get("sample_weight")
