"""How sure is it: Gaussian processes, Bayesian networks, ensembles and conformal sets."""

__all__ = []
