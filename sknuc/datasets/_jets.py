"""Jets as they are generated and as a detector reconstructs them.

A detector simulation maps one jet to many: what is wanted is not a number but the distribution of
reconstructed jets given a generated one. A network that learns it simulates the detector, and with
the roles exchanged it corrects measured jets. Here the distribution is known exactly, so that what
was learned can be compared with the truth and not with a histogram.
"""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.datasets._draws import as_floats, check_range, spawn_streams
from sknuc.datasets._jet_response import WIDEST_ANGLE, JetResponse

__all__ = ["make_jets"]

# Jets per random stream: small enough for the cache of a core.
_BLOCK = 2**13

# Of m / pT of generated jets, which is log-normal: median and width of the logarithm.
_MASS_TO_PT = (0.12, 0.4)

_FEATURES = ["pt", "eta", "phi", "mass"]

_DESCR = """\
Simulated jets, generated and reconstructed
-------------------------------------------
Generated jets with a falling spectrum of transverse momenta, uniform in pseudorapidity and azimuth,
with masses that grow with the momentum, and reconstructed jets with the resolution of a calorimeter
(noise, stochastic and constant term), angles whose resolution improves with the momentum, and a
mass that fluctuates together with the momentum. 'conditional' is the exact distribution of
reconstructed jets given generated ones.
"""


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "pt_range": [tuple],
        "spectral_index": [Interval(Real, 1, None, closed="neither")],
        "max_abs_eta": [Interval(Real, 0, None, closed="neither")],
        "pt_resolution": [tuple],
        "angular_resolution": [Interval(Real, 0, None, closed="neither")],
        "mass_resolution": [Interval(Real, 0, None, closed="neither")],
        "correlation": [Interval(Real, -1, 1, closed="neither")],
        "return_X_y": ["boolean"],
        "as_frame": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_jets(
    n_samples=1000,
    *,
    pt_range=(20.0, 1000.0),
    spectral_index=5.0,
    max_abs_eta=2.5,
    pt_resolution=(5.0, 1.0, 0.05),
    angular_resolution=1.0,
    mass_resolution=0.15,
    correlation=0.6,
    return_X_y=False,
    as_frame=False,
    random_state=None,
):
    r"""Simulate generated and reconstructed jets, with their exact conditional distribution.

    Generated jets have :math:`dN/dp_T \propto p_T^{-n}`, uniform eta and phi, and a log-normal
    :math:`m / p_T` with the median 0.12 and the width 0.4. Reconstructed are

    .. math::

        p_T' &= p_T (1 + \sigma\,\varepsilon_1) > 0, \qquad
        \sigma^2 = (N / p_T)^2 + S^2 / p_T + C^2, \\
        \eta' &= \eta + (w / p_T)\,\varepsilon_2, \qquad
        \phi' = \phi + (w / p_T)\,\varepsilon_3 \pmod{2 \pi}, \\
        \ln m' &= \ln m + s\,\varepsilon_4,

    with standard normal :math:`\varepsilon`, of which the first is cut where the momentum would
    not be positive, and linked to the last by a Gaussian copula.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of jets.
    pt_range : (float, float), default=(20.0, 1000.0)
        Of the generated transverse momenta, in GeV.
    spectral_index : float, default=5.0
        n, above 1.
    max_abs_eta : float, default=2.5
        Generated pseudorapidities are within plus and minus this.
    pt_resolution : (float, float, float), default=(5.0, 1.0, 0.05)
        Noise term N in GeV, stochastic term S in sqrt(GeV), constant term C.
    angular_resolution : float, default=1.0
        w, in GeV: eta and phi are reconstructed to w / pT, at most 0.35 at the least pT.
    mass_resolution : float, default=0.15
        s, the width of ln m'.
    correlation : float, default=0.6
        Of the Gaussian copula between pT' and m', in (-1, 1).
    return_X_y : bool, default=False
        Return ``(data, target)`` only.
    as_frame : bool, default=False
        Give data and target as a pandas data frame in ``frame`` too.
    random_state : int, RandomState instance or None, default=None
        Seed of the jets.

    Returns
    -------
    jets : :class:`~sklearn.utils.Bunch`
        data : float32 ndarray of shape (n_samples, 4)
            Generated pT (GeV), eta, phi (rad, from -pi to pi) and mass (GeV).
        target : float32 ndarray of shape (n_samples, 4)
            The same of the reconstructed jets.
        feature_names, target_names : list of str
            "pt", "eta", "phi", "mass", and the same behind "reco_".
        units : dict
            Units of the features and targets that have one.
        conditional : JetResponse
            The exact distribution of targets given data: ``log_prob(X, y)``, ``cdf(X, y)``,
            ``quantiles(X, levels)``, ``sample(X, n_samples, rng)``, ``mean(X)``, ``std(X)``, and
            ``mean_pinball(X)``, the least loss of a quantile regression.
        frame : DataFrame of shape (n_samples, 8) or None
            When ``as_frame=True``.
        DESCR : str
            Description.
    (data, target) : tuple if ``return_X_y=True``

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] B. Kronheim, M. P. Kuchera, H. B. Prosper, R. Ramanujan, "Implicit quantile neural
       networks for jet simulation and correction", arXiv:2111.11415 (2021).
    .. [2] B. Kronheim, A. Al Kadhim, M. P. Kuchera, H. B. Prosper, R. Ramanujan, "Implicit quantile
       networks for emulation in jet physics", arXiv:2306.15053 (2023).

    Examples
    --------
    >>> from sknuc.datasets import make_jets
    >>> jets = make_jets(5, random_state=0)
    >>> jets.data.shape, jets.target.shape
    ((5, 4), (5, 4))
    >>> jets.conditional.quantiles([[100.0, 0.5, 3.1, 12.0]], [0.16, 0.84])[0].round(2)
    array([[ 87.82,   0.49,   3.09,  10.34],
           [112.18,   0.51,   3.11,  13.93]])
    """
    low, high = check_range(
        "make_jets", "pt_range", pt_range, Interval(Real, 0, None, closed="neither"), strict=True
    )
    terms = as_floats("make_jets", "pt_resolution", pt_resolution)
    if terms.shape != (3,) or not (np.all(np.isfinite(terms) & (terms >= 0)) and np.any(terms > 0)):
        raise ValueError(
            "The 'pt_resolution' parameter of make_jets must be three finite numbers >= 0 that are "
            "not all zero: noise term (GeV), stochastic term (sqrt(GeV)) and constant term. Got "
            f"{pt_resolution!r} instead."
        )
    if angular_resolution > WIDEST_ANGLE * low:
        raise ValueError(
            "The 'angular_resolution' parameter of make_jets must be at most "
            f"{WIDEST_ANGLE * low:g} GeV, {WIDEST_ANGLE} rad at the least pT of {low:g} GeV. Got "
            f"{angular_resolution} instead."
        )
    response = JetResponse(
        tuple(terms.tolist()), float(angular_resolution), float(mass_resolution), float(correlation)
    )

    data = np.empty((n_samples, 4), dtype=np.float32)
    target = np.empty((n_samples, 4), dtype=np.float32)
    _, streams = spawn_streams(random_state, n_samples, _BLOCK)
    for i, rng in enumerate(streams):
        block = slice(i * _BLOCK, (i + 1) * _BLOCK)
        n = len(data[block])
        pt = _draw_spectrum(rng, n, low, high, spectral_index)
        data[block, 0] = pt
        data[block, 1] = rng.uniform(-max_abs_eta, max_abs_eta, n)
        data[block, 2] = rng.uniform(-np.pi, np.pi, n)
        median, width = _MASS_TO_PT
        data[block, 3] = median * pt * np.exp(width * rng.standard_normal(n))
        # The response is that to the jets as they are given, after rounding to 32 bits.
        jets = data[block].astype(np.float64)
        widths = response.widths(jets[:, 0])
        target[block] = response._draw(jets, *widths, rng.standard_normal((n, 1, 4)))[:, 0]
    if return_X_y:
        return data, target

    target_names = [f"reco_{name}" for name in _FEATURES]
    frame = None
    if as_frame:
        import pandas as pd

        frame = pd.DataFrame(np.hstack([data, target]), columns=[*_FEATURES, *target_names])
    units = {"pt": "GeV", "phi": "rad", "mass": "GeV"}
    return Bunch(
        data=data,
        target=target,
        feature_names=list(_FEATURES),
        target_names=target_names,
        units=units | {f"reco_{name}": unit for name, unit in units.items()},
        conditional=response,
        frame=frame,
        DESCR=_DESCR,
    )


def _draw_spectrum(rng, n, low, high, index):
    """Draw from a density that falls as pT^-index between low and high."""
    # In units of the lower end, so that a steep spectrum does not underflow.
    exponent = 1.0 - index
    drop = 1.0 - (high / low) ** exponent
    return low * (1.0 - drop * rng.random(n)) ** (1.0 / exponent)
