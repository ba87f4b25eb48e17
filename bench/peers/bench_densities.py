"""Log-densities of other libraries, beside ours on the same rows, with their errors.

Errors are reported and not judged: at small noise these lose most of their digits. What is compared is the density of
each component; torch-mfa adds the weights to it where their logarithms belong, which is put right here.

    MFA_BENCH_TORCH_MFA    folder of a torch-mfa checkout
"""

import importlib
import os
import sys
from dataclasses import replace

import numpy as np
import pytest

import shapes
from mfa_fast.experiments.tasks import dense_task

GAUSSIAN_MIXTURE_BYTES = 5e8  # of covariances; faces would take 100 GB


def scikit_learn(model, X):
    """Give GaussianMixture the assembled covariances."""
    from sklearn.mixture import GaussianMixture

    K, _, d = model.loadings_.shape
    if 2 * K * d * d * X.itemsize > GAUSSIAN_MIXTURE_BYTES:
        pytest.skip(f"{K} covariances of {d} x {d} do not fit")
    covariances = np.einsum("kld,kle->kde", model.loadings_, model.loadings_, optimize=True)
    covariances[:, np.arange(d), np.arange(d)] += model.noise_variance_
    peer = GaussianMixture(K)
    peer.weights_, peer.means_ = model.weights_, model.means_
    try:
        peer.precisions_cholesky_ = np.array([np.linalg.inv(np.linalg.cholesky(c)).T for c in covariances])
    except np.linalg.LinAlgError:
        pytest.skip("the covariances are not positive definite in this dtype")
    return lambda: peer._estimate_weighted_log_prob(X)


def torch_distributions(model, X):
    """One LowRankMultivariateNormal per component: all at once would take n x K x d numbers."""
    torch = pytest.importorskip("torch")
    mean, loadings, noise, weights = map(
        torch.tensor, (model.means_, model.loadings_, model.noise_variance_, model.weights_)
    )
    rows, log_weights = torch.from_numpy(X), torch.log(weights)
    try:
        peers = [
            torch.distributions.LowRankMultivariateNormal(m, a.T.contiguous(), s, validate_args=False)
            for m, a, s in zip(mean, loadings, noise, strict=True)
        ]
    except RuntimeError as error:  # of LinAlgError's kind
        pytest.skip(f"torch cannot make the distribution: {error}")
    return lambda: (torch.stack([peer.log_prob(rows) for peer in peers], dim=1) + log_weights).numpy()


def numpyro(model, X):
    """One component after the other, compiled."""
    pytest.importorskip("numpyro")
    import jax

    if X.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    from numpyro.distributions import LowRankMultivariateNormal

    parameters = tuple(
        map(jax.numpy.asarray, (model.means_, np.swapaxes(model.loadings_, 1, 2), model.noise_variance_))
    )
    rows, log_weights = jax.numpy.asarray(X), jax.numpy.log(jax.numpy.asarray(model.weights_))

    @jax.jit
    def evaluate(parameters, rows):
        columns = jax.lax.map(lambda p: LowRankMultivariateNormal(*p).log_prob(rows), parameters)
        return columns.T + log_weights

    return lambda: np.asarray(evaluate(parameters, rows))


def torch_mfa(model, X):
    torch = pytest.importorskip("torch")
    checkout = os.environ.get("MFA_BENCH_TORCH_MFA")
    if not checkout:
        pytest.skip("MFA_BENCH_TORCH_MFA does not name a torch-mfa checkout")
    sys.path.insert(0, checkout)
    try:
        peer = importlib.import_module("mfa").MFA(*np.array(model.loadings_.shape)[[0, 2, 1]].tolist())
    finally:
        sys.path.remove(checkout)
    peer.MU.data = torch.tensor(model.means_)
    peer.A.data = torch.tensor(model.loadings_).transpose(1, 2).contiguous()
    peer.log_D.data = torch.log(torch.tensor(model.noise_variance_))
    weights = torch.tensor(model.weights_)
    peer.PI_logits.data = torch.log(weights)
    rows, correction = torch.from_numpy(X), torch.log(weights) - weights
    return lambda: (peer.per_component_log_likelihood(rows) + correction).numpy()


PEERS = {
    "scikit-learn": scikit_learn,
    "torch.distributions": torch_distributions,
    "numpyro": numpyro,
    "torch-mfa": torch_mfa,
}


@pytest.fixture
def torch_threads():
    """Give torch as many threads as everyone else."""
    torch = pytest.importorskip("torch")
    from mfa_fast._validation import check_threads

    torch.set_num_threads(check_threads(None))


@pytest.mark.parametrize("who", ["mfa_fast", *PEERS])
@pytest.mark.parametrize("name", shapes.PEERS)
def test_log_densities(paired, request, who, name, dtype):
    if who.startswith("torch"):
        request.getfixturevalue("torch_threads")
    problem = shapes.problem(name, dtype)
    rows = shapes.BENCH.count(shapes.PEERS[name])
    task = dense_task(replace(problem, X=problem.X[:rows]))
    if who == "mfa_fast":
        paired(task)
    else:
        run = PEERS[who](problem.model, task.problem.X)
        paired(replace(task, run=run, target=None), who=who, accurate=False)
