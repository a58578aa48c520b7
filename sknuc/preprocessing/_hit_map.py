r"""From the hits of phototubes on a sphere to arrays of time and direction.

A photon that was emitted at the vertex :math:`v` at the time :math:`t_e` hits the tube at
:math:`x_i` at :math:`t = t_e + |x_i - v|/c`, with the speed of light :math:`c` in the
scintillator. What the event looked like from its vertex is the emission time,

.. math:: t_e - t_0 = t - \frac{|x_i - v|}{c} - t_0,

where the start :math:`t_0` of the event is unknown to a detector that triggers on the light itself,
and is estimated from the corrected times. These residuals and the directions of the tubes are what
a network reads: a film of the sphere.

**The vertex from the light alone.** An isotropic source at :math:`d` in a sphere of radius
:math:`R` sends light along :math:`u` to :math:`x(u) = d + s(u)\,u`, with
:math:`s = -d \cdot u + \sqrt{R^2 - d^2 + (d \cdot u)^2}`. The root is even in :math:`u`, so that
:math:`\langle \sqrt{\cdot}\, u \rangle = 0` over all directions, and with :math:`\langle u u^T
\rangle = 1/3`

.. math:: \langle x \rangle = d - \langle (d \cdot u)\, u \rangle = d - d/3 = \tfrac23 d.

Three halves of the mean position of the light is an unbiased estimate of the vertex, exactly and
anywhere in the sphere. Tubes sample that mean; each stands for the area :math:`A_i` of the sphere
that is closer to it than to others, so that the light :math:`q_i` seen by tubes of equal
efficiency is weighted as :math:`\sum q_i A_i x_i / \sum q_i A_i`, whatever their spacing. Where it
changes, tubes do not stand in the middle of their areas: :math:`\sum A_i x_i / \sum A_i`, which the
same light in all tubes would give, is subtracted.
"""

import warnings
from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sknuc.geometry import cell_areas
from sknuc.preprocessing._hit_map_detector import (
    Pixels,
    check_bins,
    check_dtype,
    check_fields,
    check_positions,
    check_vertex,
    raise_bad_hit,
    raise_hit_at_vertex,
    unit,
)
from sknuc.preprocessing._hit_map_kernel import centroid_rows, fill_rows, read_rows, start_rows
from sknuc.preprocessing._kernels import run_rows
from sknuc.preprocessing._ragged import validate_clouds

__all__ = ["PMTHitMap"]


class PMTHitMap(TransformerMixin, BaseEstimator):
    r"""Turn hits of phototubes into maps of time and direction, corrected for time of flight.

    The time of each hit becomes the residual :math:`t - |x_{\rm pmt} - v|/c - t_0`, and hits are
    counted, or their charges added up, in bins of time and on the pixels of the sphere. The result
    is what encoders read as a sequence of images, ``(T, H, W)``, or as a signal on the detector's
    own tubes, ``(T, n_pmt)``.

    Parameters
    ----------
    positions : array-like of shape (n_pmt, 3), default=None
        Where the PMTs are, in cm from the centre of the detector. With them all times are corrected
        for the flight from the vertex, **which is the centre** unless `vertex` says otherwise or
        `fit` and `transform` are given the vertices: light from elsewhere is blurred by up to its
        distance over the speed of light. None corrects no time of flight, and is possible for
        readouts of all PMTs only.
    grid : None, (int, int) or array-like of shape (n_pixels, 3), default=None
        The pixels: None takes each PMT for itself; ``(H, W)`` the cells of
        :func:`sknuc.geometry.equiangular_sphere`, H of polar angle from +z and W of azimuth; an
        array the nearest of these directions, such as :func:`sknuc.geometry.healpix_sphere`.
    bins : (float, float, int) or array-like of shape (n_bins + 1,), default=(-20.0, 22.0, 28)
        Bins of time: three numbers in a tuple or list are (start, stop, number of bins) in ns,
        anything else gives the edges in ns, evenly spaced or not (for two bins, as an ndarray).
        Bins contain their lower edge and not the upper one. The default are those of KamNet.
    fields : tuple of str, default=None
        What the numbers of a hit are: "time", and "pmt" and "charge" where there are such. None
        reads hits of three numbers as ``("pmt", "time", "charge")``, of two as ``("pmt",
        "time")``, and a table as the readout of all PMTs, ``("time",)``. See Notes.
    vertex : {"origin", "centroid"}, default="origin"
        Where the light comes from, unless `transform` is given the vertices: the centre, or 3/2 of
        the mean position of the light, which is unbiased for isotropic light in a sphere around
        the origin whose tubes are equally efficient, if each hit is one photo-electron or carries
        its charge (see Notes). "centroid" needs PMTs in different directions.
    frame : {"detector", "vertex"}, default="detector"
        Where PMTs are seen from when they are sorted into the pixels of `grid`.
    light_speed : float, default=16.95
        Effective speed of light in the scintillator, in cm/ns. Infinity corrects nothing.
    t0 : {"median", "mean"}, float or None, default="median"
        Start of an event, subtracted from its times: of all its corrected times, the same number
        in ns for all events, or None for 0.
    weight : {"count", "charge"}, default="count"
        Whether hits are counted or their charges added up.
    outside : {"drop", "clip", "raise"}, default="drop"
        What becomes of hits outside the bins: they are left out (:meth:`count_outside` says how
        many), put into the first or last bin, or an error.
    dtype : {"uint8", "uint16", "float32"}, default=None
        Type of the maps; None takes "uint16" for counts and "float32" for charges. Small integers
        save memory, and networks convert them batch by batch: 46 bins of 1879 PMTs for 16,000
        events are 1.4 GB in "uint8". Numbers too large for the type are an error. Differences of
        unsigned integers wrap around, 3 - 4 = 65535: take ``dtype="float32"``, or
        ``maps.astype("float32")``, before you subtract maps.
    input_shape : tuple of int, default=None
        How a row of a table is read: (P, 3) for padded hits. None reads it as a readout of all
        PMTs.

    Attributes
    ----------
    edges_ : ndarray of shape (n_bins + 1,)
        Edges of the bins in ns.
    directions_ : ndarray of shape (n_pixels, 3) or None
        Unit vectors of the pixels, row by row for a grid; None where `positions` and `grid` are.
    pixel_of_pmt_ : ndarray of shape (n_pmt,)
        Index of the pixel that each PMT belongs to, seen from the centre.
    n_pmt_ : int
        Number of PMTs.
    output_shape_ : tuple of int
        Shape of one map: (n_bins, n_pmt), (n_bins, H, W) or (n_bins, n_pixels).
    fields_ : tuple of str
        What the numbers of a hit are.
    vertex_given_ : bool
        Whether `fit` was given the vertices; `transform` then needs them too.
    input_shape_ : tuple of int
        Shape of one event.
    n_features_in_ : int
        Number of values per event.

    Raises
    ------
    ValueError
        If `positions` are not finite, of a wrong shape, at the centre, or not as many as the PMTs
        of a readout; if a PMT id is no integer from 0 to n_pmt - 1, or a charge is negative, or
        zero although the hit has a time; if, with ``frame="vertex"``, a PMT with a hit is at the
        vertex, from where it has no direction; if parameters do not fit each other; if a map's
        number does not fit into `dtype`.

    Notes
    -----
    Three layouts are read. *Hits* have "pmt" among their `fields`: padded with rows of zeros,
    ``(n, P, 3)``, or ragged, a list of arrays ``(P_i, 3)``; without charges the hit of PMT 0 at
    time 0.0 cannot be told from padding. *Readouts* have a row per PMT, in the order of
    `positions`: ``(n, n_pmt)`` holds the time of its first hit, 0 for no hit; with
    ``fields=("time", "charge")``, ``(n, n_pmt, 2)``, a charge of 0 is no hit.

    Events without hits give maps of zeros.

    The centroid counts light. First hits without charges hide that tubes near the vertex see
    several photons: a tube that expects :math:`\mu_i(v)` of them has a hit with the probability
    :math:`1 - e^{-\mu_i(v)}`, and the mean centroid is that of these probabilities in place of the
    light. For 2.458 MeV at 250 photo-electrons per MeV on 1879 tubes it is at 0.84 of the distance
    of a vertex within 167 cm of an 850 cm sphere, with fewer tubes or more light nearer still. Dark
    hits come from everywhere: of a share f of them it is at 1 - f of the distance. In both cases,
    and when light is scattered, a vertex from a fit is better.

    With metadata routing enabled, ``vertex`` is requested by default and reaches the step inside a
    Pipeline and a search that scores with the Pipeline's own ``score``. Other scorers and
    :func:`sklearn.model_selection.cross_val_predict` hand nothing on to ``predict``, which is an
    error here and not a map from the wrong vertex. Since nothing is learnt from the events, maps
    can as well be made once, before the search.

    One core puts 10,000 to 20,000 events of 600 hits per second into 46 bins on 192 pixels; with
    `frame` "vertex" and an array of pixels, which are searched for each hit, it is 1,400 to 3,300.

    References
    ----------
    A. Li et al., "KamNet: An integrated spatiotemporal deep neural network for rare event searches
    in KamLAND-Zen", Phys. Rev. C 107 (2023) 014323, arXiv:2203.01870.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.geometry import fibonacci_sphere
    >>> from sknuc.preprocessing import PMTHitMap
    >>> positions = 850.0 * fibonacci_sphere(100)
    >>> hits = np.array([[[7, 60.0, 1.0], [7, 63.0, 2.0], [42, 60.2, 1.0], [0, 0, 0]]])
    >>> vertex = np.array([[0.0, 30.0, 120.0]])
    >>> maps = PMTHitMap(positions=positions).fit_transform(hits, vertex=vertex)
    >>> maps.shape, int(maps.sum())
    ((1, 28, 100), 3)

    On a grid, with the vertex from the light itself:

    >>> hit_map = PMTHitMap(positions=positions, grid=(16, 32), vertex="centroid")
    >>> hit_map.fit_transform(hits).shape
    (1, 28, 16, 32)
    """

    # Vertices are asked for wherever they are offered: to leave them out would blur the times.
    __metadata_request__fit = {"vertex": True}
    __metadata_request__transform = {"vertex": True}

    _parameter_constraints: dict = {
        "positions": ["array-like", None],
        "grid": ["array-like", None],
        "bins": ["array-like"],
        "fields": ["array-like", None],
        "vertex": [StrOptions({"origin", "centroid"})],
        "frame": [StrOptions({"detector", "vertex"})],
        "light_speed": [Interval(Real, 0, None, closed="right")],
        "t0": [StrOptions({"median", "mean"}), Interval(Real, None, None, closed="neither"), None],
        "weight": [StrOptions({"count", "charge"})],
        "outside": [StrOptions({"drop", "clip", "raise"})],
        "dtype": [StrOptions({"uint8", "uint16", "float32"}), None],
        "input_shape": ["array-like", None],
    }

    def __init__(
        self,
        *,
        positions=None,
        grid=None,
        bins=(-20.0, 22.0, 28),
        fields=None,
        vertex="origin",
        frame="detector",
        light_speed=16.95,
        t0="median",
        weight="count",
        outside="drop",
        dtype=None,
        input_shape=None,
    ):
        self.positions = positions
        self.grid = grid
        self.bins = bins
        self.fields = fields
        self.vertex = vertex
        self.frame = frame
        self.light_speed = light_speed
        self.t0 = t0
        self.weight = weight
        self.outside = outside
        self.dtype = dtype
        self.input_shape = input_shape

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, vertex=None):
        """Check the hits and sort the PMTs into pixels.

        Parameters
        ----------
        X : array-like of shape (n, P, 3), (n, P, 2), (n, n_pmt), (n, n_pmt, 2), or list of arrays
            The hits, in one of the layouts of the Notes.
        y : None
            Ignored.
        vertex : array-like of shape (n, 3), default=None
            Where the light of each event comes from, in cm; None for the `vertex` parameter.

        Returns
        -------
        self : object

        Warns
        -----
        UserWarning
            If more than half of the hits lie outside the bins.
        """
        self._warn_outside(*self._run(*self._fit(X, vertex)))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, vertex=None):
        """Fit, and turn the hits into maps.

        Parameters
        ----------
        X : array-like of shape (n, P, 3), (n, P, 2), (n, n_pmt), (n, n_pmt, 2), or list of arrays
            The hits, in one of the layouts of the Notes.
        y : None
            Ignored.
        vertex : array-like of shape (n, 3), default=None
            Where the light of each event comes from, in cm; None for the `vertex` parameter.

        Returns
        -------
        maps : ndarray of shape (n, n_bins, n_pmt), (n, n_bins, H, W) or (n, n_bins, n_pixels)

        Warns
        -----
        UserWarning
            If more than half of the hits lie outside the bins.
        """
        maps, n_hits, outside = self._fill(*self._fit(X, vertex))
        self._warn_outside(n_hits, outside)
        return maps

    def transform(self, X, vertex=None):
        """Turn hits into maps.

        Parameters
        ----------
        X : array-like of shape (n, P, 3), (n, P, 2), (n, n_pmt), (n, n_pmt, 2), or list of arrays
            The hits, in the layout seen in `fit`; padded or ragged, of any P.
        vertex : array-like of shape (n, 3), default=None
            Where the light of each event comes from, in cm; None for the `vertex` parameter.

        Returns
        -------
        maps : ndarray of shape (n, n_bins, n_pmt), (n, n_bins, H, W) or (n, n_bins, n_pixels)
        """
        return self._fill(*self._check(X, vertex))[0]

    def residual_times(self, X, vertex=None):
        r"""Times less time of flight and start, :math:`t - |x_{\rm pmt} - v|/c - t_0`.

        Parameters
        ----------
        X : array-like
            The hits, as in `transform`.
        vertex : array-like of shape (n, 3), default=None
            As in `transform`.

        Returns
        -------
        times : ndarray of shape (n, P)
            In ns; NaN where there is no hit.
        """
        hits, vertex = self._check(X, vertex)
        times = np.full(hits.shape[:2], np.nan)
        self._run(hits, vertex, times=times)
        return times

    def count_outside(self, X, vertex=None):
        """Count the hits of each event that lie outside the bins of time.

        Parameters
        ----------
        X : array-like
            The hits, as in `transform`.
        vertex : array-like of shape (n, 3), default=None
            As in `transform`.

        Returns
        -------
        n_outside : int ndarray of shape (n,)
        """
        return self._run(*self._check(X, vertex))[1]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _read(self, X, *, reset):
        """Validate X and return hits of shape (n, P, F); a table is a readout of one time each."""
        hits, _ = validate_clouds(self, X, reset=reset)
        return hits.reshape(len(hits), -1, 1) if len(self.input_shape_) == 1 else hits

    def _fit(self, X, vertex):
        """Learn the detector; returns the hits and vertices."""
        hits = self._read(X, reset=True)
        self.fields_ = check_fields(self.fields, hits.shape[2])
        check_dtype(self.dtype, self.weight, self.fields_)
        self.edges_ = check_bins(self.bins)
        self._fit_detector(hits.shape[1])
        self.vertex_given_ = vertex is not None
        return hits, check_vertex(vertex, len(hits), self.positions)

    def _check(self, X, vertex):
        check_is_fitted(self)
        hits = self._read(X, reset=False)
        if "pmt" not in self.fields_:
            self._check_n_pmt(hits.shape[1])
        if self.vertex_given_ and vertex is None:
            raise ValueError(
                "PMTHitMap was fitted with the vertices of its events: vertex must be given here "
                "too, as an array of shape (n, 3). Got None instead."
            )
        return hits, check_vertex(vertex, len(hits), self.positions)

    def _check_n_pmt(self, n_rows):
        if n_rows != self.n_pmt_:
            raise ValueError(
                f"X is a readout of {n_rows} PMTs, but the detector has {self.n_pmt_}."
            )

    def _fit_detector(self, n_rows):
        """Sort the PMTs into pixels."""
        readout = "pmt" not in self.fields_
        needs = (
            ("hits by PMT id", not readout),
            ("a grid", self.grid is not None),
            ("vertex='centroid'", self.vertex == "centroid"),
        )
        needs = [name for name, is_needed in needs if is_needed]
        if self.positions is None and needs:
            raise ValueError(
                "The 'positions' parameter of PMTHitMap must be an array of shape (n_pmt, 3), in "
                f"cm, for {' and '.join(needs)}. Got None instead."
            )
        if self.frame == "vertex" and self.grid is None:
            raise ValueError(
                "The 'frame' parameter of PMTHitMap must be 'detector' without a grid: PMTs are "
                "their own pixels. Got 'vertex' instead."
            )
        self._positions = check_positions(self.positions)
        self.n_pmt_ = n_rows if self.positions is None else len(self._positions)
        if readout:
            self._check_n_pmt(n_rows)
        if self.vertex == "centroid":
            self._areas = cell_areas(self._positions)
            self._levers = self._positions - self._areas @ self._positions / self._areas.sum()
        if self.grid is None:
            self.directions_ = None if self.positions is None else unit(self._positions)
            self.pixel_of_pmt_ = np.arange(self.n_pmt_)
            shape = (self.n_pmt_,)
        else:
            self._pixels = Pixels(self.grid)
            self.directions_ = self._pixels.directions
            self.pixel_of_pmt_ = self._pixels.find(self._positions)
            shape = self._pixels.shape
        self.output_shape_ = (len(self.edges_) - 1, *shape)

    def _fill(self, hits, vertex):
        """Make the maps; returns also the numbers of hits, and of those outside the bins."""
        n_bins, *shape = self.output_shape_
        dtype = check_dtype(self.dtype, self.weight, self.fields_)
        maps = np.zeros((len(hits), n_bins, np.prod(shape)), dtype)
        largest = np.zeros(len(hits))
        n_hits, outside = self._run(hits, vertex, maps=maps, largest=largest)
        if self.outside == "raise" and outside.any():
            raise ValueError(self._outside_message(n_hits, outside))
        if dtype.kind == "u" and largest.max() > np.iinfo(dtype).max:
            wider = "uint16" if largest.max() <= np.iinfo(np.uint16).max else "float32"
            raise ValueError(
                f"Event {largest.argmax()} has {largest.max():.0f} hits in one cell of its map, "
                f"more than {dtype} holds ({np.iinfo(dtype).max}). Use dtype={wider!r}."
            )
        return maps.reshape(len(hits), *self.output_shape_), n_hits, outside

    def _run(self, hits, vertex, *, maps=None, largest=None, times=None):
        """Count all hits of each event and those outside the bins; fill what is given."""
        n_hits, outside = np.zeros((2, len(hits)), dtype=np.int64)
        columns = tuple(
            self.fields_.index(name) if name in self.fields_ else -1
            for name in ("pmt", "time", "charge")
        )
        t0, start = (self.t0, 0.0) if isinstance(self.t0, str) else ("", float(self.t0 or 0.0))
        find = self.vertex == "centroid" and vertex is None

        # Blocks of rows: the kernels' arrays stay in the cache.
        def run(block, rows):
            own = slice(rows[0], rows[-1] + 1)
            pmt = np.empty(block.shape[:2], np.int64)
            time, charge = np.zeros((2, *pmt.shape))
            bad = read_rows(block, columns, self.n_pmt_, pmt, time, charge)
            if bad >= 0:
                event, row = divmod(bad, pmt.shape[1])
                raise_bad_hit(self.fields_, self.n_pmt_, rows[event], row, block[event, row])
            source = np.zeros((len(block), 3)) if vertex is None else vertex[own].copy()
            if find:
                centroid_rows(pmt, charge, self._levers, self._areas, source)
            start_rows(pmt, time, self._positions, source, float(self.light_speed), t0, start)
            hit = pmt >= 0
            n_hits[own] = hit.sum(axis=1)
            outside[own] = (hit & ((time < self.edges_[0]) | (time >= self.edges_[-1]))).sum(axis=1)
            if times is not None:
                times[own] = np.where(hit, time, np.nan)
            if maps is not None:
                if self.weight == "count":
                    charge[hit] = 1.0
                pixel = np.full(pmt.shape, -1)
                if self.frame == "vertex":
                    event = np.nonzero(hit)[0]
                    seen = self._positions[pmt[hit]] - source[event]
                    if not seen.any(axis=1).all():
                        here = event[~seen.any(axis=1)][0]
                        raise_hit_at_vertex(rows[here], source[here])
                    pixel[hit] = self._pixels.find(seen)
                else:
                    pixel[hit] = self.pixel_of_pmt_[pmt[hit]]
                clip = self.outside == "clip"
                fill_rows(pixel, time, charge, self.edges_, clip, maps[own], largest[own])

        run_rows(run, hits, np.arange(len(hits)))
        return n_hits, outside

    def _warn_outside(self, n_hits, outside):
        if 2 * outside.sum() > n_hits.sum():
            warnings.warn(f"{self._outside_message(n_hits, outside)} See the bins and t0.")

    def _outside_message(self, n_hits, outside):
        return (
            f"{outside.sum()} of {n_hits.sum()} hits lie outside the bins of time, "
            f"{self.edges_[0]:g} to {self.edges_[-1]:g} ns."
        )
