"""What a variational autoencoder is made of: its networks, and events modelled as they are."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sknuc.samplers._drawn import DrawnVariables

__all__ = ["AsMeasured", "Autoencoder"]


class Autoencoder(nn.Module):
    """Encoder and decoder.

    Parameters
    ----------
    encoder : nn.Module
        From events (n, *shape) to features (n, n_features).
    n_features : int
    decoder : nn.Module
        From (n, n_latent + n_conditions) to (n, *output_shape).
    likelihood : nn.Module
        Of :mod:`sknuc.nn`.
    n_latent, n_conditions : int
    """

    def __init__(self, encoder, n_features, decoder, likelihood, n_latent, n_conditions):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.head = nn.Linear(n_features, 2 * n_latent)
        if n_conditions:
            # What an event means may depend on the condition in any way.
            width = max(64, 2 * n_latent)
            self.head = nn.Sequential(
                nn.Linear(n_features + n_conditions, width),
                nn.SiLU(),
                nn.Linear(width, 2 * n_latent),
            )

    def posterior(self, x, condition):
        """Mean and logarithm of the standard deviation of q, both of shape (n, n_latent)."""
        features = self.encoder(self.likelihood.read(x))
        if condition is not None:
            features = torch.cat([features, condition], 1)
        mean, width = self.head(features).chunk(2, 1)
        # Between 0 and 2, and 1 at the start: no posterior is wider than the prior for long.
        return mean, math.log(2) + F.logsigmoid(width)

    def decode(self, z, condition):
        """What the likelihood is made of, of shape (n, *output_shape)."""
        return self.decoder(z if condition is None else torch.cat([z, condition], 1))

    def log_likelihood(self, z, x, condition, parts):
        """Log of p(x|z), of shape (n,); `parts` as the likelihood knows them, or None."""
        known = () if parts is None else (parts,)
        return self.likelihood.log_prob(self.decode(z, condition), x, *known)

    def log_weight(self, x, condition, mean, log_std, eps, parts=None):
        """Log of p(x|z) p(z) / q(z) at z = mean + std eps, of shape (n,)."""
        z = mean + log_std.exp() * eps
        log_likelihood = self.log_likelihood(z, x, condition, parts)
        # The normalisations of prior and q cancel.
        return log_likelihood + ((eps.square() - z.square()) / 2 + log_std).sum(1)


class AsMeasured(DrawnVariables):
    """Columns of hits or counts, which are their own variables.

    It stands where :class:`~sknuc.samplers._columns.Columns` stands for measured numbers.
    """

    def __init__(self, likelihood):
        self.likelihood = likelihood

    def fit(self, X, input_shape, **_):
        """Take the shape of the events."""
        self.shape = tuple(input_shape)
        self.n_variables = X.shape[1]
        none = np.array([], dtype=int)
        self.random = self.rounded = self.cosines = self.sines = none
        return self

    def encode(self, X, dtype=np.float64, condition=None):
        """Return the events, and no variables that are drawn.

        Raises
        ------
        ValueError
            If a value is none that the likelihood can have.
        """
        if self.likelihood == "bernoulli":
            right, allowed = (X >= 0) & (X <= 1), "hits: 0, 1, or probabilities between"
        else:
            right = (X >= 0) & (np.round(X) == X) & np.isfinite(X)
            allowed = "counts: integers that are not negative"
        if not right.all():
            raise ValueError(
                f"likelihood={self.likelihood!r} needs {allowed}. Got X with "
                f"{X[~right][0]:g}. Take likelihood='gaussian' for measured numbers."
            )
        none = np.empty((len(X), 0), dtype)
        return X.astype(dtype), none, none

    def log_det(self, X, condition=None):
        """Return zeros: events are their own variables."""
        return np.zeros(len(X))

    def decode(self, z, condition=None):
        """Return the events."""
        return np.asarray(z, dtype=np.float64)
