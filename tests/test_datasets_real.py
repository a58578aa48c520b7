"""The real files, when SKNUC_DATA names a folder that holds them."""

import os

import numpy as np
import pytest

from sknuc import datasets

pytestmark = pytest.mark.skipif(
    not os.environ.get("SKNUC_DATA"),
    reason="real data: set SKNUC_DATA to the folder with the local copies",
)


def test_legend_th228_shows_the_lines_of_thallium():
    table = datasets.fetch_legend_th228()
    assert table.data.shape == (38_343, 22)
    column = dict(zip(table.feature_names, table.data.T, strict=True))
    assert np.isnan(column["cuspEftp"]).all()
    # The full-energy line of Tl-208 is the highest peak near the end of the spectrum, and the
    # double-escape line lies two electron masses below it.
    energy = column["cuspEmax"]
    counts, edges = np.histogram(energy[energy > 15_000], bins=np.arange(15_000, 19_000, 10))
    keV = 2614.511 / (edges[counts.argmax()] + 5)
    around = np.abs(energy * keV - 1592.5)
    peak, sides = np.sum(around < 5), np.sum((around > 10) & (around < 20)) / 2
    assert peak - sides > 5 * np.sqrt(peak + sides)
    assert np.all(np.diff(column["timestamp"]) >= 0)


def test_legend_tiers_hold_the_same_events():
    events = datasets.fetch_legend_waveforms()
    assert (events.data.shape, events.data.dtype) == ((30, 8192), np.uint16)
    assert events.sampling_period == 16.0
    np.testing.assert_array_equal(events.raw["timestamp"], events.dsp["timestamp"])
    np.testing.assert_array_equal(events.raw["timestamp"], events.hit["timestamp"])
    np.testing.assert_array_equal(events.raw["baseline"], events.dsp["baseline"])
    # The collaboration's extrema are those of averages of a few samples.
    highest = events.data.max(axis=1)
    assert np.all(events.dsp["wf_max"] <= highest)
    assert np.corrcoef(highest, events.dsp["wf_max"])[0, 1] > 0.999
    assert events.hit["is_valid_cal"].dtype == bool
    assert events.units["dsp"]["tp_0_est"] == "ns"
    one = datasets.fetch_legend_waveforms("ch1121600")
    np.testing.assert_array_equal(one.data, events.data[events.channel == "ch1121600"])
    with pytest.raises(ValueError, match=r"'channel'.*ch1084803.*Got 'ch7'"):
        datasets.fetch_legend_waveforms("ch7")


def test_legend_waveforms_as_frames():
    pytest.importorskip("pandas")
    events = datasets.fetch_legend_waveforms("ch1084804", as_frame=True)
    assert events.dsp.shape == (10, 59)
    np.testing.assert_array_equal(events.raw["timestamp"], events.hit["timestamp"])


def test_th228_stream():
    pytest.importorskip("fcio", reason="the extra sknuc[fcio] is not installed")
    events = datasets.fetch_th228_waveforms()
    assert (events.data.shape, events.data.dtype) == ((1000, 1836), np.uint16)
    assert events.sampling_period == 16.0
    assert np.all(np.diff(events.timestamp) > 0)
    # Each record has its own samples, and the digitizer's baseline is that of most of them.
    assert len(np.unique(events.data, axis=0)) == 1000
    difference = np.median(events.data[:, :100], axis=1) - events.daq_baseline
    assert abs(np.median(difference)) < 30
