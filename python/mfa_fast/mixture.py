"""Mixture of factor analyzers: a Gaussian mixture whose covariances are low rank plus diagonal."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted

from mfa_fast import _persistence
from mfa_fast._atomic import all_or_nothing
from mfa_fast._diagnosis import Fault, find_faults, round_parameters, warn, warn_of_faults
from mfa_fast._em import Expectation, add_log_likelihoods, e_step, m_step
from mfa_fast._fitting import (
    FindSamples,
    Run,
    check_hyperparameters,
    check_rows,
    check_shape,
    first_parameters,
    in_units_of_samples,
    noise_model,
    run_em,
    samples_to_start_from,
)
from mfa_fast._kernels import Scorer
from mfa_fast._memory import scoring_rows
from mfa_fast._missing import MarginalScorer, scorer_of
from mfa_fast._parameters import Parameters
from mfa_fast._progress import CallbackSupportMixin, Task, with_callbacks
from mfa_fast._samples import Samples, as_output, as_samples
from mfa_fast._statistics import Statistics, Sums
from mfa_fast._stepwise import implied_sums, step, step_size
from mfa_fast._streams import Stream, as_array, as_data, by_blocks
from mfa_fast._typing import Array
from mfa_fast._validation import (
    as_random_state,
    as_seed,
    check_flag,
    check_has,
    check_noise_variance,
    check_parameters,
    check_place,
    check_sample_weight,
    check_threads,
)
from mfa_fast.conditional import Conditional

__all__ = ["MFA"]


class MFA(CallbackSupportMixin, DensityMixin, BaseEstimator):
    """Mixture of factor analyzers.

    Sample x comes from component k with probability ``weights_[k]``, and then
    ``x = loadings_[k].T @ z + means_[k] + noise`` with factors z standard normal and independent noise of variance
    ``noise_variance_[k]``. So every component is a Gaussian whose covariance is low rank plus diagonal, with as many
    parameters as there are pixels times factors, not pixels squared: it can be fitted to, and evaluated on, whole
    images.

    Parameters
    ----------
    n_components : int, default=1
        Number of components, K.
    n_factors : int, default=1
        Number of factors of each component, L; 0 gives a mixture of diagonal Gaussians.
    noise_type : {"spherical", "diag"}, default="spherical"
        One noise variance for all features of a component (a mixture of probabilistic PCA), or one for each.
    tied_noise : bool, default=False
        Whether all components share their noise variance.
    tol : float, default=1e-3
        EM ends when the mean log-likelihood, in nats per sample, changes by less than this.
    min_noise_variance : float, default=1e-6
        Noise variances do not fall below it; in squared units of X. Nor do they below 1e-12 of what the factors
        explain: float64 has no digits for less.
    max_iter : int, default=100
        Number of EM iterations at most.
    n_init : int, default=1
        Number of starts, of which the best is kept.
    init_params : {"kmeans", "k-means++", "random_from_data", "random"}, default="kmeans"
        How the first clusters are found, in a subspace of principal components: by k-means, by its seeding alone,
        around random samples, or at random.
    weights_init, means_init, loadings_init, noise_variance_init : array-like, default=None
        First parameters, in place of those that would come from the clusters.
    random_state : int, RandomState or None, default=None
        Seed of the starts, and of `sample` where it is given none.
    warm_start : bool, default=False
        Whether `fit` goes on from the parameters of the last one, if they are of as many components, factors and
        features; else it starts anew.
    verbose : int or bool, default=0
        1, or True, prints the mean log-likelihood now and then, 2 also the time.
    verbose_interval : int, default=10
        Number of iterations between two such lines.
    n_threads : int or None, default=None
        Number of threads; None for as many as ``OMP_NUM_THREADS`` says, or all cores. Results do not depend on it.
    screening : bool, default=True
        Whether components that provably do not matter to a result are left out of its arithmetic. Without it, results
        are the same to the tolerance below, and take longer.
    learning_decay : float, default=0.7
        How fast the batches of `partial_fit` count less, in (0.5, 1]: the smaller, the sooner the first are forgotten.
    learning_offset : float, default=2.0
        By how many batches that is put off: the larger, the less the second and those after it count.
    missing : {"error", "marginal"}, default="error"
        What NaN in X is: an error, or a missing value. With "marginal", fitting and all that is computed of X use the
        density of what each sample has, which is exact where values are missing at random. See Notes.
    device : {None, "cpu", "cuda"}, default=None
        Where the kernels run. None: where the samples are, which may be a CuPy array or a torch tensor in CUDA memory.
        "cuda": arrays in host memory are streamed through the device in blocks, in every pass over them, whatever their
        size. "cpu": arrays in CUDA memory are copied to the host. Parameters are NumPy arrays everywhere. A row in CUDA
        memory that is not finite may be an error that comes with a later call: `mfa_fast.synchronize`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    means_ : ndarray of shape (n_components, n_features)
    loadings_ : ndarray of shape (n_components, n_factors, n_features)
        ``loadings_[k]`` has the layout of ``FactorAnalysis.components_``.
    noise_variance_ : ndarray of shape (n_components, n_features)
    converged_ : bool
    n_iter_ : int
    lower_bound_ : float
        Mean log-likelihood, in nats per sample, at the last iteration.
    lower_bounds_ : list of float
        The same for every iteration.
    n_steps_ : int
        Number of batches that `partial_fit` has seen, with those that an earlier `fit` was worth; none after `fit`.
    n_samples_seen_ : int
        Number of samples, of positive weight, of the last `fit` and all batches since.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had column names.

    Notes
    -----
    float32 samples give float32 results, right to 1e-5 relative at any noise variance; all others float64, to 1e-10
    where noise has a standard deviation of 1e-7 of the samples' spread or more, as all that `fit` finds has.

    Missing values: rows that lack the same features share what is computed of these, so that few patterns cost little
    more than complete rows; where every row has a pattern of its own, it is O(d L^2 + L^3) per row and component. A
    sample without any feature has the log-density 0 and the mixture's weights as responsibilities; in `fit` and
    `partial_fit` it has no say, and is not counted in the mean that `lower_bound_` is. First parameters are found with
    features' means in place of what is missing. `impute` and `conditional` take NaN whatever `missing` is. Ghahramani &
    Jordan, Supervised learning from incomplete data via an EM approach, 1994.

    Where scikit-learn has callbacks (1.9 on), `set_callbacks` takes them, a progress bar for one. The parts of a fit
    are its starts, and of a start its iterations. A callback whose ``on_fit_task_end`` returns true after an iteration
    ends that start; after a start, it lets no other begin. What was fitted until then is kept, with `converged_` false
    and without a warning.

    Ghahramani & Hinton, The EM algorithm for mixtures of factor analyzers, CRG-TR-96-1, 1996. Tipping & Bishop,
    Mixtures of probabilistic principal component analyzers, Neural Computation 11(2), 1999. Richardson & Weiss, On
    GANs and GMMs, NeurIPS 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFA
    >>> X = load_digits().data / 16
    >>> model = MFA(n_components=10, n_factors=4, random_state=0).fit(X)
    >>> model.loadings_.shape
    (10, 4, 64)
    >>> bool(model.score(X) > MFA(n_components=10, n_factors=0, random_state=0).fit(X).score(X))
    True
    """

    def __init__(
        self,
        n_components: int = 1,
        n_factors: int = 1,
        *,
        noise_type: Literal["spherical", "diag"] = "spherical",
        tied_noise: bool = False,
        tol: float = 1e-3,
        min_noise_variance: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Literal["kmeans", "k-means++", "random_from_data", "random"] = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        loadings_init: Any = None,
        noise_variance_init: Any = None,
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
        self.noise_type = noise_type
        self.tied_noise = tied_noise
        self.tol = tol
        self.min_noise_variance = min_noise_variance
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.loadings_init = loadings_init
        self.noise_variance_init = noise_variance_init
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
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Estimate the parameters by expectation-maximisation.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)
            Any real dtype; what is not float32 or float64 is converted block by block. A stream is an HDF5 dataset, a
            Zarr array, or a sequence of batches (a list, or an object with ``len`` and elements 0, 1, ..., of
            two-dimensional arrays). It is read once per iteration, and gives what the same array in memory gives: with
            missing values up to rounding, else bit for bit.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts: 2 is as good as the sample twice, 0 as good as without it. Only their ratios
            matter. All samples have to be finite, those of weight 0 too.

        Returns
        -------
        self : MFA

        Raises
        ------
        ValueError
            If a parameter or X is not as described; the message names it. The model is then what it was before.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations were not enough, or components lost all their samples, kept a single one, ended
            with no noise above `min_noise_variance`, or lie so far from the origin that X cannot resolve their noise;
            the message names the components and what to do.

        Notes
        -----
        Of more samples than scikit-learn's ``working_memory`` has room for, a random part makes the first parameters.
        With weights in place of repeated samples these are the same, up to rounding and the factors' signs, for up to
        2,000 samples and unless `init_params` draws at random. Leaving out samples of weight 0 changes no bit; with
        missing values, as long as all samples fit into one block (docs/memory.md, M1), else rounding alone.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from mfa_fast import MFA
        >>> X = load_digits().data / 16
        >>> batches = [X[i : i + 100] for i in range(0, len(X), 100)]
        >>> whole, streamed = (MFA(5, 2, tol=0.1, random_state=0).fit(data) for data in (X, batches))
        >>> bool((whole.means_ == streamed.means_).all())
        True
        """
        check_hyperparameters(self)
        data = as_data(X, estimator=self, reset=True)
        check_rows(self, len(data))
        weights, n_samples = in_units_of_samples(sample_weight, len(data))
        shape = check_shape(self, data.n_features, n_samples, weighted=weights is not None)
        n_threads = check_threads(self.n_threads)
        fitted = self._fit(
            shape,
            n_samples,
            data.dtype,
            find_samples=lambda rng: samples_to_start_from(self, data, weights, n_samples, shape, rng),
            expectation=lambda: Expectation(
                data, weights, marginal=self.missing == "marginal", screening=self.screening, n_threads=n_threads
            ),
            begin=lambda n_starts: Task.fit(self, n_starts, X.data if isinstance(X, Samples) else X, y, sample_weight),
        )
        self._warn_of(fitted)
        return self

    def _fit(
        self,
        shape: tuple[int, int, int],
        n_samples: int,
        dtype: Any,
        find_samples: FindSamples,
        expectation: Callable[[], Callable[[Parameters], Statistics]],
        begin: Callable[[int], Task],
    ) -> Parameters:
        """Do what `fit` does, for a number of samples that may be elsewhere, and parameters of shape (K, L, d).

        `find_samples` gives those that the first parameters are made of, with their weights if they have any,
        `expectation` an E-step for each start, and `begin` what is told of so many starts. Returns the parameters in
        float64, for `_warn_of`.
        """
        rng = as_random_state(self.random_state)
        going_on = self.warm_start and hasattr(self, "means_") and self.loadings_.shape == shape
        n_starts = 1 if going_on else int(self.n_init)
        task = begin(n_starts)
        best: Run | None = None
        for start in range(n_starts):
            if self.verbose:
                print(f"Initialization {start}")
            part = task.part("start", int(self.max_iter))
            first = (
                self._parameters().astype(np.float64) if going_on else first_parameters(self, find_samples, shape, rng)
            )
            run = run_em(self, first, expectation(), part, lambda run: self._attributes_after(run, dtype))
            if best is None or run.bounds[-1] > best.bounds[-1]:
                best = run
            if part.end(partial(self._attributes_after, run, dtype)):
                break
        assert best is not None
        self._set_run(best, dtype)
        self.n_samples_seen_: int = n_samples
        task.end(dict)
        return best.parameters

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Move the parameters by one step of stepwise EM, for a batch of samples that is seen once.

        The statistics of a batch are counted into a running mean, to which the parameters are then fitted. The batch
        after t others counts ``(t + learning_offset) ** -learning_decay``, whatever its size.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The first batch, of which the first parameters are made as in `fit`, has as many samples as there are
            components at least; the more, the better.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts in its batch. Only their ratios matter.

        Returns
        -------
        self : MFA
            `lower_bound_` is the mean log-likelihood of the batch before the step. A model that `fit` has made counts
            as all the batches of this size that its samples would have been; one of `from_parameters` as one.

        Raises
        ------
        ValueError
            If a parameter, X or sample_weight is not as described; the message names it. The model is then what it was
            before the batch.

        Warns
        -----
        ConvergenceWarning
            If components lost all their samples and were moved to the worst explained ones of the batch, or ended where
            `fit` warns of them too, and the batch before did not leave them there.

        Notes
        -----
        Cappé & Moulines, On-line expectation-maximization algorithm for latent data models, JRSS B 71(3), 2009;
        docs/theory.md, section 2. What has been summed up is pickled, but not written by `save`.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from mfa_fast import MFA
        >>> X = load_digits().data / 16
        >>> model = MFA(n_components=5, n_factors=2, random_state=0)
        >>> for start in range(0, 1600, 200):
        ...     model = model.partial_fit(X[start : start + 200])
        >>> model.n_steps_
        8
        >>> bool(model.score(X[1600:]) > MFA(n_factors=2).fit(X[:1600]).score(X[1600:]))
        True
        """
        check_hyperparameters(self)
        fresh = not hasattr(self, "means_")
        samples = as_array(X, estimator=self, reset=fresh)
        weights, n_samples = in_units_of_samples(sample_weight, len(samples))
        noise, n_threads = noise_model(self), check_threads(self.n_threads)
        running: Sums | None
        dtype: Any
        if fresh:
            check_rows(self, len(samples))
            shape = check_shape(self, samples.n_features, n_samples, weighted=weights is not None)
            rng = as_random_state(self.random_state)
            parameters = first_parameters(
                self, lambda rng: samples_to_start_from(self, samples, weights, n_samples, shape, rng), shape, rng
            )
            running, n_steps, known = None, 0, None
            packed, dtype = parameters.pack(n_threads), samples.dtype
        else:
            parameters, running, n_steps = self._standing(n_samples)
            packed, dtype, known = self._scorer().model, self.means_.dtype, self._faults(parameters)
        statistics = e_step(
            packed,
            samples,
            parameters.fingerprint(),
            weights,
            marginal=self.missing == "marginal",
            screening=self.screening,
            n_threads=n_threads,
        )
        if not statistics.weight:
            if fresh:
                msg = (
                    f"X must have a feature that is not NaN in some sample, got {len(samples)} samples without any; "
                    "begin with another batch."
                )
                raise ValueError(msg)
            return self
        size = step_size(n_steps, self.learning_offset, self.learning_decay)
        new, sums = step(parameters, running, statistics, size, noise, dtype, n_threads)
        self._set_parameters(new)
        self._running = (new.fingerprint(), *sums._sums())
        self.n_steps_: int = n_steps + 1
        self.n_samples_seen_ = getattr(self, "n_samples_seen_", 0) + n_samples
        self.lower_bound_ = statistics.mean_log_likelihood
        warn_of_faults(self._faults(new), known=known)
        return self

    def _standing(self, n_samples: int) -> tuple[Parameters, Sums, int]:
        """Return what `partial_fit` goes on from: parameters, the running mean behind them, how many steps it is worth.

        `n_samples` are those of the batch, in whose number a fit is counted.
        """
        parameters = self._parameters().astype(np.float64)
        if parameters.loadings.shape[:2] != (self.n_components, self.n_factors):
            msg = (
                f"n_components={self.n_components} and n_factors={self.n_factors} must be what the model has, "
                f"which is {parameters.loadings.shape[:2]}; start again with a clone, or with fit."
            )
            raise ValueError(msg)
        fingerprint, *sums = getattr(self, "_running", ("",))
        if fingerprint == parameters.fingerprint():
            return parameters, Sums(*sums), self.n_steps_
        return parameters, implied_sums(parameters), max(1, round(getattr(self, "n_samples_seen_", 0) / n_samples))

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Estimate the parameters and return each sample's best component, as `fit` and `predict` do.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int64
        """
        return self.fit(X, y, sample_weight).predict(X)

    def e_step(self, X: Any, sample_weight: Any = None) -> Statistics:
        """Return the sufficient statistics of samples at the model's parameters.

        Statistics of parts of the data add up to those of the whole, so that the parts may be anywhere: one after the
        other in memory, in files, on machines. With `m_step` they make an iteration of EM.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts. Unlike in `fit`, these are taken as they are, since the parts of a whole share
            their unit: a component counts as empty below a total of 0.001. All of a part's may be zero.

        Returns
        -------
        statistics : Statistics
            Picklable. In float64, whatever X is.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from mfa_fast import MFA
        >>> X = load_digits().data / 16
        >>> model = MFA(n_components=10, n_factors=4, max_iter=10, tol=1, random_state=0).fit(X)
        >>> before = model.score(X)
        >>> for iteration in range(3):
        ...     model.m_step(model.e_step(X[:1000]) + model.e_step(X[1000:]))
        MFA(...)
        MFA(...)
        MFA(...)
        >>> bool(model.score(X) > before)
        True
        """
        scorer = self._scorer()
        data = as_data(X, estimator=self)
        return e_step(
            scorer.model,
            data,
            self._parameters().fingerprint(),
            None if sample_weight is None else check_sample_weight(sample_weight, len(data), all_zero=True),
            marginal=self.missing == "marginal",
            screening=scorer.screening,
            n_threads=scorer.n_threads,
        )

    def m_step(self, statistics: Statistics) -> Self:
        """Move the parameters to where the expected log-likelihood of the samples behind the statistics is highest.

        Parameters
        ----------
        statistics : Statistics
            From `e_step` at the present parameters, or a sum of such.

        Returns
        -------
        self : MFA
            With new parameters, in the dtype of the old; `noise_type`, `tied_noise` and `min_noise_variance` are kept
            to. What `fit` left of its course (`n_iter_`, `lower_bound_` and so on) is not touched.

        Raises
        ------
        TypeError, ValueError
            If these are no statistics, or were taken at other parameters.

        Warns
        -----
        ConvergenceWarning
            If components lost all their samples and were moved to the worst explained ones.
        """
        check_is_fitted(self)
        if not isinstance(statistics, Statistics):
            msg = f"statistics must be what e_step returns, got an object of type {type(statistics).__name__}."
            raise TypeError(msg)
        check_hyperparameters(self)
        parameters = self._parameters()
        if statistics.fingerprint != parameters.fingerprint():
            msg = (
                "statistics must have been taken at the model's present parameters, and these were taken at others: "
                "take them anew, with e_step after the last m_step or fit."
            )
            raise ValueError(msg)
        n_threads = check_threads(self.n_threads)
        new = m_step(parameters.astype(np.float64), statistics, noise_model(self), n_threads)
        self._set_parameters(round_parameters(new, self.means_.dtype))
        return self

    def _warn_of(self, fitted: Parameters) -> None:
        """Warn of a fit that has not come to rest, and of components that tell nothing."""
        if not self.converged_ and self.n_iter_ == self.max_iter:
            warn(
                f"EM did not converge in max_iter={self.max_iter} iterations (tol={self.tol:g}): raise max_iter or "
                "tol, or try another init_params."
            )
        warn_of_faults(self._faults(fitted))

    def _faults(self, parameters: Parameters) -> dict[str, Fault]:
        parameters = parameters.astype(np.float64)
        spread = parameters.explained() + parameters.noise_variance
        # With room: a sample may be some standard deviations out, and the last M-step saw other squares.
        least = noise_model(self).least(32.0 * spread)
        n_samples = getattr(self, "n_samples_seen_", 0)
        return find_faults(parameters, self.means_.dtype, float(self.min_noise_variance), least, n_samples)

    def _set_run(self, run: Run, dtype: type[np.floating[Any]]) -> Self:
        rounded = round_parameters(run.parameters, dtype)
        self.converged_ = run.converged
        self.lower_bounds_ = list(run.bounds)
        self.lower_bound_ = run.bounds[-1]
        self.n_iter_ = len(run.bounds)
        self._set_parameters(rounded)
        return self

    def _attributes_after(self, run: Run, dtype: type[np.floating[Any]]) -> dict[str, Any]:
        """Return the attributes that the model would have with this run as its result."""
        return dict(vars(copy(self)._set_run(run, dtype)))

    # ------------------------------------------------------------------------------------------------ parameters

    @classmethod
    def from_parameters(cls, weights: Any, means: Any, loadings: Any, noise_variance: Any) -> Self:
        """Make a fitted model of given parameters.

        Parameters
        ----------
        weights : array-like of shape (n_components,)
            Non-negative, of sum 1.
        means : array-like of shape (n_components, n_features)
        loadings : array-like of shape (n_components, n_factors, n_features)
        noise_variance : array-like that broadcasts to (n_components, n_features)
            Positive; for example a scalar.

        Returns
        -------
        model : MFA
            Its parameters are float32 where `means` is, else float64.

        Raises
        ------
        ValueError
            If shapes disagree or values are out of range; the message names the argument.

        Examples
        --------
        >>> import numpy as np
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([1.0], np.zeros((1, 2)), [[[3.0, 0.0]]], 1.0)
        >>> np.round(model.score_samples([[0.0, 0.0]]), 4)  # -log(2 pi) - log(10) / 2
        array([-2.9892])
        """
        # By name: other libraries' arrays have dtypes of their own.
        dtype = np.float32 if str(getattr(means, "dtype", "")).endswith("float32") else np.float64
        parameters = check_parameters(weights, means, loadings, noise_variance, dtype)
        variance = check_noise_variance(parameters.noise_variance.astype(dtype), *parameters.means.shape)
        spherical = bool(np.all(variance == variance[:, :1]))
        K, L, d = parameters.loadings.shape
        model = cls(
            K,
            L,
            noise_type="spherical" if spherical else "diag",
            tied_noise=bool(K > 1 and np.all(variance == variance[:1])),
        )
        model.n_features_in_ = d
        model._set_parameters(parameters.astype(dtype))
        model._scorer()  # refuses parameters that cannot be computed with, and keeps what it made of them
        return model

    def _parameters(self) -> Parameters:
        return Parameters(self.weights_, self.means_, self.loadings_, self.noise_variance_)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled model."""
        super().__setstate__(state)
        if hasattr(self, "means_"):
            self._parameters().freeze()

    def _set_parameters(self, parameters: Parameters) -> None:
        # What partial_fit has summed up and counted belongs to the parameters it left.
        for name in ("_running", "n_steps_"):
            self.__dict__.pop(name, None)
        parameters.freeze()
        self.weights_: Array = parameters.weights
        self.means_: Array = parameters.means
        self.loadings_: Array = parameters.loadings
        self.noise_variance_: Array = parameters.noise_variance

    def n_parameters(self) -> int:
        """Return the number of free parameters, those that change the distribution.

        Rotations of the factors are not counted, nor more parameters of a covariance than it has entries (many factors
        and diagonal noise have more).

        Returns
        -------
        n_parameters : int

        Notes
        -----
        Drton, Sturmfels & Sullivant, Algebraic factor analysis, Probability Theory and Related Fields 138, 2007.
        """
        check_is_fitted(self)
        K, L, d = self.loadings_.shape
        noise = (d if self.noise_type == "diag" else 1) * (1 if self.tied_noise else K)
        covariances = min(K * (d * L - L * (L - 1) // 2) + noise, K * d * (d + 1) // 2)
        return int(K - 1 + K * d + covariances)

    # ------------------------------------------------------------------------------------------------ evaluation

    def _scorer(self, data: Samples | Stream | None = None) -> Scorer:
        check_has(self, "means_")
        return scorer_of(self, [self._parameters()], None if data is None else data.device)

    def _marginal_scorer(self) -> MarginalScorer:
        check_is_fitted(self)
        return MarginalScorer.of(self, [self._parameters()])

    def _samples(self, X: Any) -> Samples:
        check_has(self, "means_")
        return as_samples(X, estimator=self)

    @by_blocks
    def score_samples(self, X: Any) -> Any:
        """Return the log-density log p(x) of each sample, in nats.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        log_density : ndarray of shape (n_samples,)

        Examples
        --------
        >>> import numpy as np
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([0.5, 0.5], [[0.0], [4.0]], np.empty((2, 0, 1)), 1.0)
        >>> model.score_samples([[0.0], [2.0]]).round(2)
        array([-1.61, -2.92])
        """
        samples = self._samples(X)
        return samples.rounded(self._scorer(samples).log_sums(samples)[:, 0])

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the mean of log p(x) over the samples, in nats per sample.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts.

        Returns
        -------
        mean_log_density : float
        """
        total, weight = self._log_likelihood(X, sample_weight)
        return total / weight

    def _log_likelihood(self, X: Any, sample_weight: Any) -> tuple[float, float]:
        """Return the sum of log p(x), and the sum of the weights or the number of samples."""
        check_is_fitted(self)
        data = as_data(X, estimator=self)
        scorer = self._scorer(data)
        weights = None if sample_weight is None else check_sample_weight(sample_weight, len(data))
        total, n_samples = 0.0, 0
        for block in data.blocks(scoring_rows(len(self.weights_), data.n_features, data.read_bytes)):
            own = None if weights is None else weights[block.first : block.first + len(block)]
            total = add_log_likelihoods(total, block, scorer.log_sums(block)[:, 0], own)
            n_samples += len(block)
        return total, float(n_samples if weights is None else weights.sum())

    @by_blocks
    def weighted_log_prob(self, X: Any) -> Any:
        """Return log w_k + log N(x; mu_k, A_k A_k^T + D_k) for every sample and component.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        log_prob : ndarray of shape (n_samples, n_components)
            In nats.

        Examples
        --------
        >>> import numpy as np
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([0.5, 0.5], [[0.0], [4.0]], np.empty((2, 0, 1)), 1.0)
        >>> log_prob = model.weighted_log_prob([[1.0]])
        >>> bool(np.isclose(np.logaddexp.reduce(log_prob, axis=1), model.score_samples([[1.0]])))
        True
        """
        samples = self._samples(X)
        return samples.wrap(self._scorer(samples).log_densities(samples))

    @by_blocks
    def predict(self, X: Any) -> Any:
        """Return the index of each sample's best component; the lowest on a tie.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,), int64

        Examples
        --------
        >>> import numpy as np
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([0.5, 0.5], [[0.0], [4.0]], np.empty((2, 0, 1)), 1.0)
        >>> model.predict([[-1.0], [2.0], [3.0]])
        array([0, 0, 1])
        """
        samples = self._samples(X)
        return samples.wrap(self._scorer(samples).best(samples)[:, 0])

    @by_blocks
    def predict_proba(self, X: Any) -> Any:
        """Return the components' posterior probabilities, the responsibilities.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        responsibilities : ndarray of shape (n_samples, n_components)

        Examples
        --------
        >>> import numpy as np
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([0.5, 0.5], [[0.0], [4.0]], np.empty((2, 0, 1)), 1.0)
        >>> model.predict_proba([[2.0], [3.0]]).round(3)
        array([[0.5  , 0.5  ],
               [0.018, 0.982]])
        """
        samples = self._samples(X)
        return samples.wrap(self._scorer(samples).responsibilities(samples))

    @by_blocks
    def posterior_factors(self, X: Any) -> tuple[Any, Any]:
        """Return each sample's best component and the mean of its factors given the sample.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,), int64
        factors : ndarray of shape (n_samples, n_factors)

        Examples
        --------
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([1.0], [[0.0, 0.0]], [[[3.0, 0.0]]], 1.0)
        >>> model.posterior_factors([[3.0, 2.0]])  # not 1: the noise has a share in the 3.0
        (array([0]), array([[0.9]]))
        """
        samples = self._samples(X)
        labels, factors = self._scorer(samples).best_factors(samples)
        return samples.wrap(labels), samples.rounded(factors)

    @by_blocks
    def reconstruct(self, X: Any) -> Any:
        """Return what each sample's best component explains of it: ``loadings.T @ z + mean`` at the posterior mean z.

        It falls short of the projection onto the component's subspace by what is taken for noise.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)

        Returns
        -------
        X_reconstructed : ndarray of shape (n_samples, n_features)

        Examples
        --------
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([1.0], [[0.0, 0.0]], [[[3.0, 0.0]]], 1.0)
        >>> model.reconstruct([[3.0, 2.0]])
        array([[2.7, 0. ]])
        """
        samples = self._samples(X)
        return samples.wrap(self._scorer(samples).reconstruct(samples))

    def impute(self, X: Any) -> Any:
        """Return a copy of X in which missing values (NaN) are their conditional means given what is observed.

        The mean is that of the whole mixture: components count by their responsibility for what is observed. It is the
        guess of least mean squared error; `conditional` tells how sure it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            No sequence of batches. May have NaN, whatever `missing` is. A row of nothing else becomes the mean of the
            mixture.

        Returns
        -------
        X_imputed : ndarray of shape (n_samples, n_features)
            What is observed is as it was, bit for bit.

        Raises
        ------
        ValueError, TypeError
            If X is a sequence of batches, or has infinities or other than the model's number of features.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_digits
        >>> from mfa_fast import MFA
        >>> X = load_digits().data / 16
        >>> model = MFA(n_components=10, n_factors=4, random_state=0).fit(X[:1500])
        >>> hidden = X[1500:].copy()
        >>> hidden[:, ::2] = np.nan  # every second column
        >>> error = np.mean((model.impute(hidden) - X[1500:])[:, ::2] ** 2)
        >>> bool(error < 0.6 * np.mean((X[:1500].mean(axis=0) - X[1500:])[:, ::2] ** 2))
        True
        """
        check_is_fitted(self)
        samples = as_array(X, estimator=self)
        return samples.wrap(self._marginal_scorer().impute(samples))

    def conditional(self, X: Any) -> Conditional:
        """Return the distribution of missing values (NaN) given what is observed.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            No sequence of batches. May have NaN, whatever `missing` is.

        Returns
        -------
        conditional : Conditional
            With mean and variance of every missing value, responsibilities, and draws (`Conditional.sample`).

        Raises
        ------
        ValueError, TypeError
            If X is a sequence of batches, or has infinities or other than the model's number of features.

        Examples
        --------
        >>> import numpy as np
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 1.0]]], 1.0)
        >>> given = model.conditional([[2.0, np.nan]])
        >>> given.mean, given.variance
        (array([[2., 1.]]), array([[0. , 1.5]]))
        """
        check_is_fitted(self)
        samples = as_array(X, estimator=self)
        scorer = self._marginal_scorer()
        mean, variance, responsibilities, factors = map(samples.wrap, scorer.conditional(samples))
        return Conditional(
            mean,
            variance,
            responsibilities,
            factors,
            # A copy, as draws come later: by then the caller may have filled in what is missing in X.
            replace(samples, data=samples.data.copy()),
            self._parameters(),
            self.random_state,
            scorer.n_threads,
        )

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the Bayesian information criterion on X; the lower the better.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts: weights stand for repetition.

        Returns
        -------
        bic : float

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from mfa_fast import MFA
        >>> X = load_iris().data
        >>> models = [MFA(K, random_state=0).fit(X) for K in (1, 2, 10)]
        >>> min(models, key=lambda model: model.bic(X)).n_components
        2
        """
        total, n = self._log_likelihood(X, sample_weight)
        return float(-2.0 * total + self.n_parameters() * np.log(n))

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the Akaike information criterion on X; the lower the better.

        Parameters
        ----------
        X : array-like or stream of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each sample counts: weights stand for repetition.

        Returns
        -------
        aic : float
        """
        return float(-2.0 * self._log_likelihood(X, sample_weight)[0] + 2.0 * self.n_parameters())

    # ------------------------------------------------------------------------------------------------ sampling

    def sample(
        self, n_samples: int = 1, *, noise: bool = True, random_state: Any = None, start: int = 0, out: Any = None
    ) -> tuple[Any, Any]:
        """Draw samples.

        Sample i of a seed is a function of the seed and of i alone: the first hundred of a million are the hundred that
        would be drawn alone, and ``start`` goes on where another call ended.

        Parameters
        ----------
        n_samples : int, default=1
        noise : bool, default=True
            Without it, samples lie in the affine subspaces of the components: what people look at.
        random_state : int, RandomState, Generator or None, default=None
            A non-negative integer is the seed itself; None takes the model's `random_state`.
        start : int, default=0
            Index of the first sample.
        out : array of shape (n_samples, n_features), default=None
            Where the samples are written: a NumPy array, a torch tensor or a CuPy array of float32 or float64, in
            CUDA memory too. None makes a NumPy array.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            In the dtype of the parameters, or `out`.
        labels : ndarray of shape (n_samples,), int64
            The components, in the order in which they were drawn.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([0.5, 0.5], [[0.0, 0], [9, 9]], np.ones((2, 1, 2)), 0.1)
        >>> X, labels = model.sample(5, random_state=0)
        >>> bool(np.array_equal(X[3:], model.sample(2, random_state=0, start=3)[0]))
        True
        """
        check_is_fitted(self)
        n, start = check_place(n_samples, start)
        seed = as_seed(self.random_state if random_state is None else random_state)
        check_flag("noise", noise)
        target = as_output(out, (n, int(self.means_.shape[1])), self.means_.dtype, self.device)
        labels = self._scorer(target).sample(target, weights=self.weights_, seed=seed, start=start, noise=bool(noise))
        return target.data if out is None else out, target.wrap(labels)

    # ------------------------------------------------------------------------------------------------ persistence

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model as a safetensors file.

        Parameters that are neither numbers, strings nor None (generators, arrays of ``*_init``) are not written, nor is
        what `partial_fit` has summed up.

        Parameters
        ----------
        path : path
            Of the file, which is replaced if there is one.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from mfa_fast import MFA
        >>> model = MFA.from_parameters([1.0], [[0.0, 0.0]], [[[3.0, 0.0]]], 1.0)
        >>> with TemporaryDirectory() as folder:
        ...     model.save(Path(folder) / "model.safetensors")
        ...     again = MFA.load(Path(folder) / "model.safetensors")
        >>> again.score([[3.0, 2.0]]) == model.score([[3.0, 2.0]])
        True
        """
        check_is_fitted(self)
        _persistence.write(path, "mfa_fast.MFA", _persistence.arrays_of(self), _persistence.header_of(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model that `save` wrote.

        Parameters
        ----------
        path : path
            Of the file.

        Returns
        -------
        model : MFA

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is not a whole model.
        """
        arrays, header = _persistence.read(path, "mfa_fast.MFA")
        return _persistence.restore(cls, path, arrays, header)

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn whether NaN is taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "marginal"
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether there are parameters."""
        return hasattr(self, "means_")
