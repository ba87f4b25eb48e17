"""Iterative attacks of Foolbox, as a cross-check of the closed forms and for models that have none."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from mfa_fast._validation import check_flag, check_integer, check_real
from mfa_fast.attacks.result import AttackResult

if TYPE_CHECKING:
    from mfa_fast.attacks._foolbox import Bounds


def cw_l2(
    model: Any,
    X: Any,
    y: Any = None,
    *,
    iterations: int = 500,
    binary_search_steps: int = 3,
    learning_rate: float = 0.01,
    abort_early: bool = False,
    clip: tuple[float | None, float | None] | None = None,
    batch_size: int = 256,
) -> AttackResult:
    r"""Move samples out of their class by Carlini & Wagner's attack, as Foolbox has it.

    Adam minimizes :math:`|\delta|^2 + c \max(0, f(x + \delta))`, f being the gap by which the logit of the sample's
    class leads; a search over c, per sample, finds how little of f it takes. The nearest adversarial example that any
    iteration comes by is returned.

    Parameters
    ----------
    model : MFAClassifier, LinearSVC, SVC, Pipeline, torch.nn.Module, or an object with such a module as `network`
        As in `ld_grad`, or a torch module that maps samples (n, ...) to logits (n, n_classes), with parameters of
        float32 or float64; labels are then the module's `classes_` if it has such an attribute, else 0, 1, ....
    X : array-like of shape (n_samples, n_features), or (n_samples, ...) for a torch module
    y : array-like of shape (n_samples,), default=None
        The classes that the samples are to leave; None for those that the model predicts.
    iterations : int, default=500
        Steps of Adam for each c.
    binary_search_steps : int, default=3
        Number of values of c.
    learning_rate : float, default=0.01
        Of Adam, for images in [0, 1]; in general relative to the range of X.
    abort_early : bool, default=False
        Whether to go on to the next c once the sum over the batch has not fallen for a tenth of the iterations. It
        takes about a third of the time, and the samples of a batch then depend on each other.
    clip : (low, high), default=None
        Bounds for the entries of X_adv, for example ``(0, 1)``, within which X must lie; None leaves as much room on
        either side as the range of X.
    batch_size : int, default=256
        Samples that are attacked at once.

    Returns
    -------
    result : AttackResult
        `X_adv` is of X's shape, and of the dtype of the module's parameters where it has any, else float32 where X is,
        else float64. Where no adversarial example was found it is the sample itself. `success` and `l2` are measured
        on it. `n_steps` counts gradients.

    Raises
    ------
    ImportError
        If Foolbox or torch is not installed.
    ValueError, TypeError, NotFittedError
        If an argument is not as described; the message names it.

    Notes
    -----
    The attack suits logits of networks: Foolbox's first c is 0.001, and a search in three steps does not come far. The
    logits of an MFA lie :math:`10^6` nats apart at a noise of 0.001. So here the first c is
    :math:`2 f / |\nabla f|^2`, per sample, with f and its gradient at the sample itself: were f linear, the penalty's
    gradient would balance that of :math:`|\delta|^2` on the surface. That is the same for whatever the logits are
    multiplied by. On MFA models of MNIST the result differs by less than 0.1 % whether this is taken 4 times as large
    or half as large.

    N. Carlini, D. Wagner: Towards evaluating the robustness of neural networks, IEEE S&P 2017. J. Rauber et al.:
    Foolbox Native, JOSS 5(53), 2020. The defaults are those of Richardson & Weiss, appendix C.1.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFAClassifier, attacks
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> classifier = MFAClassifier(n_components=3, n_factors=2, random_state=0).fit(X / 16, y).symmetric(0.01)
    >>> X_new, y_new = classifier.sample(20, random_state=0)
    >>> cw = attacks.cw_l2(classifier, X_new, y_new, iterations=100).summary()
    >>> closed_form = attacks.ld_grad(classifier, X_new, y_new).summary()
    >>> cw["success_rate"], abs(cw["mean_l2"] / closed_form["mean_l2"] - 1) < 0.15
    (1.0, True)
    """
    check_integer("iterations", iterations, 1)
    check_integer("binary_search_steps", binary_search_steps, 1)
    check_real("learning_rate", learning_rate, above=0.0)
    check_flag("abort_early", abort_early)
    bridge = _bridge("cw_l2")

    def make(bounds: Bounds) -> Any:
        return bridge.L2CarliniWagnerAttack(
            binary_search_steps=int(binary_search_steps),
            steps=int(iterations),
            # Foolbox's steps are relative to the box.
            stepsize=float(learning_rate) / bounds.widths,
            initial_const=1.0,
            abort_early=bool(abort_early),
        )

    return bridge.attack(make, lambda gap, square: 2.0 * gap / square, model, X, y, clip=clip, batch_size=batch_size)


def ddn(
    model: Any,
    X: Any,
    y: Any = None,
    *,
    steps: int = 100,
    init_epsilon: float = 1.0,
    gamma: float = 0.05,
    clip: tuple[float | None, float | None] | None = None,
    batch_size: int = 256,
) -> AttackResult:
    r"""Move samples out of their class by the decoupled direction and norm attack, as Foolbox has it.

    A step along the normalized gradient, then back to a sphere about the sample whose radius shrinks while the point is
    adversarial and grows while it is not. Some ten times as fast as `cw_l2`.

    Parameters
    ----------
    model, X, y : as in `cw_l2`
    steps : int, default=100
        Number of steps, all of which are taken.
    init_epsilon : float, default=1.0
        The first radius, in units of X.
    gamma : float, default=0.05
        By what fraction the radius changes in each step.
    clip, batch_size : as in `cw_l2`

    Returns
    -------
    result : AttackResult
        As that of `cw_l2`.

    Raises
    ------
    ImportError
        If Foolbox or torch is not installed.
    ValueError, TypeError, NotFittedError
        If an argument is not as described; the message names it.

    Notes
    -----
    The loss is the cross-entropy, whose gradient is 0 in float32 where logits lie more than a hundred nats apart. Each
    sample's logits are divided by the gap f with which its class leads; the direction of the gradient is the same.

    J. Rony et al.: Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses,
    CVPR 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.svm import LinearSVC
    >>> from mfa_fast import attacks
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> svm = LinearSVC(random_state=0).fit(X / 16, y)
    >>> attacks.ddn(svm, X[:20] / 16, y[:20]).summary()["success_rate"]
    1.0
    """
    check_integer("steps", steps, 1)
    check_real("init_epsilon", init_epsilon, above=0.0)
    check_real("gamma", gamma, above=0.0, below=1.0)
    bridge = _bridge("ddn")

    def make(_: Bounds) -> Any:
        return bridge.DDNAttack(steps=int(steps), init_epsilon=float(init_epsilon), gamma=float(gamma))

    return bridge.attack(make, lambda gap, _: 1.0 / gap, model, X, y, clip=clip, batch_size=batch_size)


def _bridge(name: str) -> ModuleType:
    try:
        from mfa_fast.attacks import _foolbox
    except ImportError as error:
        msg = f"attacks.{name} needs Foolbox and torch ({error}); install them with: pip install 'mfa_fast[attacks]'"
        raise ImportError(msg) from None
    return _foolbox
