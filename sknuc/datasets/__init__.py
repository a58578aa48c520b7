"""Simulators, real data and readers."""

from sknuc.datasets._calochallenge import read_calochallenge
from sknuc.datasets._download import clear_data_home, get_data_home
from sknuc.datasets._hdf5 import HDF5Rows
from sknuc.datasets._hpge import make_hpge_waveforms
from sknuc.datasets._inverse_problem import make_inverse_problem
from sknuc.datasets._jets import make_jets
from sknuc.datasets._legend import (
    fetch_legend_th228,
    fetch_legend_waveforms,
    fetch_th228_waveforms,
)
from sknuc.datasets._lh5 import list_lh5, read_lh5
from sknuc.datasets._majorana import fetch_majorana
from sknuc.datasets._masses import fetch_ame, fetch_ws4
from sknuc.datasets._nuclei import liquid_drop_binding_energy, nuclear_features
from sknuc.datasets._optical_model import make_optical_model
from sknuc.datasets._optical_potential import koning_delaroche
from sknuc.datasets._optical_scattering import elastic_scattering
from sknuc.datasets._scintillator import make_scintillator_events
from sknuc.datasets._showers import make_calorimeter_showers
from sknuc.datasets._supercdms import fetch_supercdms
from sknuc.datasets._tpc import make_tpc_events
from sknuc.datasets._tpc_detector import TPC_DETECTORS
from sknuc.datasets._voxels import CylindricalVoxels, GridVoxels

__all__ = [
    "TPC_DETECTORS",
    "CylindricalVoxels",
    "GridVoxels",
    "HDF5Rows",
    "clear_data_home",
    "elastic_scattering",
    "fetch_ame",
    "fetch_legend_th228",
    "fetch_legend_waveforms",
    "fetch_majorana",
    "fetch_supercdms",
    "fetch_th228_waveforms",
    "fetch_ws4",
    "get_data_home",
    "koning_delaroche",
    "liquid_drop_binding_energy",
    "list_lh5",
    "make_calorimeter_showers",
    "make_hpge_waveforms",
    "make_inverse_problem",
    "make_jets",
    "make_optical_model",
    "make_scintillator_events",
    "make_tpc_events",
    "nuclear_features",
    "read_calochallenge",
    "read_lh5",
]
