"""The bridge to torch: logits and their gradient."""

import copy
import pickle

import numpy as np
import pytest

import reference as ref
from attack_cases import problem
from mfa_fast import CudaUnavailableError
from models import classifier_of
from tolerances import ATTACK, LOG_DENSITY, relative_error, scaled_error

torch = pytest.importorskip("torch", reason="torch is not installed")
from mfa_fast.torch import MFAModule  # noqa: E402

rules = pytest.mark.parametrize("rule", ["max", "sum"])
classes = pytest.mark.parametrize("n_classes", [2, 3])
noises = pytest.mark.parametrize("noise_std", [1.0, 0.1, 1e-3])


def _problem(n_classes=2, *, n=5, rule="max", **options):
    """Mixtures, priors, samples and the classifier."""
    mixtures, priors, X, _ = problem(n_classes, n=n, stray=0.2, **options)
    return mixtures, priors, X, classifier_of(mixtures, priors, rule)


def _gradient(X, vectors, mixtures, rule):
    """The vectors (n, n_classes) times the Jacobian of the class scores, in long double."""
    X = X.astype(np.longdouble)
    out = np.zeros_like(X)
    for c, mixture in enumerate(mixtures):
        shares = ref.responsibilities(X, mixture)
        if rule == "max":
            shares = shares == shares.max(axis=1, keepdims=True)
        for k in range(len(mixture.weights)):
            component = ref.Component(mixture, k)
            out -= (vectors[:, c] * shares[:, k])[:, None] * component.precision_product(X - component.mean)
    return out


def _backward(module, X, vectors):
    x = torch.tensor(X, requires_grad=True)
    logits = module(x)
    logits.backward(torch.tensor(vectors, dtype=logits.dtype))
    return x.grad.numpy()


@rules
@classes
@noises
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_logits_are_log_prior_plus_log_likelihood(rule, n_classes, noise_std, noise_type, dtype):
    mixtures, priors, X, classifier = _problem(n_classes, noise_std=noise_std, noise_type=noise_type, rule=rule)
    X = X.astype(dtype)
    logits = MFAModule(classifier)(torch.from_numpy(X))
    assert logits.numpy().dtype == dtype
    assert relative_error(logits.numpy(), ref.class_scores(X, mixtures, priors, rule)) <= LOG_DENSITY[dtype]


@rules
@classes
@noises
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_gradient_agrees_with_the_reference(rule, n_classes, noise_std, noise_type, dtype):
    mixtures, _, X, classifier = _problem(n_classes, noise_std=noise_std, noise_type=noise_type, rule=rule)
    X = X.astype(dtype)
    vectors = np.random.default_rng(0).normal(size=(len(X), n_classes)).astype(dtype)
    actual = _backward(MFAModule(classifier), X, vectors)
    assert actual.dtype == dtype
    for row, expected in zip(actual, _gradient(X, vectors, mixtures, rule), strict=True):
        assert scaled_error(row.astype(np.longdouble), expected) <= ATTACK[dtype]


@rules
def test_gradient_on_every_instruction_set(rule, isa, dtype):
    mixtures, _, X, classifier = _problem(noise_std=1e-3, shape=(4, 33, 3), rule=rule)
    X, vectors = X.astype(dtype), np.tile([1.0, -1.0], (len(X), 1))
    actual = _backward(MFAModule(classifier), X, vectors)
    assert scaled_error(actual.astype(np.longdouble), _gradient(X, vectors, mixtures, rule)) <= ATTACK[dtype]


@rules
def test_gradient_with_screening_is_the_gradient(rule):
    """Of enough features and components that most are left out."""
    mixtures, _, X, classifier = _problem(noise_std=0.05, shape=(30, 160, 3), n=20, rule=rule)
    vectors = np.random.default_rng(0).normal(size=(len(X), 2))
    for screening in (True, False):
        for mixture in classifier.mixtures_:
            mixture.set_params(screening=screening)
        actual = _backward(MFAModule(classifier.set_params(screening=screening)), X, vectors)
        assert scaled_error(actual, _gradient(X, vectors, mixtures, rule)) <= ATTACK[X.dtype]


@rules
@classes
def test_gradcheck(rule, n_classes):
    *_, X, classifier = _problem(n_classes, noise_std=0.5, rule=rule)
    x = torch.tensor(X, requires_grad=True)
    assert torch.autograd.gradcheck(MFAModule(classifier), (x,))


@rules
def test_gradcheck_with_little_noise(rule):
    """The difference of the classes, over the noise variance: of order one, as gradcheck's tolerances want it."""
    *_, X, classifier = _problem(noise_std=1e-3, rule=rule)
    x = torch.tensor(X, requires_grad=True)
    module = MFAModule(classifier, temperature=1e6)
    assert torch.autograd.gradcheck(lambda x: module(x)[:, 0] - module(x)[:, 1], (x,), eps=1e-6, atol=1e-4)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 479, 480, 481])
def test_rows_do_not_depend_on_each_other(n, dtype):
    *_, X, classifier = _problem(noise_std=1e-3, n=300)
    X = np.ascontiguousarray(X[::-1].astype(dtype))
    vectors = np.tile([1.0, -1.0], (len(X), 1))
    whole = _backward(MFAModule(classifier.set_params(n_threads=1)), X, vectors)
    part = _backward(MFAModule(classifier.set_params(n_threads=3)), X[:n], vectors[:n])
    assert np.array_equal(part, whole[:n])


def test_softmax_of_the_logits_has_no_gradient_at_little_noise():
    """Why attacks get logits: the documentation says so."""
    mixtures, _, _, classifier = _problem(noise_std=1e-3)
    X = ref.random_samples(mixtures[0], 20, stray=0).astype(np.float32)
    y = torch.zeros(len(X), dtype=torch.long)
    for temperature, vanishes in ((1.0, True), (1e6, False)):
        x = torch.tensor(X, requires_grad=True)
        torch.nn.functional.cross_entropy(MFAModule(classifier, temperature=temperature)(x), y).backward()
        assert bool((x.grad == 0).all()) == vanishes


def test_images_and_rows_are_the_same():
    """Features in the order of torch, and in that of image files."""
    *_, X, classifier = _problem(shape=(3, 24, 2))
    rows = torch.tensor(X)
    expected = MFAModule(classifier)(rows)
    for image_shape in (None, (2, 3, 4)):
        module = MFAModule(classifier, image_shape)
        assert torch.equal(module(rows.reshape(-1, 2, 3, 4)), expected)
        assert torch.equal(module(rows), expected)
    for image_shape in (None, (4, 6), (4, 6, 1), (1, 4, 6)):
        assert torch.equal(MFAModule(classifier, image_shape)(rows.reshape(-1, 1, 4, 6)), expected)
    images = rows.reshape(-1, 3, 4, 2).permute(0, 3, 1, 2).requires_grad_()
    assert torch.equal(MFAModule(classifier, (3, 4, 2))(images), expected)


def test_gradient_of_images_has_their_shape():
    *_, X, classifier = _problem(shape=(3, 24, 2))
    images = torch.tensor(X).reshape(-1, 3, 4, 2).permute(0, 3, 1, 2).contiguous().requires_grad_()
    MFAModule(classifier, (3, 4, 2))(images)[:, 0].sum().backward()
    vectors = np.tile([1.0, 0.0], (len(X), 1))
    expected = _backward(MFAModule(classifier), X, vectors)
    assert np.array_equal(images.grad.permute(0, 2, 3, 1).reshape(len(X), -1).numpy(), expected)


def test_copies_and_conversions():
    *_, X, classifier = _problem()
    module = MFAModule(classifier, (3, 4))
    x = torch.tensor(X)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.to(torch.float32), module.cpu()):
        assert torch.equal(twin(x), module(x))
    assert module(x.float()).dtype == torch.float32
    assert list(module.parameters()) == []
    assert "image_shape=(3, 4)" in repr(module)
    inside = torch.nn.Sequential(torch.nn.Flatten(), module).to(torch.float64)
    assert torch.equal(inside(x.reshape(-1, 1, 3, 4)), module(x))


def test_gradients_flow_through_layers_around_it():
    *_, X, classifier = _problem(noise_std=0.5)
    x = torch.tensor(X, requires_grad=True)
    module = MFAModule(classifier)
    assert torch.autograd.gradcheck(lambda x: module(torch.sigmoid(x)).logsumexp(dim=1), (x,))


def test_no_gradient_where_none_is_asked_for():
    *_, X, classifier = _problem()
    assert not MFAModule(classifier)(torch.tensor(X)).requires_grad
    with torch.no_grad():
        assert not MFAModule(classifier)(torch.tensor(X, requires_grad=True)).requires_grad


@classes
def test_an_empty_batch_has_logits_and_a_gradient(n_classes, dtype):
    classifier = _problem(n_classes)[-1]
    for module, shape in (MFAModule(classifier), (0, 12)), (MFAModule(classifier, (2, 2, 3)), (0, 3, 2, 2)):
        x = torch.tensor(np.zeros(shape, dtype), requires_grad=True)
        logits = module(x)
        assert logits.shape == (0, n_classes)
        assert logits.dtype == x.dtype
        logits.sum().backward()
        assert x.grad.shape == shape
    with pytest.raises(ValueError, match="12 features, got 11"):
        MFAModule(classifier)(torch.zeros(0, 11))


def test_a_second_derivative_is_refused():
    *_, X, classifier = _problem()
    x = torch.tensor(X, requires_grad=True)
    (gradient,) = torch.autograd.grad(MFAModule(classifier)(x).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="derived once"):
        gradient.sum().backward()


@rules
def test_transforms_of_functions_agree_with_autograd(rule):
    *_, X, classifier = _problem(3, rule=rule)
    module, x = MFAModule(classifier), torch.tensor(X)
    vectors = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    expected = torch.tensor(_backward(module, X, vectors.expand(len(X), -1).numpy()))
    jacobian = torch.autograd.functional.jacobian(module, x)
    of_all, of_one = lambda x: (module(x) @ vectors).sum(), lambda row: module(row[None])[0] @ vectors
    assert torch.equal(torch.func.grad(of_all)(x), expected)
    assert torch.equal(torch.func.vmap(torch.func.grad(of_one))(x), expected)
    assert torch.equal(torch.func.vmap(torch.func.grad(of_one), in_dims=1)(x.T.contiguous()), expected)
    assert torch.equal(torch.func.jacrev(module)(x), jacobian)
    assert torch.equal(torch.func.vmap(module)(x.reshape(-1, 5, 12)).reshape(-1, 3), module(x))
    with pytest.raises(NotImplementedError, match="derived once"):
        torch.func.grad(lambda x: torch.func.grad(of_all)(x).sum())(x)


def test_compiled_networks_call_it_as_it_is():
    *_, X, classifier = _problem(3)
    network = torch.nn.Sequential(torch.nn.Linear(12, 12, dtype=torch.float64), MFAModule(classifier), torch.nn.Tanh())
    results = []
    for module in network, torch.compile(network, backend="eager"):
        x = torch.tensor(X, requires_grad=True)
        logits = module(x)
        logits.sum().backward()
        results.append((logits.detach(), x.grad))
    for compiled, expected in zip(results[1], results[0], strict=True):
        assert torch.equal(compiled, expected)


class _CudaTensor(torch.Tensor):
    is_cuda = True


def test_bad_input_is_named():
    *_, X, classifier = _problem()
    module = MFAModule(classifier, (3, 4))
    x = torch.tensor(X)
    with pytest.raises(CudaUnavailableError, match="CUDA"):
        module(x.as_subclass(_CudaTensor))
    with pytest.raises(TypeError, match=r"float32 or float64, got a tensor of torch\.float16"):
        module(x.half())
    with pytest.raises(TypeError, match="float32 or float64, got an object of type ndarray"):
        module(X)
    with pytest.raises(ValueError, match=r"\(n, channels, height, width\)"):
        module(x[0])
    with pytest.raises(ValueError, match=r"images of shape \(3, 4\), got shape \(10, 1, 4, 3\)"):
        module(x.reshape(-1, 1, 4, 3))
    with pytest.raises(ValueError, match="11 features"):
        module(x[:, :11])
    with pytest.raises(ValueError, match="NaN"):
        module(torch.full_like(x, torch.nan))
    with pytest.raises(TypeError, match="classifier must be an MFAClassifier, got MFA"):
        MFAModule(classifier.mixtures_[0])
    with pytest.raises(ValueError, match="image_shape must be"):
        MFAModule(classifier, (5, 5))
    with pytest.raises(ValueError, match="image_shape must be"):
        MFAModule(classifier, 12)
    with pytest.raises(ValueError, match="temperature"):
        MFAModule(classifier, temperature=0.0)
