"""Between models and the reference: parameters as either of them takes them."""

import reference as ref
from mfa_fast import MFA, MFAClassifier
from tolerances import scaled_error

# What a mixture says of samples.
SCORING = (
    "weighted_log_prob",
    "score_samples",
    "score",
    "predict",
    "predict_proba",
    "posterior_factors",
    "reconstruct",
    "bic",
    "aic",
)


def parameters_of(mixture):
    """A mixture's parameters, as the reference takes them."""
    return ref.Parameters(mixture.weights_, mixture.means_, mixture.loadings_, mixture.noise_variance_)


def mixtures_of(classifier):
    """The parameters of each class's mixture, as the reference takes them."""
    return [parameters_of(mixture) for mixture in classifier.mixtures_]


def classifier_of(mixtures, priors=None, rule="max", classes=None):
    """The classifier of mixtures that the reference takes."""
    return MFAClassifier.from_mixtures([MFA.from_parameters(*m) for m in mixtures], classes, priors, rule)


def assert_same_parameters(mixture, expected, tolerance):
    """A mixture has the parameters that are expected, which the reference takes, or those of another mixture."""
    if isinstance(expected, MFA):
        expected = parameters_of(expected)
    for name, value in parameters_of(mixture)._asdict().items():
        assert scaled_error(value, getattr(expected, name)) <= tolerance, name
