"""Bayes' rule over one mixture of factor analyzers per class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from mfa_fast import _persistence
from mfa_fast._atomic import all_or_nothing
from mfa_fast._fitting import check_hyperparameters
from mfa_fast._kernels import Scorer
from mfa_fast._labels import (
    as_labels,
    check_classes,
    check_comparable,
    check_labels,
    class_indices,
    labels_at,
    naming_class,
)
from mfa_fast._missing import scorer_of
from mfa_fast._outliers import outlier_means
from mfa_fast._parameters import Parameters
from mfa_fast._progress import CallbackSupportMixin, Task, with_callbacks
from mfa_fast._samples import Samples, as_output, as_samples
from mfa_fast._streams import Stream, as_array, as_data, by_blocks, select
from mfa_fast._typing import Array, FloatArray
from mfa_fast._validation import (
    as_random_state,
    as_seed,
    check_flag,
    check_has,
    check_option,
    check_place,
    check_real,
    check_sample_weight,
    check_weights,
    one_line,
)
from mfa_fast.mixture import MFA

__all__ = ["MFAClassifier"]


class MFAClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """One mixture of factor analyzers per class, and Bayes' rule.

    Where the data come from such mixtures, this is with ``rule="sum"`` the best classifier there is: no other makes
    fewer errors. The default, ``"max"``, is the paper's, and differs where components of a class overlap.

    Parameters
    ----------
    n_components : int or sequence of int, default=1
        Of every class's mixture; or one number for each class, in the order of `classes_`.
    n_factors : int, default=1
        Of every class's mixture.
    priors : None, "uniform" or array-like of shape (n_classes,), default=None
        Probabilities of the classes; None for their frequencies in `fit`.
    rule : {"max", "sum"}, default="max"
        The score of a class is the density of its best component, or that of its whole mixture (log-sum-exp).
    noise_type, tied_noise, tol, min_noise_variance, max_iter, n_init, init_params : as in `MFA`
        `tied_noise` ties the components of a class.
    random_state : int, RandomState or None, default=None
        Seed of the fits, and of `sample` where it is given none.
    warm_start, verbose, verbose_interval, n_threads, screening : as in `MFA`
    learning_decay, learning_offset : as in `MFA`
        For `partial_fit`.
    missing : {"error", "marginal"}, default="error"
        As in `MFA`: with "marginal", NaN is a missing value, and scores are of what is observed. Attacks take none.
    device : as in `MFA`

    Attributes
    ----------
    mixtures_ : list of MFA
        In the order of `classes_`.
    classes_ : ndarray of shape (n_classes,)
    priors_ : ndarray of shape (n_classes,)
    class_count_ : ndarray of shape (n_classes,)
        Samples of each class, or their weights, in `fit` or in all calls of `partial_fit`.
    n_iter_ : int
        Of the mixture that took the most iterations.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had column names.

    Notes
    -----
    Callbacks of scikit-learn (1.9 on) see the fit of each class, and those that are propagated, as progress bars are,
    also what `MFA` tells them of it.

    Richardson & Weiss, A Bayes-optimal view on adversarial examples, JMLR 22(221), 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFAClassifier
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> classifier = MFAClassifier(n_components=3, n_factors=2, random_state=0).fit(X / 16, y)
    >>> float(classifier.score(X / 16, y))
    1.0
    """

    mixtures_: list[MFA]
    classes_: Array
    priors_: FloatArray

    def __init__(
        self,
        n_components: int | Sequence[int] = 1,
        n_factors: int = 1,
        *,
        priors: Any = None,
        rule: Literal["max", "sum"] = "max",
        noise_type: Literal["spherical", "diag"] = "spherical",
        tied_noise: bool = False,
        tol: float = 1e-3,
        min_noise_variance: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Literal["kmeans", "k-means++", "random_from_data", "random"] = "kmeans",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        n_threads: int | None = None,
        screening: bool = True,
        learning_decay: float = 0.7,
        learning_offset: float = 2.0,
        missing: Literal["error", "marginal"] = "error",
        device: Literal["cpu", "cuda"] | None = None,
    ) -> None:
        self.n_components = n_components
        self.n_factors = n_factors
        self.priors = priors
        self.rule = rule
        self.noise_type = noise_type
        self.tied_noise = tied_noise
        self.tol = tol
        self.min_noise_variance = min_noise_variance
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.n_threads = n_threads
        self.screening = screening
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.missing = missing
        self.device = device

    # ------------------------------------------------------------------------------------------------ fitting

    @all_or_nothing
    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit one mixture to the samples of each class.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)
            A stream as in `MFA.fit`.
        y : array-like of shape (n_samples,)
            Class labels, of two classes at least.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts, in its class's mixture and in the frequency of the class.

        Returns
        -------
        self : MFAClassifier

        Raises
        ------
        ValueError
            If X or y is not as described, or a class has fewer samples than components.
        """
        data = as_data(X, estimator=self, reset=True)
        labels = check_labels(y, len(data))
        weights = check_sample_weight(sample_weight, len(data))
        classes, indices = np.unique(labels, return_inverse=True)

        def fit_class(c: int, mixture: MFA) -> None:
            members = indices == c
            mixture.fit(select(data, members), sample_weight=None if weights is None else weights[members])

        self._fit(
            classes,
            np.bincount(indices),
            np.bincount(indices, weights),
            fit_class,
            begin=lambda n_classes: Task.fit(self, n_classes, X, y, sample_weight),
        )
        return self

    def _fit(
        self,
        classes: Array,
        sizes: NDArray[np.int64],
        counts: NDArray[np.generic],
        fit_class: Callable[[int, MFA], None],
        begin: Callable[[int], Task],
    ) -> None:
        """Do what `fit` does, for samples that may be elsewhere.

        Of each class there are so many samples, which weigh `counts`; `fit_class` fits a mixture to those of one, and
        `begin` is what is told of so many classes.
        """
        check_option("rule", self.rule, ("max", "sum"))
        if len(classes) < 2:
            msg = f"y must hold at least two classes, got only one class: {classes.tolist()}."
            raise ValueError(msg)
        priors = self._fit_priors(counts)

        previous = self.mixtures_ if self.warm_start and hasattr(self, "mixtures_") else []
        going_on = len(previous) == len(classes) and np.array_equal(self.classes_, classes)
        rng = as_random_state(self.random_state)
        parameters = self._parameters_of_mixtures(len(classes))
        for own in parameters:
            check_hyperparameters(MFA(**own))
        task = begin(len(classes))
        mixtures = []
        for c, (label, own) in enumerate(zip(classes, parameters, strict=True)):
            own["random_state"] = int(rng.randint(2**31))
            # A copy: if the fit fails, the classifier is to stay what it was.
            mixture = copy(previous[c]).set_params(**own) if going_on else MFA(**own)
            with naming_class(label, int(sizes[c])) as name, task.fit_of(name, mixture):
                fit_class(c, mixture)
            mixtures.append(mixture)
        self.classes_, self.priors_, self.mixtures_ = classes, priors, mixtures
        self.class_count_ = counts.astype(np.float64)
        self.n_iter_ = max(m.n_iter_ for m in mixtures)
        self._name_features()
        task.end(dict)

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Move every class's mixture by one step of stepwise EM, as `MFA.partial_fit` does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The first batch has samples of all classes, of each as many as components at least.
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), default=None
            All classes there are; to be given in the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts.

        Returns
        -------
        self : MFAClassifier
            Without `priors`, `priors_` are the frequencies in all samples so far, `class_count_`.

        Raises
        ------
        ValueError
            If an argument is not as described, or y has labels that are not among the classes.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from mfa_fast import MFAClassifier
        >>> X, y = load_digits(n_class=2, return_X_y=True)
        >>> classifier = MFAClassifier(n_components=2, n_factors=2, random_state=0)
        >>> for start in range(0, 300, 60):
        ...     batch = slice(start, start + 60)
        ...     classifier = classifier.partial_fit(X[batch] / 16, y[batch], classes=[0, 1])
        >>> float(classifier.score(X[300:] / 16, y[300:]))
        1.0
        """
        check_option("rule", self.rule, ("max", "sum"))
        fresh = not hasattr(self, "mixtures_")
        samples = as_array(X, estimator=self, reset=fresh)
        labels = check_classes(classes) if fresh else self.classes_
        if not fresh and classes is not None:
            given = check_classes(classes)
            if not np.array_equal(given, np.sort(labels)):  # those of `from_mixtures` are in any order
                msg = f"classes must be those of the first call, {labels.tolist()}, got {given.tolist()}."
                raise ValueError(msg)
        indices = class_indices(labels, y, len(samples))
        weights = check_sample_weight(sample_weight, len(samples))
        counts = np.bincount(indices, weights, len(labels)).astype(np.float64)
        total = counts + getattr(self, "class_count_", 0.0)
        priors = self._fit_priors(total)

        rng = as_random_state(self.random_state) if fresh else None
        mixtures = []
        for c, (label, own) in enumerate(zip(labels, self._parameters_of_mixtures(len(labels)), strict=True)):
            members = np.flatnonzero(indices == c)
            if rng is None:
                own["random_state"] = self.mixtures_[c].random_state
                # A copy: if a step fails, the classifier is to stay what it was.
                mixture = copy(self.mixtures_[c]).set_params(**own)
            else:
                own["random_state"] = int(rng.randint(2**31))
                mixture = MFA(**own)
            if fresh or counts[c] > 0:
                shares = None if weights is None else weights[members]
                with naming_class(label, len(members)):
                    mixture.partial_fit(samples.take(members), sample_weight=shares)
            mixtures.append(mixture)
        self.classes_, self.priors_, self.mixtures_ = labels, priors, mixtures
        self.class_count_ = total
        self._name_features()
        return self

    def _parameters_of_mixtures(self, n_classes: int) -> list[dict[str, Any]]:
        """Return the parameters of every class's mixture: the classifier's, and its own number of components."""
        shared = {k: v for k, v in self.get_params(deep=False).items() if k not in ("priors", "rule")}
        sizes: Any = self.n_components
        if isinstance(sizes, np.ndarray):
            sizes = sizes.tolist()  # one number, if it has no dimension
        if isinstance(sizes, str) or not isinstance(sizes, Sequence):
            return [shared | {"n_components": sizes} for _ in range(n_classes)]
        if len(sizes) != n_classes:
            msg = f"n_components must be an integer, or one for each of the {n_classes} classes; got {sizes!r}."
            raise ValueError(msg)
        return [shared | {"n_components": size} for size in sizes]

    def _name_features(self) -> None:
        """Let the mixtures know the names of the features: they were fitted to what had none left."""
        if hasattr(self, "feature_names_in_"):
            for mixture in self.mixtures_:
                mixture.feature_names_in_ = self.feature_names_in_

    def _fit_priors(self, counts: Array) -> FloatArray:
        if self.priors is None:
            return np.asarray(counts / counts.sum(), dtype=np.float64)
        return _check_priors(self.priors, len(counts))

    @classmethod
    def from_mixtures(
        cls,
        mixtures: Sequence[MFA],
        classes: Any = None,
        priors: Any = None,
        rule: Literal["max", "sum"] = "max",
    ) -> Self:
        """Make a classifier of fitted mixtures.

        Parameters
        ----------
        mixtures : sequence of MFA
            Two or more, of the same number of features. The classifier has the other parameters of the first.
        classes : array-like of shape (n_classes,), default=None
            Distinct labels in the order of `mixtures`; None for 0, 1, ...
        priors : None, "uniform" or array-like of shape (n_classes,), default=None
            None means uniform, as there are no frequencies.
        rule : {"max", "sum"}, default="max"

        Returns
        -------
        classifier : MFAClassifier

        Raises
        ------
        ValueError, TypeError
            If the mixtures are not fitted MFA of the same features, or there are not as many labels or priors.

        Examples
        --------
        >>> import numpy as np
        >>> from mfa_fast import MFA, MFAClassifier
        >>> left = MFA.from_parameters([1.0], [[-1.0, 0.0]], np.zeros((1, 0, 2)), 1.0)
        >>> right = MFA.from_parameters([1.0], [[1.0, 0.0]], np.zeros((1, 0, 2)), 1.0)
        >>> MFAClassifier.from_mixtures([left, right], classes=["left", "right"]).predict([[0.3, 5.0]])
        array(['right'], dtype='<U5')
        """
        if not isinstance(mixtures, Iterable):
            msg = f"mixtures must be a list of fitted MFA, one for each class, got {type(mixtures).__name__}."
            raise TypeError(msg)
        models = list(mixtures)
        if len(models) < 2:
            msg = f"mixtures must hold two or more, got {len(models)}."
            raise ValueError(msg)
        for c, model in enumerate(models):
            if not isinstance(model, MFA):
                msg = f"mixtures must be MFA estimators, got {type(model).__name__}."
                raise TypeError(msg)
            check_is_fitted(model, msg=f"mixtures must be fitted, and mixture {c} of them is not; call its fit first.")
        widths = {model.means_.shape[1] for model in models}
        if len(widths) > 1:
            msg = f"mixtures must have the same number of features, got {sorted(widths)}."
            raise ValueError(msg)
        names = [model.feature_names_in_.tolist() for model in models if hasattr(model, "feature_names_in_")]
        if any(own != names[0] for own in names):
            other = next(own for own in names if own != names[0])
            msg = (
                f"mixtures must have the same names of features in the same order, got {one_line(names[0])} and "
                f"{one_line(other)}; fit them to frames with the same columns."
            )
            raise ValueError(msg)
        labels = np.arange(len(models)) if classes is None else as_labels("classes", classes)
        if len(labels) != len(models) or len(np.unique(labels)) < len(models):
            msg = f"classes must be {len(models)} distinct labels, one per mixture, got {labels.tolist()}."
            raise ValueError(msg)
        first = models[0]
        classifier = cls(priors=priors, rule=rule)
        shared = first.get_params(deep=False)
        classifier.set_params(**{name: shared[name] for name in classifier.get_params(deep=False) if name in shared})
        classifier.n_components = _one_or_each([len(model.weights_) for model in models])
        classifier.n_factors = first.loadings_.shape[1]
        check_option("rule", rule, ("max", "sum"))
        classifier.mixtures_ = models
        classifier.classes_ = labels
        classifier.priors_ = _check_priors("uniform" if priors is None else priors, len(models))
        classifier.n_features_in_ = widths.pop()
        if hasattr(first, "feature_names_in_"):
            classifier.feature_names_in_ = first.feature_names_in_
        return classifier

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn whether NaN is taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "marginal"
        return tags

    # ------------------------------------------------------------------------------------------------ evaluation

    def _parameters(self) -> list[Parameters]:
        check_has(self, "mixtures_")
        return [m._parameters() for m in self.mixtures_]

    def _scorer(self, data: Samples | Stream | None = None) -> Scorer:
        # Here, since all that go by the rule ask for it: it may have been set since the fit.
        check_option("rule", self.rule, ("max", "sum"))
        return scorer_of(self, self._parameters(), None if data is None else data.device)

    def _samples(self, X: Any) -> Samples:
        check_has(self, "mixtures_")
        return as_samples(X, estimator=self)

    def log_priors(self) -> FloatArray:
        """Return the logarithms of `priors_`; -inf where one is 0.

        Returns
        -------
        log_priors : ndarray of shape (n_classes,)
        """
        check_has(self, "mixtures_")
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(self.priors_, dtype=np.float64))

    def _log_likelihoods(self, samples: Samples) -> Any:
        return self._scorer(samples).log_likelihoods(samples, sum_rule=self.rule == "sum")

    def _class_scores(self, samples: Samples) -> Any:
        return self._scorer(samples).scores(samples, self.log_priors(), sum_rule=self.rule == "sum")

    def _class_indices(self, samples: Samples) -> Any:
        return self._scorer(samples).classify(samples, self.log_priors(), sum_rule=self.rule == "sum")

    @by_blocks
    def predict(self, X: Any) -> Any:
        """Return the class of highest score for each sample; the first in `classes_` on a tie.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Of the kind of X where labels are numbers; else a NumPy array.
        """
        samples = self._samples(X)
        return labels_at(samples, self.classes_, self._class_indices(samples))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy: the part of the samples whose class is predicted, by weight if there are weights.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts.

        Returns
        -------
        accuracy : float
        """
        check_is_fitted(self)
        data = as_data(X, estimator=self)
        labels = check_labels(y, len(data))
        check_comparable(labels, self.classes_)
        weights = check_sample_weight(sample_weight, len(data))
        if isinstance(data, Samples):
            predicted = self.classes_[data.fetch(self._class_indices(data))]
        else:
            predicted = self.predict(data)
        return float(accuracy_score(labels, predicted, sample_weight=weights))

    @by_blocks
    def decision_function(self, X: Any) -> Any:
        """Return the scores of the classes, log prior included.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes the score of ``classes_[1]`` minus that of ``classes_[0]``, in nats.

        Examples
        --------
        >>> from mfa_fast.datasets import gaussian_toy
        >>> classifier = gaussian_toy("spherical", robust=True)  # means -4 and 4 along the first axis, variance 1
        >>> classifier.decision_function([[-4.0, 0.0], [0.0, 7.0], [1.0, 0.0]])
        array([-32.,   0.,   8.])
        """
        samples = self._samples(X)
        scores = self._class_scores(samples)
        if scores.shape[1] == 2:
            scores = scores[:, 1] - scores[:, 0]
        return samples.rounded(scores)

    @by_blocks
    def predict_proba(self, X: Any) -> Any:
        """Return the classes' posterior probabilities under the rule.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        samples = self._samples(X)
        return samples.rounded(samples.arrays.softmax(self._class_scores(samples)))

    @by_blocks
    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of `predict_proba`, which do not underflow.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)

        Examples
        --------
        >>> from mfa_fast.datasets import gaussian_toy
        >>> classifier = gaussian_toy("spherical", robust=True)  # means -4 and 4 along the first axis, variance 1
        >>> classifier.predict_log_proba([[100.0, 0.0]])
        array([[-800.,    0.]])
        """
        samples = self._samples(X)
        return samples.rounded(samples.arrays.log_softmax(self._class_scores(samples)))

    @by_blocks
    def class_log_likelihood(self, X: Any) -> Any:
        """Return log p(x | class) under the rule, in nats.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples, n_classes)
            With ``rule="sum"`` the log-sum-exp over the class's components; with ``"max"`` the largest of them, which
            is lower by at most log n_components. The whole mixture's is ``mixtures_[c].score_samples(X)``.

        Examples
        --------
        >>> from mfa_fast.datasets import gaussian_toy
        >>> classifier = gaussian_toy("spherical", robust=True)  # means -4 and 4 along the first axis, variance 1
        >>> classifier.class_log_likelihood([[4.0, 0.0]]).round(2)
        array([[-33.84,  -1.84]])
        """
        samples = self._samples(X)
        return samples.rounded(self._log_likelihoods(samples))

    # ------------------------------------------------------------------------------------------------ sampling

    def sample(
        self, n_samples: int = 1, *, noise: bool = True, random_state: Any = None, start: int = 0, out: Any = None
    ) -> tuple[Any, Any]:
        """Draw samples and their classes, with classes drawn from the priors.

        Parameters
        ----------
        n_samples : int, default=1
        noise : bool, default=True
            Without it, samples lie in the affine subspaces of the components: what people look at.
        random_state : int, RandomState, Generator or None, default=None
            A non-negative integer is the seed itself; None takes the classifier's `random_state`.
        start : int, default=0
            Index of the first sample: sample i of a seed is a function of the seed and of i alone.
        out : array of shape (n_samples, n_features), default=None
            Where the samples are written: a NumPy array, a torch tensor or a CuPy array of float32 or float64, in
            CUDA memory too. None makes a NumPy array.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            In the dtype of the parameters, or `out`.
        y : ndarray of shape (n_samples,)
            Labels from `classes_`.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described; the message names it.

        Examples
        --------
        >>> from mfa_fast.datasets import gaussian_toy
        >>> classifier = gaussian_toy("spherical", robust=True)
        >>> X, y = classifier.sample(5, random_state=0)
        >>> bool((X[3:] == classifier.sample(2, random_state=0, start=3)[0]).all())
        True
        """
        parameters = self._parameters()
        dtype = np.result_type(*(p.means.dtype for p in parameters))
        n, start = check_place(n_samples, start)
        check_flag("noise", noise)
        target = as_output(out, (n, int(parameters[0].means.shape[1])), dtype, self.device)
        scorer = self._scorer(target)
        components = scorer.sample(
            target,
            weights=np.concatenate([prior * p.weights for prior, p in zip(self.priors_, parameters, strict=True)]),
            seed=as_seed(self.random_state if random_state is None else random_state),
            start=start,
            noise=bool(noise),
        )
        labels = labels_at(target, np.repeat(self.classes_, np.diff(scorer.groups)), components)
        return target.data if out is None else out, labels

    # ------------------------------------------------------------------------------------------------ variations

    def symmetric(self, noise_std: float = 1e-3, *, uniform_weights: bool = False) -> Self:
        """Return a copy in which every noise variance is ``noise_std**2``.

        Its samples are the paper's symmetric data: all classes and directions off the subspaces are alike.

        Parameters
        ----------
        noise_std : float, default=1e-3
            In units of X.
        uniform_weights : bool, default=False
            Whether the components of a class also get the same weight.

        Returns
        -------
        classifier : MFAClassifier

        Raises
        ------
        ValueError, TypeError
            If `noise_std` is not above 0, or its square is out of the range of the parameters' dtype.

        Examples
        --------
        >>> from mfa_fast import MFAClassifier
        >>> from mfa_fast.datasets import load_digits_pair
        >>> digits = load_digits_pair(0, 6)
        >>> fitted = MFAClassifier(5, 4, random_state=0).fit(digits.X_train, digits.y_train)
        >>> bayes = fitted.symmetric(noise_std=0.01)
        >>> X, y = bayes.sample(100, random_state=0)
        >>> bayes.score(X, y)
        1.0
        """
        check_is_fitted(self)
        variance = _variance("noise_std", noise_std, self.mixtures_[0].noise_variance_.dtype)
        check_flag("uniform_weights", uniform_weights)

        def change(p: Parameters) -> Parameters:
            weights = np.full_like(p.weights, 1.0 / len(p.weights)) if uniform_weights else p.weights.copy()
            return Parameters(weights, p.means.copy(), p.loadings.copy(), np.full_like(p.noise_variance, variance))

        return self._with_mixtures([change(p) for p in self._parameters()])

    def asymmetric(
        self,
        X: Any,
        *,
        component: int = 50,
        noise_std: float = 0.5,
        offset: float = 1.0,
        weight: float | None = None,
        base_noise_std: float = 1e-3,
    ) -> Self:
        """Return the symmetric copy with one spherical outlier component more in each of its two classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data whose mean and principal directions place the outliers.
        component : int, default=50
            Which principal direction, counted from 1.
        noise_std : float, default=0.5
            Noise of the outlier components, which have no loadings; in units of X.
        offset : float, default=1.0
            How far their means are from the mean of X, in standard deviations along the direction: plus in
            ``classes_[0]``, minus in ``classes_[1]``.
        weight : float or None, default=None
            Of an outlier component in its class; None for 1 / (K + 1).
        base_noise_std : float, default=1e-3
            Noise of all other components; in units of X. On MNIST 0-6, 0.01 gives the paper's distance.

        Returns
        -------
        classifier : MFAClassifier

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described, X has NaN or no such direction, or there are other than two classes.

        Examples
        --------
        >>> from mfa_fast import MFAClassifier
        >>> from mfa_fast.datasets import load_digits_pair
        >>> digits = load_digits_pair(0, 6)
        >>> fitted = MFAClassifier(5, 4, random_state=0).fit(digits.X_train, digits.y_train)
        >>> bayes = fitted.asymmetric(digits.X_train, component=16)
        >>> bayes.mixtures_[0].noise_variance_[:, 0] ** 0.5
        array([0.001, 0.001, 0.001, 0.001, 0.001, 0.5  ], dtype=float32)
        """
        check_is_fitted(self)
        dtype = self.mixtures_[0].noise_variance_.dtype
        _variance("base_noise_std", base_noise_std, dtype)  # under its own name
        symmetric = self.symmetric(base_noise_std)
        variance = _variance("noise_std", noise_std, dtype)
        if len(self.classes_) != 2:
            msg = f"asymmetric needs a classifier of two classes, this one has {len(self.classes_)}."
            raise ValueError(msg)
        if weight is not None:
            check_real("weight", weight, least=0.0, most=1.0)
        means = outlier_means(self._samples(X), component, offset, dtype)

        def change(p: Parameters, mean: Array) -> Parameters:
            share = 1.0 / (len(p.weights) + 1) if weight is None else float(weight)
            return Parameters(
                np.append(p.weights * (1.0 - share), share).astype(p.weights.dtype),
                np.vstack([p.means, mean]).astype(p.means.dtype),
                np.concatenate([p.loadings, np.zeros_like(p.loadings[:1])]),
                np.vstack([p.noise_variance, np.full_like(p.noise_variance[:1], variance)]),
            )

        return self._with_mixtures([change(p, mean) for p, mean in zip(symmetric._parameters(), means, strict=True)])

    def _with_mixtures(self, parameters: Sequence[Parameters]) -> Self:
        changed = clone(self)
        changed.classes_, changed.priors_ = self.classes_.copy(), self.priors_.copy()
        changed.n_features_in_ = self.n_features_in_
        if hasattr(self, "feature_names_in_"):
            changed.feature_names_in_ = self.feature_names_in_
        changed.mixtures_ = [
            MFA.from_parameters(*p.arrays()).set_params(
                n_threads=m.n_threads, screening=m.screening, missing=m.missing, device=m.device
            )
            for p, m in zip(parameters, self.mixtures_, strict=True)
        ]
        changed._name_features()
        sizes = [mixture.n_components for mixture in changed.mixtures_]
        return changed.set_params(n_components=_one_or_each(sizes), noise_type=changed.mixtures_[0].noise_type)

    # ------------------------------------------------------------------------------------------------ persistence

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier as a safetensors file.

        What `MFA.save` leaves out is left out here too.

        Parameters
        ----------
        path : path
            Of the file, which is replaced if there is one.

        Raises
        ------
        TypeError
            If the labels are objects, which have no place in such a file.
        """
        check_is_fitted(self)
        classes = self.classes_
        if classes.dtype == object and all(isinstance(label, str) for label in classes):
            classes = classes.astype(str)
        if classes.dtype.kind not in "biufU":
            msg = f"classes_ of dtype {classes.dtype} cannot be saved; use numbers or strings as labels."
            raise TypeError(msg)
        arrays: dict[str, Array] = {"priors": self.priors_}
        for c, mixture in enumerate(self.mixtures_):
            arrays |= _persistence.arrays_of(mixture, f"{c}.")
        header = {
            "parameters": _persistence.plain_parameters(self),
            "classes": classes.tolist(),
            "classes_dtype": self.classes_.dtype.str,
            "mixtures": [_persistence.header_of(m) for m in self.mixtures_],
        }
        if hasattr(self, "class_count_"):
            header["class_count"] = self.class_count_.tolist()
        _persistence.write(path, "mfa_fast.MFAClassifier", arrays, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a classifier that `save` wrote.

        Parameters
        ----------
        path : path
            Of the file.

        Returns
        -------
        classifier : MFAClassifier

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is not a whole model.
        """
        arrays, header = _persistence.read(path, "mfa_fast.MFAClassifier")
        with _persistence.whole(path):
            mixtures = [
                _persistence.restore(MFA, path, arrays, one, f"{c}.") for c, one in enumerate(header["mixtures"])
            ]
            classes = np.array(header["classes"], dtype=header["classes_dtype"])
            classifier = cls.from_mixtures(mixtures, classes, arrays["priors"]).set_params(**header["parameters"])
        if "class_count" in header:
            classifier.class_count_ = np.array(header["class_count"])
        iterations = [m.n_iter_ for m in mixtures if hasattr(m, "n_iter_")]
        if iterations:
            classifier.n_iter_ = max(iterations)
        return classifier


def _one_or_each(sizes: Sequence[int]) -> int | tuple[int, ...]:
    """Return what `n_components` of a classifier is whose mixtures have so many components."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def _check_priors(priors: Any, n_classes: int) -> FloatArray:
    """Return priors (n_classes,) of "uniform" or an array."""
    if isinstance(priors, str):
        if priors != "uniform":
            msg = f"priors must be None, 'uniform' or an array of {n_classes} probabilities; got {priors!r}."
            raise ValueError(msg)
        return np.full(n_classes, 1.0 / n_classes)
    if np.ndim(priors) == 0:
        msg = f"priors must be None, 'uniform' or an array of {n_classes} probabilities; got {priors!r}."
        raise ValueError(msg)
    return check_weights(priors, n_classes, "priors")


def _variance(name: str, noise_std: Any, dtype: np.dtype[Any]) -> float:
    std = check_real(name, noise_std, above=0.0)
    with np.errstate(over="ignore", under="ignore"):
        held = float(dtype.type(std * std))
    if not 0.0 < held < np.inf:
        msg = f"{name} must have a square that {dtype} can hold, got {noise_std}."
        raise ValueError(msg)
    return std * std
