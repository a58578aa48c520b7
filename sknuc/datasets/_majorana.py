"""The data release of the MAJORANA DEMONSTRATOR for machine learning."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.datasets._download import fetch_file
from sknuc.datasets._hdf5 import HDF5Rows, open_hdf5, read_rows, require
from sknuc.datasets._registry import MAJORANA

__all__ = ["fetch_majorana"]

WAVEFORMS = "raw_waveform"
LABELS = (
    "psd_label_low_avse",
    "psd_label_high_avse",
    "psd_label_dcr",
    "psd_label_lq",
)
EVENT_COLUMNS = ("tp0", "detector", "run_number", "id")

_DESCR = """\
MAJORANA DEMONSTRATOR data release for machine learning
-------------------------------------------------------
Th-228 calibration events of p-type point-contact germanium detectors: waveforms of 3800 samples
of 10 ns, the calibrated energy, and whether the event passes each of four pulse-shape cuts:

- psd_label_low_avse: not multi-site (low side of A vs. E);
- psd_label_high_avse: not near the contact (high side of A vs. E);
- psd_label_dcr: no delayed charge, as surface alphas have it;
- psd_label_lq: no late charge, as events of the transition layer have it.

MJD_Train_0 to 15 and MJD_Test_0 to 5 hold up to 65,000 events each (2 GB); MJD_NPML_0 to 2 have
neither energy nor labels. The labels are unbalanced: report the rejection at fixed acceptance, not
the accuracy.

Files are checked against the sizes and MD5 sums of the record; these find broken transfers.

Source: Zenodo, https://doi.org/10.5281/zenodo.8257027 (the record states the licence). Cite
I. J. Arnquist et al. (MAJORANA), "Majorana Demonstrator Data Release for AI/ML Applications",
arXiv:2308.10856.
"""


@validate_params(
    {
        "files": [str, "array-like"],
        "target": [str, "array-like", None],
        "start": [Interval(Integral, 0, None, closed="left")],
        "stop": [Interval(Integral, 0, None, closed="left"), None],
        "as_frame": ["boolean"],
        "download_if_missing": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def fetch_majorana(
    files="MJD_Train_0",
    *,
    target=None,
    start=0,
    stop=None,
    as_frame=False,
    data_home=None,
    download_if_missing=True,
):
    """Load events of the MAJORANA DEMONSTRATOR data release (2 GB per file).

    Labels and energies are read; waveforms stay in the files until they are indexed:
    ``events.data[:1000]`` reads a thousand, and an estimator that streams takes ``events.data``.

    Parameters
    ----------
    files : str or list of str, default="MJD_Train_0"
        Names of the files: ``MJD_Train_0`` to ``15``, ``MJD_Test_0`` to ``5``, ``MJD_NPML_0`` to
        ``2``. The events of several follow one another.
    target : str or list of str, default=None
        Labels by name; None for all that the files have.
    start : int, default=0
        First event.
    stop : int, default=None
        Event behind the last one; None for the end of the last file.
    as_frame : bool, default=False
        Give all but the waveforms as a pandas data frame in ``frame`` too.
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    events : :class:`~sklearn.utils.Bunch`
        data : HDF5Rows of shape (n_events, 3800)
            Waveforms in ADC counts, read when indexed.
        target : bool ndarray of shape (n_events,) or (n_events, n_labels), or None
            Whether the events pass the cuts; one-dimensional when `target` is a str. None for
            NPML files.
        target_names : list of str
            The labels.
        energy : float64 ndarray of shape (n_events,) or None
            In keV. None for NPML files.
        tp0 : ndarray of shape (n_events,)
            Sample at which the pulse rises.
        detector, run_number, id : ndarray of shape (n_events,)
            Where the event comes from.
        sampling_period : float
            10.0 ns.
        frame : DataFrame or None
            When ``as_frame=True``.
        DESCR : str
            Description, source and citation.
        filenames : list of str
            The files.

    Raises
    ------
    OSError
        If a file is not there and cannot be fetched, or is damaged.
    KeyError
        If a file lacks a column.
    ValueError
        If a file or label is unknown, or the rows are out of range.

    References
    ----------
    .. [1] I. J. Arnquist et al. (MAJORANA), "Majorana Demonstrator Data Release for AI/ML
       Applications", arXiv:2308.10856 (2023).

    Examples
    --------
    >>> from sknuc.datasets import fetch_majorana
    >>> events = fetch_majorana("MJD_Train_0", target="psd_label_low_avse")  # doctest: +SKIP
    >>> X, y = events.data[:1000], events.target[:1000]  # doctest: +SKIP
    """
    names = [files] if isinstance(files, str) else list(files)
    names = [str(name).removesuffix(".hdf5") for name in names]
    unknown = [name for name in names if name not in MAJORANA]
    if unknown or not names:
        raise ValueError(
            "The 'files' parameter of fetch_majorana must be one or several of "
            f"{', '.join(MAJORANA)}. Got {files!r} instead."
        )
    unlabelled = [name for name in names if "NPML" in name]
    labels = _labels(target, unlabelled)
    columns = (*EVENT_COLUMNS, *labels, *(() if unlabelled else ("energy_label",)))

    paths = [
        fetch_file(MAJORANA[name], data_home, download_if_missing=download_if_missing)
        for name in names
    ]
    lengths, shapes, dtypes, chunks = zip(*[_check(path, columns) for path in paths], strict=True)
    if len(set(shapes)) > 1 or len(set(dtypes)) > 1:
        raise ValueError(
            f"The waveforms of {', '.join(names)} cannot follow one another: their shapes and "
            f"types are {', '.join(f'{s} {d}' for s, d in zip(shapes, dtypes, strict=True))}."
        )
    total = sum(lengths)
    stop = total if stop is None else stop
    if not start <= stop <= total:
        raise ValueError(
            f"The rows of fetch_majorana must satisfy 0 <= start <= stop <= {total}, the number of "
            f"events of {', '.join(names)}. Got start={start} and stop={stop} instead."
        )
    ends = np.cumsum(lengths)
    sources = [
        (path, int(np.clip(start - end + n, 0, n)), int(np.clip(stop - end + n, 0, n)))
        for path, n, end in zip(paths, lengths, ends, strict=True)
    ]

    parts = {name: [] for name in columns}
    for path, low, high in sources:
        with open_hdf5(path) as file:
            for name in columns:
                parts[name].append(read_rows(require(file, name), slice(low, high)))
    values = {name: np.concatenate(arrays) for name, arrays in parts.items()}

    targets = None
    if labels:
        targets = np.column_stack([values[name].astype(bool) for name in labels])
        targets = targets[:, 0] if isinstance(target, str) else targets
    frame = None
    if as_frame:
        import pandas as pd

        frame = pd.DataFrame(values)
    return Bunch(
        data=HDF5Rows(sources, WAVEFORMS, shapes[0], dtypes[0], chunks[0]),
        target=targets,
        target_names=list(labels),
        energy=values.get("energy_label"),
        **{name: values[name] for name in EVENT_COLUMNS},
        sampling_period=10.0,
        frame=frame,
        DESCR=_DESCR,
        filenames=[str(path) for path in paths],
    )


def _labels(target, unlabelled):
    if target is None:
        return () if unlabelled else LABELS
    labels = (target,) if isinstance(target, str) else tuple(target)
    if not set(labels) <= set(LABELS):
        raise ValueError(
            "The 'target' parameter of fetch_majorana must be one or several of "
            f"{', '.join(LABELS)}. Got {target!r} instead."
        )
    if unlabelled and labels:
        raise ValueError(
            f"{', '.join(unlabelled)} have no labels: leave 'target' of fetch_majorana at None, "
            f"or choose other files. Got target={target!r}."
        )
    return labels


def _check(path, columns):
    """Check the structure of a file: one waveform, and one value of each column, per event."""
    with open_hdf5(path) as file:
        waveforms = require(file, WAVEFORMS)
        if waveforms.ndim != 2:
            raise ValueError(
                f"{WAVEFORMS!r} of {path} must have two dimensions, events and samples. Its shape "
                f"is {waveforms.shape}."
            )
        for name in columns:
            if (shape := require(file, name).shape) != waveforms.shape[:1]:
                raise ValueError(
                    f"{name!r} of {path} must have one value for each of {waveforms.shape[0]} "
                    f"waveforms. Its shape is {shape}."
                )
        return waveforms.shape[0], waveforms.shape[1:], waveforms.dtype, waveforms.chunks
