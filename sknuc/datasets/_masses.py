r"""Nuclear masses: measured, extrapolated, and calculated.

A nucleus of Z protons and N neutrons, A = Z + N, binds its nucleons with the energy B, which is
missing in its mass. Tables give the mass excess of the neutral atom,

.. math::

    \Delta(Z, N) = [M(Z, N) - A\,u]\,c^2
                 = Z\,\Delta({}^1\mathrm{H}) + N\,\Delta(n) - B(Z, N),

so that a residual of one is minus a residual of the other. What a model of masses is for are the
nuclei that nobody has measured. Values that evaluators extrapolated stand among the measured ones
in the tables of AME, with a # in the place of the decimal point, and are marked here: a model that
is trained or tested on them learns the opinion of another model.
"""

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Options, validate_params

from sknuc.datasets._download import fetch_file
from sknuc.datasets._registry import AME, WS4

__all__ = ["fetch_ame", "fetch_ws4"]

# Columns and their widths in characters; None is skipped. From the heads of the files.
_AME_LAYOUT = {
    2016: (4, 5, 5, 5, 1, 3, 4, 1, 13, 11, 11, 9, 1, 2, 11, 9, 1, 3, 1, 12, 11),
    2020: (4, 5, 5, 5, 1, 3, 4, 1, 14, 12, 13, 11, 1, 2, 13, 11, 1, 3, 1, 13, 12),
}
_AME_COLUMNS = (
    *(None, "N", "Z", "A", None, "symbol", "origin", None),
    *("mass_excess", "mass_excess_uncertainty"),
    *("binding_energy_per_nucleon", "binding_energy_per_nucleon_uncertainty"),
    *(None, None, "beta_decay_energy", "beta_decay_energy_uncertainty"),
    *(None, "mass_number", None, "atomic_mass", "atomic_mass_uncertainty"),
)
_AME_UNITS = {
    "mass_excess": "keV",
    "mass_excess_uncertainty": "keV",
    "binding_energy_per_nucleon": "keV",
    "binding_energy_per_nucleon_uncertainty": "keV",
    "beta_decay_energy": "keV",
    "beta_decay_energy_uncertainty": "keV",
    "atomic_mass": "micro-u",
    "atomic_mass_uncertainty": "micro-u",
}

_AME_DESCR = """\
Atomic mass evaluation {edition} (AME{edition})
-------------------------------------
Masses of {n} nuclides in their ground states, the neutron among them, of which {n_measured} are
measured. The others are the evaluators' extrapolations of the trends of the mass surface, printed
with a # in the place of the decimal point: 'estimated' marks them. Energies are in keV, masses in
micro-u; NaN stands for what is not calculable (* in the table).

Source and citation:
{citation}
The file is the copy in https://github.com/davidmoraleees/Nuclear-mass-predictions-based-on-CNN.
"""
_AME_CITATION = {
    2016: """\
W. J. Huang, G. Audi, M. Wang, F. G. Kondev, S. Naimi, X. Xu, Chinese Physics C 41
(2017) 030002; M. Wang et al., Chinese Physics C 41 (2017) 030003.""",
    2020: """\
W. J. Huang, M. Wang, F. G. Kondev, G. Audi, S. Naimi, Chinese Physics C 45 (2021)
030002; M. Wang et al., Chinese Physics C 45 (2021) 030003.""",
}

_WS4_COLUMNS = ("A", "Z", "beta2", "beta4", "beta6", "shell_energy", "deformation_energy")
_WS4_ENERGIES = ("energy_measured", "energy", "mass_excess_measured", "mass_excess")

_WS4_DESCR = """\
Nuclear mass table WS4
----------------------
Masses of 10,237 nuclei with Z, N >= 8 by the Weizsaecker-Skyrme formula with surface diffuseness
correction: a liquid drop with deformations, and shell corrections from single-particle levels in a
Woods-Saxon potential. Energies are in MeV. The table quotes the masses that were measured when it
was made (NaN where there were none): the model deviates from these 2,353 by 0.298 MeV (rms).

Source and citation: N. Wang, M. Liu, X. Wu, J. Meng, "Surface diffuseness correction in global
mass formula", Phys. Lett. B 734 (2014) 215, arXiv:1405.2616; http://www.imqmd.com/mass.
The file is the copy in https://github.com/davidmoraleees/Nuclear-mass-predictions-based-on-CNN.
"""


@validate_params(
    {
        "edition": [Options(int, set(AME))],
        "measured_only": ["boolean"],
        "as_frame": ["boolean"],
        "download_if_missing": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def fetch_ame(
    edition=2020, *, measured_only=False, as_frame=False, data_home=None, download_if_missing=True
):
    """Load the nuclear masses of an atomic mass evaluation (0.5 MB).

    Parameters
    ----------
    edition : {2016, 2020}, default=2020
        Year of the evaluation.
    measured_only : bool, default=False
        Leave out nuclides whose mass excess is an extrapolation and no measurement. Decay energies
        of the others are estimated all the same where the daughter's mass is.
    as_frame : bool, default=False
        Give all columns as a pandas data frame in ``frame`` too.
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    table : :class:`~sklearn.utils.Bunch`
        data : float64 ndarray of shape (n_nuclides, 2)
            Z and N.
        target : float64 ndarray of shape (n_nuclides,)
            The mass excess in keV, estimated values included.
        estimated : bool ndarray of shape (n_nuclides,)
            Whether the mass excess, and with it binding energy and atomic mass, is an
            extrapolation (#) and no measurement.
        Z, N, A : int ndarray of shape (n_nuclides,)
            Numbers of protons, neutrons and nucleons.
        symbol : str ndarray of shape (n_nuclides,)
            Of the element, in the edition's spelling; "n" for the neutron.
        origin : str ndarray of shape (n_nuclides,)
            The table's code for how the mass is linked to others, often empty.
        mass_excess, mass_excess_uncertainty : float64 ndarray of shape (n_nuclides,)
            Of the neutral atom, and one standard deviation, in keV.
        binding_energy_per_nucleon, binding_energy_per_nucleon_uncertainty : float64 ndarray
            B / A in keV, of shape (n_nuclides,), electrons included as everywhere here.
        beta_decay_energy, beta_decay_energy_uncertainty : float64 ndarray
            Of the decay of (Z, N) to (Z + 1, N - 1) in keV, of shape (n_nuclides,); NaN where the
            daughter is not in the table.
        beta_decay_energy_estimated : bool ndarray of shape (n_nuclides,)
            Whether it is an extrapolation. A few are measured although neither mass is.
        atomic_mass, atomic_mass_uncertainty : float64 ndarray of shape (n_nuclides,)
            In micro-u.
        feature_names, target_names : list of str
            ``["Z", "N"]`` and ``["mass_excess"]``.
        units : dict
            Units of the columns that have one.
        frame : DataFrame of shape (n_nuclides, 15) or None
            All columns, when ``as_frame=True``.
        DESCR : str
            Description, source and citation.
        filename : str
            The file.

    Raises
    ------
    OSError
        If the file is not there and cannot be fetched, or is damaged.

    References
    ----------
    .. [1] M. Wang et al., "The AME 2020 atomic mass evaluation (II)", Chinese Physics C 45 (2021)
       030003.
    .. [2] M. Wang et al., "The AME2016 atomic mass evaluation (II)", Chinese Physics C 41 (2017)
       030003.

    Examples
    --------
    >>> from sknuc.datasets import fetch_ame
    >>> ame = fetch_ame(2020, measured_only=True)  # doctest: +SKIP
    >>> X, y = ame.data, ame.target  # doctest: +SKIP
    >>> ame.binding_energy_per_nucleon[(ame.Z == 28) & (ame.N == 34)]  # doctest: +SKIP
    array([8794.5555])
    """
    path = fetch_file(AME[edition], data_home, download_if_missing=download_if_missing)
    with open(path, encoding="ascii") as file:
        lines = file.read().splitlines()
    head = max(i for i, line in enumerate(lines[:60]) if "(micro-u)" in line)
    columns = _parse_ame(lines[head + 1 :], _AME_LAYOUT[edition])
    measured = ~columns["estimated"]
    descr = _AME_DESCR.format(
        edition=edition,
        n=len(measured),
        n_measured=np.count_nonzero(measured),
        citation=_AME_CITATION[edition],
    )
    if measured_only:
        columns = {name: values[measured] for name, values in columns.items()}
    return Bunch(
        data=np.column_stack([columns["Z"], columns["N"]]).astype(np.float64),
        target=columns["mass_excess"].copy(),
        **columns,
        feature_names=["Z", "N"],
        target_names=["mass_excess"],
        units=dict(_AME_UNITS),
        frame=_frame(columns) if as_frame else None,
        DESCR=descr,
        filename=str(path),
    )


def _parse_ame(lines, widths):
    """Return the columns of a fixed-width table."""
    edges = np.cumsum((0, *widths))
    text = {
        name: np.char.strip(np.array([line[low:high] for line in lines]))
        for name, low, high in zip(_AME_COLUMNS, edges[:-1], edges[1:], strict=True)
        if name is not None
    }
    columns = {name: text.pop(name).astype(int) for name in ("Z", "N", "A")}
    columns |= {name: text.pop(name) for name in ("symbol", "origin")}
    # The mass number and the micro-u stand in two columns: 207 976652.005 is 207.976652005 u.
    micro_u = 1e6 * text.pop("mass_number").astype(float)
    columns["estimated"] = np.char.endswith(text["mass_excess"], "#")
    columns["beta_decay_energy_estimated"] = np.char.endswith(text["beta_decay_energy"], "#")
    for name, values in text.items():
        values = np.char.replace(values, "#", ".")
        # No uncertainty is printed next to what is not calculable.
        values[(values == "*") | (values == "")] = "nan"
        columns[name] = values.astype(float)
    columns["atomic_mass"] += micro_u
    return columns


@validate_params(
    {"as_frame": ["boolean"], "download_if_missing": ["boolean"]},
    prefer_skip_nested_validation=True,
)
def fetch_ws4(*, as_frame=False, data_home=None, download_if_missing=True):
    """Load the nuclear masses of the model WS4 (1.3 MB).

    Parameters
    ----------
    as_frame : bool, default=False
        Give all columns as a pandas data frame in ``frame`` too.
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    table : :class:`~sklearn.utils.Bunch`
        data : float64 ndarray of shape (10237, 2)
            Z and N.
        target : float64 ndarray of shape (10237,)
            The calculated mass excess in MeV.
        Z, N, A : int ndarray of shape (10237,)
            Numbers of protons, neutrons and nucleons.
        beta2, beta4, beta6 : float64 ndarray of shape (10237,)
            Deformations of the ground state.
        shell_energy, deformation_energy : float64 ndarray of shape (10237,)
            Shell correction and deformation energy in MeV.
        energy, mass_excess : float64 ndarray of shape (10237,)
            Calculated energy of the ground state, which is minus the binding energy, and mass
            excess of the neutral atom, in MeV.
        energy_measured, mass_excess_measured : float64 ndarray of shape (10237,)
            What was measured when the table was made, in MeV; NaN where nothing was.
        feature_names, target_names : list of str
            ``["Z", "N"]`` and ``["mass_excess"]``.
        units : dict
            Units of the columns that have one.
        frame : DataFrame of shape (10237, 12) or None
            All columns, when ``as_frame=True``.
        DESCR : str
            Description, source and citation.
        filename : str
            The file.

    Raises
    ------
    OSError
        If the file is not there and cannot be fetched, or is damaged.

    References
    ----------
    .. [1] N. Wang, M. Liu, X. Wu, J. Meng, "Surface diffuseness correction in global mass
       formula", Phys. Lett. B 734 (2014) 215, arXiv:1405.2616.

    Examples
    --------
    >>> from sknuc.datasets import fetch_ame, fetch_ws4
    >>> ame = fetch_ame(2016, measured_only=True, as_frame=True)  # doctest: +SKIP
    >>> ws4 = fetch_ws4(as_frame=True)  # doctest: +SKIP
    >>> both = ame.frame.merge(ws4.frame, on=["Z", "N"])  # doctest: +SKIP
    >>> residual = both["mass_excess_x"] / 1000 - both["mass_excess_y"]  # doctest: +SKIP
    """
    path = fetch_file(WS4, data_home, download_if_missing=download_if_missing)
    with open(path, encoding="latin-1") as file:
        lines = file.read().splitlines()
    head = max(i for i, line in enumerate(lines[:60]) if line.startswith(" ====="))
    values = np.loadtxt(lines[head + 1 :])
    table = dict(zip((*_WS4_COLUMNS, *_WS4_ENERGIES), values.T.copy(), strict=True))
    columns = {name: table.pop(name).astype(int) for name in ("Z", "A")}
    columns = {"Z": columns["Z"], "N": columns["A"] - columns["Z"], "A": columns["A"], **table}
    unknown = columns["energy_measured"] == 0
    for name in ("energy_measured", "mass_excess_measured"):
        columns[name][unknown] = np.nan
    return Bunch(
        data=np.column_stack([columns["Z"], columns["N"]]).astype(np.float64),
        target=columns["mass_excess"].copy(),
        **columns,
        feature_names=["Z", "N"],
        target_names=["mass_excess"],
        units=dict.fromkeys(("shell_energy", "deformation_energy", *_WS4_ENERGIES), "MeV"),
        frame=_frame(columns) if as_frame else None,
        DESCR=_WS4_DESCR,
        filename=str(path),
    )


def _frame(columns):
    import pandas as pd

    return pd.DataFrame(columns)
