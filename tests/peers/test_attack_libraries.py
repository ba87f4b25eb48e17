"""Attack libraries that drive MFAModule as their users would, without this library's own wrappers."""

import numpy as np
import pytest

from mfa_fast import MFAClassifier
from mfa_fast.attacks import ld_grad
from mfa_fast.datasets import load_digits_pair
from tolerances import LIBRARY_ATTACK

torch = pytest.importorskip("torch", reason="torch is not installed")
from mfa_fast.torch import MFAModule  # noqa: E402

NOISE_STD = 1e-3
# Samples of the model are not confined to [0, 1].
LOW, HIGH = -2.0, 3.0


@pytest.fixture(scope="module")
def problem():
    """A classifier, images (n, 1, 8, 8) of its own, their class indices, and LD-Grad's mean distance."""
    pair = load_digits_pair(0, 6)
    classifier = MFAClassifier(3, 3, random_state=0).fit(pair.X_train, pair.y_train).symmetric(NOISE_STD)
    X, y = classifier.sample(30, random_state=0)
    images = torch.from_numpy(X.astype(np.float32)).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(np.searchsorted(classifier.classes_, y))
    return classifier, images, labels, float(ld_grad(classifier, X, y, steps=10).summary()["mean_l2"])


def _module(classifier):
    return MFAModule(classifier, (8, 8), temperature=1 / NOISE_STD**2)


def _assert_as_near_as_ld_grad(problem, adversarial):
    classifier, images, labels, expected = problem
    rows = np.asarray(adversarial, dtype=np.float64).reshape(len(images), -1)
    predicted = np.searchsorted(classifier.classes_, classifier.predict(rows))
    fooled = predicted != labels.numpy()
    assert fooled.mean() >= 0.9
    distances = np.linalg.norm(rows - images.numpy().reshape(len(images), -1), axis=1)[fooled]
    assert (1 - LIBRARY_ATTACK) * expected <= distances.mean() <= (1 + LIBRARY_ATTACK) * expected


def _foolbox_attack(problem, attack):
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    classifier, images, labels, _ = problem
    model = foolbox.PyTorchModel(_module(classifier), bounds=(LOW, HIGH), device="cpu")
    assert foolbox.accuracy(model, images, labels) == 1.0
    adversarial, _, success = getattr(foolbox.attacks, attack[0])(**attack[1])(model, images, labels, epsilons=None)
    assert success.float().mean() >= 0.9
    return adversarial


def test_carlini_wagner_of_foolbox(problem):
    settings = {"steps": 200, "binary_search_steps": 3, "initial_const": 1.0}
    _assert_as_near_as_ld_grad(problem, _foolbox_attack(problem, ("L2CarliniWagnerAttack", settings)))


def test_ddn_of_foolbox(problem):
    _assert_as_near_as_ld_grad(problem, _foolbox_attack(problem, ("DDNAttack", {})))


def _art_attack(problem, module, make, clip_values=(LOW, HIGH)):
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    from art.estimators.classification import PyTorchClassifier

    _, images, labels, _ = problem
    peer = PyTorchClassifier(
        model=module,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=2,
        clip_values=clip_values,
        device_type="cpu",
    )
    assert np.array_equal(peer.predict(images.numpy()).argmax(axis=1), labels.numpy())
    return make(peer).generate(images.numpy(), labels.numpy())


def test_deep_fool_of_art(problem):
    """On the logits as they are: it divides their difference by its own gradient."""

    def make(peer):
        from art.attacks.evasion import DeepFool

        return DeepFool(peer, max_iter=50, epsilon=1e-3, verbose=False)

    # With clip values it takes its steps that many times as long.
    _assert_as_near_as_ld_grad(problem, _art_attack(problem, MFAModule(problem[0]), make, clip_values=None))


def test_carlini_wagner_of_art(problem):
    def make(peer):
        from art.attacks.evasion import CarliniL2Method

        return CarliniL2Method(
            peer,
            binary_search_steps=3,
            max_iter=30,
            initial_const=1.0,
            learning_rate=0.05,
            batch_size=30,
            verbose=False,
        )

    _assert_as_near_as_ld_grad(problem, _art_attack(problem, _module(problem[0]), make))
