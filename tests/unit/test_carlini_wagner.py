"""Attacks of Foolbox behind this library's interface."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

import reference as ref
from mfa_fast import MFA, MFAClassifier
from mfa_fast.attacks import cw_l2, ddn, ld_grad
from mfa_fast.datasets import load_digits_pair
from tolerances import LIBRARY_ATTACK, scaled_error

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("foolbox", reason="foolbox is not installed")
from mfa_fast.torch import MFAModule  # noqa: E402

# Fewer iterations than by default are enough for problems as small as these.
quick_cw_l2 = partial(cw_l2, iterations=100)
attacks = pytest.mark.parametrize("attack", [quick_cw_l2, ddn], ids=["cw_l2", "ddn"])
rules = pytest.mark.parametrize("rule", ["max", "sum"])


@pytest.fixture(scope="module")
def digits():
    """A classifier of bundled digits with a noise of 0.001, samples of it and their labels."""
    pair = load_digits_pair(0, 6)
    fitted = MFAClassifier(3, 3, random_state=0).fit(pair.X_train, pair.y_train)
    classifier = fitted.symmetric(1e-3)
    return classifier, *classifier.sample(40, random_state=0)


@pytest.fixture(scope="module")
def machines(digits):
    classifier, _, _ = digits
    X, y = classifier.sample(300, random_state=1)
    scaled = make_pipeline(StandardScaler(), LinearSVC(random_state=0))
    return {
        "linear": LinearSVC(random_state=0).fit(X, y),
        "scaled": scaled.fit(X, y),
        "linear SVC": SVC(kernel="linear").fit(X, y),
        "rbf": SVC(gamma=0.05).fit(X, y),
    }


def _small(rule="max", noise_std=0.1):
    mixtures = [ref.random_parameters(3, 12, 2, noise_std=noise_std, seed=10 + c) for c in range(3)]
    models = [MFA.from_parameters(*m) for m in mixtures]
    X = np.concatenate([ref.random_samples(m, 6, seed=c, stray=0) for c, m in enumerate(mixtures)])
    return MFAClassifier.from_mixtures(models, ["a", "b", "c"], rule=rule), X, np.repeat(["a", "b", "c"], 6)


@attacks
def test_finds_what_the_closed_form_finds(attack, digits, dtype):
    """No further than LD-Grad but for what the iterations leave, and nearer only by what LD-Grad leaves."""
    classifier, X, y = digits
    X = X.astype(dtype)
    result, closed_form = attack(classifier, X, y), ld_grad(classifier, X, y, steps=10)
    assert result.success.all()
    assert result.X_adv.dtype == dtype
    ratio = result.l2.mean() / closed_form.l2.mean()
    assert 1 - LIBRARY_ATTACK <= ratio <= 1 + LIBRARY_ATTACK


@attacks
@rules
def test_success_and_distance_are_those_of_the_result(attack, rule, dtype):
    classifier, X, y = _small(rule)
    X = X.astype(dtype)
    result = attack(classifier, X, y)
    assert np.array_equal(result.success, classifier.predict(result.X_adv) != y)
    assert result.success.mean() >= 0.9
    distances = np.linalg.norm(result.X_adv.astype(np.float64) - X, axis=1)
    assert scaled_error(result.l2.astype(np.float64), distances) <= np.finfo(dtype).eps
    assert np.all(result.source == -1) and np.all(result.target == -1)
    assert np.isnan(result.lower_bound).all() and not result.certified.any()


@attacks
@pytest.mark.parametrize("kind", ["linear", "scaled", "linear SVC"])
def test_never_below_the_distance_to_a_plane(attack, kind, machines, digits):
    """LD-Grad is exact there."""
    _, X, y = digits
    machine = machines[kind]
    result, exact = attack(machine, X, y), ld_grad(machine, X, y, steps=10)
    both = result.success & exact.success & (result.n_steps > 0)
    assert both.mean() >= 0.9
    ratio = result.l2[both] / exact.l2[both]
    assert np.all(ratio >= 1 - 1e-5)
    assert ratio.mean() <= 1 + LIBRARY_ATTACK / 3  # Adam has not quite settled after so few iterations
    assert np.array_equal(result.success, machine.predict(result.X_adv) != y)


@attacks
def test_rbf_machine(attack, machines, digits):
    _, X, y = digits
    result, steps = attack(machines["rbf"], X, y), ld_grad(machines["rbf"], X, y, steps=50)
    assert result.success.mean() >= 0.9
    assert np.array_equal(result.success, machines["rbf"].predict(result.X_adv) != y)
    both = result.success & steps.success
    assert result.l2[both].mean() <= (1 + LIBRARY_ATTACK) * steps.l2[both].mean()


def _network(classes=None, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(12, 16),
            torch.nn.LeakyReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(16, 3),
        ).to(dtype)
    if classes is not None:
        network.classes_ = np.array(classes)
    return network


def _logits(network, X):
    with torch.no_grad():
        return network.eval()(torch.from_numpy(X)).numpy()


@attacks
def test_any_module(attack, dtype):
    network = _network(dtype={4: torch.float32, 8: torch.float64}[dtype.itemsize])
    X = np.random.default_rng(0).normal(size=(20, 1, 3, 4)).astype(dtype)
    y = _logits(network, X).argmax(axis=1)
    result = attack(network, X)
    assert result.X_adv.shape == X.shape and result.X_adv.dtype == result.lower_bound.dtype == dtype
    assert np.array_equal(attack(network, X.tolist()).success, result.success)
    assert np.array_equal(result.success, _logits(network, result.X_adv).argmax(axis=1) != y)
    assert result.success.all()


class _Given(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits(x)


@attacks
@pytest.mark.parametrize(
    ("logits", "word"),
    [
        (lambda x: x[:, :2] + torch.nan, "NaN for sample 0"),
        (lambda x: x[:, :1], r"shape \(5, 1\)"),
        (lambda x: x[:, 0], r"shape \(5,\)"),
        (lambda x: (x, x), "type tuple"),
        (lambda x: x.detach(), "without"),
    ],
    ids=["NaN", "one column", "one-dimensional", "tuple", "detached"],
)
def test_modules_without_logits_are_named(attack, logits, word):
    with pytest.raises((ValueError, TypeError), match=f"model must give .*{word}"):
        attack(_Given(logits), np.random.default_rng(0).normal(size=(5, 12)))


@attacks
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_modules_of_half_precision_are_refused(attack, dtype):
    with pytest.raises(TypeError, match=rf"float32 or float64, got {dtype}; pass a copy"):
        attack(_network(dtype=dtype), np.zeros((5, 12)))


@attacks
def test_a_module_is_left_as_it_was(attack):
    network = _network().train()
    network[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    attack(network, np.random.default_rng(0).normal(size=(5, 12)), batch_size=3)
    assert all(m.training for m in network.modules())
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@attacks
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_others_are_switched_off(attack, mode):
    _, X, _ = _small()
    network = _network()
    expected = attack(network, X)
    with mode():
        result = attack(network, X)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert np.array_equal(result.X_adv, expected.X_adv)


@attacks
def test_labels_of_a_module(attack):
    X = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    indices = _logits(_network(), X).argmax(axis=1)
    plain = attack(_network(), X, indices)
    named = attack(_network(["x", "y", "z"]), X, np.array(["x", "y", "z"])[indices])
    assert np.array_equal(plain.X_adv, named.X_adv)
    with pytest.raises(ValueError, match="labels that the model does not know"):
        attack(_network(["x", "y", "z"]), X, indices)


@attacks
def test_where_no_kernel_reaches_the_class_is_that_of_predict(attack):
    machine = SVC(gamma=10.0).fit([[0.0], [1000.0]], [0, 1])
    X = np.array([[500.0]])
    assert machine.decision_function(X) == 0
    result = attack(machine, X, machine.predict(X))
    assert result.n_steps[0] > 0
    assert result.summary()["accuracy"] == 1


@attacks
def test_a_classifier_and_its_module_are_attacked_alike(attack):
    classifier, X, y = _small()
    assert np.array_equal(attack(classifier, X, y).X_adv, attack(MFAModule(classifier), X, y).X_adv)


@attacks
def test_misclassified_samples_are_left_alone(attack):
    classifier, X, _ = _small()
    wrong = np.roll(classifier.predict(X), 6)
    result = attack(classifier, X, wrong)
    assert np.array_equal(result.X_adv, X)
    assert np.all(result.l2 == 0) and np.all(result.n_steps == 0) and result.success.all()
    assert result.summary()["accuracy"] == 0.0


def test_failures_are_the_samples_themselves():
    """One step does not get there; Foolbox then gives zeros."""
    classifier, X, y = _small()
    result = cw_l2(classifier, X, y, iterations=1, binary_search_steps=1)
    failed = ~result.success
    assert failed.any()
    assert np.array_equal(result.X_adv[failed], X[failed])
    assert np.all(result.l2[failed] == 0) and np.all(result.n_steps == 1)
    assert result.summary()["median_l2"] == np.inf


@attacks
def test_batches_change_nothing(attack):
    classifier, X, y = _small()
    whole, parts = attack(classifier, X, y), attack(classifier, X, y, batch_size=5)
    assert np.array_equal(whole.X_adv, parts.X_adv)


@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_scale_of_the_logits_changes_little(scale):
    """The search for c starts where the logits themselves say."""
    classifier, X, y = _small()
    module = MFAModule(classifier)
    scaled = torch.nn.Sequential(module, torch.nn.Linear(3, 3, bias=False).double())
    with torch.no_grad():
        scaled[1].weight.copy_(scale * torch.eye(3))
    labels = np.searchsorted(classifier.classes_, y)
    one, other = quick_cw_l2(module, X, y), quick_cw_l2(scaled, X, labels)
    assert scaled_error(one.l2, other.l2) <= 1e-3


def test_abort_early_takes_fewer_gradients():
    classifier, X, y = _small()
    all_steps, early = (cw_l2(classifier, X, y, iterations=300, abort_early=early) for early in (False, True))
    assert np.all(all_steps.n_steps == 900)
    assert np.all((early.n_steps >= 3) & (early.n_steps < 900))
    assert early.success.all()
    assert early.l2.mean() <= 1.01 * all_steps.l2.mean()


# Between bounds the search needs more iterations than the others here.
@pytest.mark.parametrize("attack", [partial(cw_l2, iterations=200), ddn], ids=["cw_l2", "ddn"])
def test_clip(attack, digits):
    classifier, X, y = digits
    X = np.clip(X, 0, 1)
    y = classifier.predict(X)
    result = attack(classifier, X, y, clip=(0, 1))
    assert result.X_adv.min() >= 0 and result.X_adv.max() <= 1
    assert result.success.mean() >= 0.9
    half = attack(classifier, X, y, clip=(0, None))
    assert half.X_adv.min() >= 0 and half.X_adv.max() > 1


@attacks
@pytest.mark.parametrize("clip", [(-np.inf, np.inf), (-100, np.inf), (-np.inf, 100)])
def test_a_clip_without_end_is_none(attack, clip):
    classifier, X, y = _small()
    result = attack(classifier, X, y, clip=clip)
    expected = attack(classifier, X, y, clip=tuple(None if np.isinf(end) else end for end in clip))
    assert np.array_equal(result.X_adv, expected.X_adv)


@attacks
def test_torch_in_torch_out(attack):
    classifier, X, y = _small()
    result = attack(classifier, torch.from_numpy(X), y)
    assert isinstance(result.X_adv, torch.Tensor)
    assert np.array_equal(result.X_adv.numpy(), attack(classifier, X, y).X_adv)
    images = attack(_network(), torch.from_numpy(X).reshape(-1, 1, 3, 4))
    assert images.X_adv.shape == (len(X), 1, 3, 4)


@attacks
def test_bad_arguments_are_named(attack):
    classifier, X, y = _small()
    with pytest.raises(TypeError, match="LogisticRegression"):
        attack(LogisticRegression().fit(X, y), X)
    with pytest.raises(NotFittedError):
        attack(MFAClassifier(), X)
    with pytest.raises(ValueError, match="batch_size"):
        attack(classifier, X, batch_size=0)
    with pytest.raises(ValueError, match="X must lie within clip"):
        attack(classifier, X, clip=(0, 1))
    with pytest.raises(ValueError, match="low < high"):
        attack(classifier, X, clip=(1, 0))
    with pytest.raises(ValueError, match=r"Input X contains NaN, in row 0\."):
        attack(classifier, np.full_like(X, np.nan))
    with pytest.raises(ValueError, match="features"):
        attack(classifier, X[:, :5])
    with pytest.raises(ValueError, match="Expected 2D array"):
        attack(classifier, X[0])
    with pytest.raises(ValueError, match="X"):
        attack(classifier, X.reshape(-1, 1, 3, 4))
    machine = LinearSVC(random_state=0).fit(X, y != "a")
    with pytest.raises(ValueError, match="X has 5 features, but LinearSVC is expecting 12"):
        attack(machine, X[:, :5])


@pytest.mark.parametrize(
    ("attack", "arguments", "name"),
    [
        (cw_l2, {"iterations": 0}, "iterations"),
        (cw_l2, {"binary_search_steps": 0}, "binary_search_steps"),
        (cw_l2, {"learning_rate": 0.0}, "learning_rate"),
        (ddn, {"steps": 0}, "steps"),
        (ddn, {"gamma": 1.0}, "gamma"),
        (ddn, {"init_epsilon": 0.0}, "init_epsilon"),
    ],
)
def test_bad_settings_are_named(attack, arguments, name):
    classifier, X, y = _small()
    with pytest.raises(ValueError, match=name):
        attack(classifier, X, y, **arguments)


@pytest.mark.parametrize("package", ["torch", "foolbox"])
def test_what_is_missing_is_named(package):
    """In a process that cannot import the package."""
    code = f"""
import sys
class NotInstalled:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError("No module named {package}", name={package!r})
sys.meta_path.insert(0, NotInstalled)
from mfa_fast import attacks
try:
    attacks.cw_l2(None, [[0.0]])
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install 'mfa_fast[attacks]'" in done.stdout
    assert package in done.stdout


def test_importing_the_library_imports_neither():
    code = "import sys, mfa_fast; print([name for name in ('torch', 'foolbox') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_agrees_with_the_closed_form_on_mnist(mnist):
    """At the size and the noise of the paper."""
    kept = np.isin(mnist["y_train"], (0, 6))
    X, y = mnist["x_train"][kept].reshape(-1, 784) / np.float32(255), mnist["y_train"][kept]
    classifier = MFAClassifier(25, 6, random_state=0).fit(X[:4000], y[:4000]).symmetric(1e-3)
    X_new, y_new = classifier.sample(100, random_state=0)
    closed_form = ld_grad(classifier, X_new, y_new, steps=10)
    for result in (cw_l2(classifier, X_new, y_new, abort_early=True), ddn(classifier, X_new, y_new)):
        assert result.success.all()
        ratio = result.l2 / closed_form.l2
        assert 0.85 <= ratio.mean() <= 1.15
