r"""What rotations change in the features of `SphericalCNN`: signals, and hits of phototubes.

Command: ``python benchmarks/rotations.py [--quick]``, less than 3 minutes on one core.

The network commutes with rotations of signals that the tubes resolve. An event of single hits is no
such signal: turned, a photon meets the tube that is nearest now, beside the turned place of the one
before, by :math:`\delta^2 = 2/n` rad² in the mean over the cells of n tubes. Its time of flight is
corrected for the new tube, which changes by some :math:`|v| \delta/c` for a vertex at v, so that a
share q of the hits moves to other bins of time. The coefficients of a bin are shot noise, of which

.. math:: \rho_l = (1 - q) \, \langle P_l(\cos \delta) \rangle

is left in degree l: what moved is another sample. Invariants are quadratic, so :math:`\rho_l^2` is
left of them, and standardised they change by :math:`\sqrt{2 (1 - \rho_l^2)}` of their norm, however
many photons there are. That is how well tubes and bins know an event, and not the network; the
distribution of events stays the same.

Columns, as means over events of the change relative to the norm of the features, which are
standardised by their spread between events:

- signals: white, of degrees up to 5, on the tubes; two classes that differ in their dipoles
- places: hits at the tubes nearest to where they turn, at the corrected times of before
- times: hits at the tubes of before, at the times that are corrected for the tubes of "hits"
- hits: both, as a detector would see the turned event, corrected from the turned vertex
- other event: another event of the same class, to compare with
- moved: q of "hits"

"expected" is the root mean square over the degrees 0 to 5, which those of later layers are below.
"untrained" are networks at their start, whose features are standardised; "trained" ones have seen
1,000 events 10 times (¹⁰C against double beta decay at 250 photo-electrons per MeV).
"""

import argparse
import time

import numpy as np
import torch
from _timing import machine
from scipy.spatial import KDTree
from scipy.special import eval_legendre

from sknuc.datasets import make_scintillator_events
from sknuc.encoders import SphericalCNN
from sknuc.geometry import fibonacci_sphere, random_rotations, spherical_harmonics, wigner_d
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import PMTHitMap

RADIUS = 850.0  # cm
L_MAX = 5
BINS = (-20.0, 22.0, 28)  # ns


def features(model, X):
    scaling, (encoder, _) = model.module_
    with torch.no_grad():
        return encoder(scaling(torch.as_tensor(X))).numpy()


def change(after, before):
    return float(np.mean(np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)))


def networks(X, y, positions, epochs):
    """Two networks of the same start, of which one has learnt."""
    encoder = SphericalCNN(positions=positions)
    for rate, n_epochs in ((1e-30, 1), (2e-3, epochs)):
        yield NeuralClassifier(
            encoder=encoder,
            learning_rate=rate,
            max_epochs=n_epochs,
            batch_size=100,
            device="cpu",
            random_state=0,
        ).fit(X, y)


def signals(positions, n_train, n_test, epochs, rng):
    """Changes of the features of band-limited signals, untrained and trained."""
    n = n_train + n_test
    coefficients = rng.standard_normal((n, 3, (L_MAX + 1) ** 2))
    y = np.arange(n) % 2
    coefficients[y == 1, :, 1:4] *= 1.5
    turned = coefficients[n_train:].copy()
    R = random_rotations(n_test, rng)
    for l in range(L_MAX + 1):  # noqa: E741
        own = slice(l * l, (l + 1) ** 2)
        turned[..., own] = np.einsum("nab,ncb->nca", wigner_d(l, R), turned[..., own])
    harmonics = spherical_harmonics(L_MAX, positions).T
    X = coefficients @ harmonics
    for model in networks(X[:n_train], y[:n_train], positions, epochs):
        yield change(features(model, turned @ harmonics), features(model, X[n_train:]))


def turn(hits, positions, rotations):
    """The same photons at the tubes nearest to where the rotations take them."""
    turned = hits.copy()
    places = np.einsum("nij,npj->npi", rotations, positions[hits[..., 0].astype(int)])
    turned[..., 0] = KDTree(positions).query(places)[1]
    turned[hits[..., 2] == 0] = 0
    return turned


def hit_views(hits, vertex, positions, rng):
    """Maps of the events and of the three kinds of turned ones, and the share of moved hits."""
    rotations = random_rotations(len(hits), rng)
    turned = turn(hits, positions, rotations)
    step = PMTHitMap(positions=positions, bins=BINS).fit(hits, vertex=vertex)
    corrected = PMTHitMap(positions=positions, bins=BINS, light_speed=np.inf, t0=None)
    turned_vertex = np.einsum("nij,nj->ni", rotations, vertex)
    times = step.residual_times(hits, vertex), step.residual_times(turned, turned_vertex)
    real = hits[..., 2] > 0

    def maps(tubes, residuals):
        events = tubes.copy()
        events[..., 1] = np.where(real, residuals, 0.0)
        return corrected.fit_transform(events)

    bins = [np.digitize(t[real], step.edges_) for t in times]
    views = {
        "places": maps(turned, times[0]),
        "times": maps(hits, times[1]),
        "hits": step.transform(turned, turned_vertex),
    }
    return step.transform(hits, vertex), views, np.mean(bins[0] != bins[1])


def expected(n_tubes, moved):
    """Changes of places, of times, and of both, by the equation above."""
    # Uniform in a cap of the area of one cell.
    cosine = np.linspace(1 - 2 / n_tubes, 1, 101)
    near = eval_legendre(np.arange(L_MAX + 1)[:, None], cosine).mean(axis=1)
    for left in (near, 1 - moved + 0 * near, (1 - moved) * near):
        yield np.sqrt(np.mean(2 * (1 - left**2)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes, n_train, n_test, epochs = (100, 300, 1000, 1879), 1000, 300, 10
    if options.quick:
        sizes, n_train, n_test, epochs = (100, 300), 200, 50, 2
    start = time.perf_counter()
    print(machine(), "\n")
    print("| tubes | network | signals | places | times | hits | other event | moved |")
    print("|---|---|---|---|---|---|---|---|")
    for n_tubes in sizes:
        rng = np.random.default_rng(n_tubes)
        positions = RADIUS * fibonacci_sphere(n_tubes)
        of_signals = list(signals(positions, n_train, n_test, epochs, rng))
        events = make_scintillator_events(
            n_train + n_test, positions=positions, random_state=n_tubes
        )
        hits = events.data.astype(np.float64)
        step = PMTHitMap(positions=positions, bins=BINS)
        X = step.fit_transform(hits[:n_train], vertex=events.vertex[:n_train])
        y, own = events.target[:n_train], events.target[n_train:]
        before, views, moved = hit_views(hits[n_train:], events.vertex[n_train:], positions, rng)
        other = np.arange(n_test)
        for label in (0, 1):
            other[own == label] = np.roll(other[own == label], 1)
        views["other event"] = before[other]
        numbers = " | ".join(f"{value:.2f}" for value in expected(n_tubes, moved))
        print(f"| {n_tubes} | expected | 0 | {numbers} | | {moved:.0%} |")
        models = networks(X.astype(np.float32), y, positions, epochs)
        names = ("untrained", "trained")
        for name, model, of_signal in zip(names, models, of_signals, strict=True):
            f = features(model, before.astype(np.float32))
            numbers = " | ".join(
                f"{change(features(model, view.astype(np.float32)), f):.2f}"
                for view in views.values()
            )
            print(f"| {n_tubes} | {name} | {of_signal:.1e} | {numbers} | |", flush=True)
    print(f"\nDone in {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
