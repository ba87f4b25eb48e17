"""Between models and the reference: parameters as either of them takes them."""

import reference as ref
from mfa_fast import MFA, MFAClassifier


def parameters_of(mixture):
    """A mixture's parameters, as the reference takes them."""
    return ref.Parameters(mixture.weights_, mixture.means_, mixture.loadings_, mixture.noise_variance_)


def mixtures_of(classifier):
    """The parameters of each class's mixture, as the reference takes them."""
    return [parameters_of(mixture) for mixture in classifier.mixtures_]


def classifier_of(mixtures, priors=None, rule="max", classes=None):
    """The classifier of mixtures that the reference takes."""
    return MFAClassifier.from_mixtures([MFA.from_parameters(*m) for m in mixtures], classes, priors, rule)
