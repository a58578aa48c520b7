"""Where a particle hit a SuperCDMS germanium detector, from the timing of its phonon pulses.

The phonons of an interaction reach near sensors earlier, and their pulses rise faster. A
regression on a few source positions is a trap: a flexible model learns the positions instead of
the physics between them, and is sure of itself at positions that it has never seen. Hence the
groups, one for each position, and the file of positions that no fit may see.
"""

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import StrOptions, validate_params

from sknuc.datasets._download import fetch_file
from sknuc.datasets._registry import SUPERCDMS

__all__ = ["fetch_supercdms"]

# Of the radioactive source, in mm, from the centre outwards.
_POSITIONS = (
    *(0.0, -3.969, -9.988, -12.502, -17.992, -19.7, -21.034),
    *(-24.077, -29.5, -36.116, -39.4, -41.01, -41.9),
)

_DESCR = """\
SuperCDMS germanium detector, source positions from phonon pulses
-----------------------------------------------------------------
Events of a radioactive source that was moved along a radius of a germanium detector and stopped at
13 positions, and for each event 19 quantities of the pulses of five phonon channels (A, B, C, D,
F), all in seconds:

- PBstart, PCstart, PDstart, PFstart: time at which the pulse reaches 20 % of its height, after
  that of channel A;
- PArise ... PFrise: time from 20 % to 50 % of the height, on the rising side;
- PAfall ... PFfall: time from 40 % to 20 % of the height, on the falling side;
- PAwidth ... PFwidth: width of the pulse at 80 % of the height.

The target is the position of the source, in mm. The published split is kept:

===========  ======  =========  ================================
subset       events  positions  RMSE of the published network
===========  ======  =========  ================================
training       4508         10  1.53 mm
validation     1128         10  1.53 mm
unseen         1515          3  1.74 mm
===========  ======  =========  ================================

Training and validation events are of the same ten positions; those of "unseen" (-12.502, -29.5
and -41.9 mm) are of none of them. Choose models by leaving out one position after the other
(LeaveOneGroupOut with the groups), since a random split cannot tell learning from memorising.

Source and licence: FAIR-UMN, "Identifying Interaction Location in SuperCDMS Detectors",
https://github.com/FAIR-UMN/FAIR-UMN-CDMS, MIT licence.
"""


@validate_params(
    {
        "subset": [StrOptions({*SUPERCDMS, "all"})],
        "return_X_y": ["boolean"],
        "as_frame": ["boolean"],
        "download_if_missing": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def fetch_supercdms(
    *,
    subset="training",
    return_X_y=False,
    as_frame=False,
    data_home=None,
    download_if_missing=True,
):
    """Load pulse timing and source positions of a SuperCDMS detector (at most 1.9 MB).

    Parameters
    ----------
    subset : {"training", "validation", "unseen", "all"}, default="training"
        The part of the published split. The three positions of "unseen" occur in no other part;
        "all" is the three parts, one after the other.
    return_X_y : bool, default=False
        Return ``(data, target)`` only.
    as_frame : bool, default=False
        Give ``data`` and ``target`` as a pandas data frame and a series.
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    events : :class:`~sklearn.utils.Bunch`
        data : float64 ndarray or DataFrame of shape (n_events, 19)
            Times in s, of the order of 1e-5 to 1e-4. There are 4508 training, 1128 validation and
            1515 unseen events.
        target : float64 ndarray or Series of shape (n_events,)
            Position of the source, in mm.
        groups : int ndarray of shape (n_events,)
            Index of the position in ``positions``, the same in every subset, as splitters like
            :class:`~sklearn.model_selection.LeaveOneGroupOut` take it.
        positions : float64 ndarray of shape (13,)
            All positions in mm, from the centre outwards.
        subset : str ndarray of shape (n_events,)
            The part that each event is of.
        row : int ndarray of shape (n_events,)
            Number of the event in the recording at its position.
        feature_names : list of str
            The columns.
        target_names : list of str
            ``["position"]``.
        frame : DataFrame of shape (n_events, 20) or None
            Data and target, when ``as_frame=True``.
        DESCR : str
            Description, published results, source and licence.
        filenames : list of str
            The files.
    (data, target) : tuple if ``return_X_y=True``

    Raises
    ------
    OSError
        If a file is not there and cannot be fetched, or is damaged.

    References
    ----------
    .. [1] FAIR-UMN, "Identifying Interaction Location in SuperCDMS Detectors",
       https://github.com/FAIR-UMN/FAIR-UMN-CDMS.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    >>> from sknuc.datasets import fetch_supercdms
    >>> events = fetch_supercdms()  # doctest: +SKIP
    >>> predicted = cross_val_predict(  # doctest: +SKIP
    ...     LinearRegression(),
    ...     events.data,
    ...     events.target,
    ...     groups=events.groups,
    ...     cv=LeaveOneGroupOut(),
    ... )
    """
    parts = list(SUPERCDMS) if subset == "all" else [subset]
    paths = [
        fetch_file(SUPERCDMS[part], data_home, download_if_missing=download_if_missing)
        for part in parts
    ]
    with open(paths[0]) as file:
        feature_names = file.readline().strip().split(",")[1:-1]
    tables = [np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2) for path in paths]
    data = np.concatenate([table[:, 1:-1] for table in tables])
    target = np.concatenate([table[:, -1] for table in tables])

    frame = None
    if as_frame:
        import pandas as pd

        frame = pd.DataFrame(data, columns=feature_names).assign(position=target)
        data, target = frame[feature_names], frame["position"]
    if return_X_y:
        return data, target
    positions = np.array(_POSITIONS)
    distances = np.abs(np.asarray(target)[:, None] - positions)
    return Bunch(
        data=data,
        target=target,
        groups=distances.argmin(axis=1),
        positions=positions,
        subset=np.repeat(parts, [len(table) for table in tables]),
        row=np.concatenate([table[:, 0] for table in tables]).astype(np.int64),
        feature_names=feature_names,
        target_names=["position"],
        frame=frame,
        DESCR=_DESCR,
        filenames=[str(path) for path in paths],
    )
