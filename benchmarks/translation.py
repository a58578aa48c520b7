r"""Simulated germanium waveforms translated into those of other electronics, and into real ones.

Command: ``python benchmarks/translation.py [--quick] [--parts abc] [--events 2000] [--repeat 3]``

Waveforms of 256 samples, 16 ns each, from 1.2 µs before half of the height on; in units of the
height of the pulse, without baseline. Half of the events of either domain train, half judge.

(a) Other electronics: the same simulator with twice the smoothing, three quarters of the decay
time, half as much noise again. (b) Real ones: the Th-228 waveforms of a germanium detector, without
pile-up, saturation and pulses below 1500 ADC counts, from a simulation with about the size and
the drift velocity of that detector; left out where they are not at hand. For both:

- Overlap of the histograms of largest current, drift time (from 5 % to 95 %) and slope of the tail
  with those of the target, over what two samples of the target reach; before and after. The goal is
  0.85 for all three.
- Error of the cycle, as the root of the mean square in units of that of the change.
- Spearman's correlation of the largest current before and after, event by event. In (a) each event
  has a twin: the same event with the other electronics, without noise in either; so the error of
  the translation is known, too, and what the other electronics itself leaves of the order.
- Seconds of the fit, and microseconds per waveform.

(c) The fit against a bare loop of the same game: one permutation per epoch and domain, fused AdamW,
the same networks, rates and losses; no weights, no history. Both sides in turn, one thread.
"""

import argparse
import copy
import math
import time

import numpy as np
import torch
from _timing import alternate, machine, print_table
from scipy.stats import spearmanr

from sknuc.adaptation import CycleGANTranslator
from sknuc.datasets import fetch_th228_waveforms, make_hpge_waveforms
from sknuc.metrics import histogram_iou
from sknuc.nn import AveragedModule
from sknuc.preprocessing import PulseShapeFeatures, WaveformAligner

PERIOD = 16.0
FEATURES = ("largest current", "drift time", "tail slope")
OTHER = {"smoothing": 60.0, "decay_time": 54_000.0, "white_noise": 3.0, "pink_noise": 1.5}
# A detector about as large as the real one, in mm, with about its drift velocity, in mm/ns.
LARGE = {"detector_radius": 60.0, "drift_velocity": 0.034}
GOAL, GOAL_SPEED = 0.85, "≤ 1.05"
# Of real pulses, in ADC counts.
LEAST_HEIGHT = 1500.0


def simulate(n, seed, **electronics):
    """Waveforms (n, 1024) in ADC counts."""
    options = {"weights": [0.5, 0.5, 0], "random_state": seed, **electronics}
    return make_hpge_waveforms(n, **options).data


def prepare(waveforms):
    """From ADC counts to windows (n, 1, 256) around half of the height, of the height 1."""
    x = waveforms - np.median(waveforms[:, :100], axis=1, keepdims=True).astype(np.float32)
    smooth = _moving_mean(x, 25)
    x /= smooth.max(1, keepdims=True)
    aligner = WaveformAligner(level=0.5, before=1200.0, after=256 * PERIOD - 1200.0)
    return aligner.fit_transform(x)[:, None, :256].astype(np.float32)


def _moving_mean(x, n):
    total = np.cumsum(np.pad(x, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    return ((total[:, n:] - total[:, :-n]) / n).astype(np.float32)


def measure(x):
    """Features (n, 3): current in 1/µs, drift time in ns, slope in 1/µs."""
    x = x.reshape(len(x), -1)
    smooth = _moving_mean(x, 5)
    current = (smooth[:, 3:] - smooth[:, :-3]).max(1) / (3e-3 * PERIOD)
    top = smooth.max(1, keepdims=True)
    first, last = ((smooth >= share * top).argmax(1) for share in (0.05, 0.95))
    tail = np.arange(96) * PERIOD * 1e-3
    slope = np.polynomial.polynomial.polyfit(tail, x[:, -96:].T, 1)[1]
    return np.column_stack([current, (last - first) * PERIOD, slope])


def overlap(true, made):
    """Overlap of a feature over its ceiling, with its error."""
    low, high = np.quantile(true, [0.005, 0.995])
    edges = np.linspace(low, high, 31)
    width = edges[1] - edges[0]
    edges = np.concatenate([[low - width], edges, [high + width]])
    both = (np.clip(values, low - width / 2, high + width / 2) for values in (true, made))
    found = histogram_iou(*both, bins=edges)
    return found.ratio, found.error / found.ceiling


def rms(x):
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(x))))


def judge(title, source, target, epochs, twins=None, quick=False):
    """Train on one half, print rows of the other."""
    halves = len(source) // 2, len(target) // 2
    X = np.concatenate([source[: halves[0]], target[: halves[1]]])
    domain = np.repeat([0, -1], halves)
    model = CycleGANTranslator(max_epochs=epochs, random_state=0, device="cpu")
    start = time.perf_counter()
    model.fit(X, sample_domain=domain)
    seconds = time.perf_counter() - start
    new, data = source[halves[0] :], target[halves[1] :]
    start = time.perf_counter()
    made = model.transform(new)
    each = (time.perf_counter() - start) / len(new) * 1e6
    true, before, after = (measure(x) for x in (data, new, made))
    print(f"\n### {title}: {halves[0]:,} simulated and {halves[1]:,} of the target to learn from\n")
    print("| feature | overlap before | after | ≥ 0.85 |\n|---|---|---|---|")
    for name, *columns in zip(FEATURES, true.T, before.T, after.T, strict=True):
        (was, _), (ratio, error) = overlap(*columns[:2]), overlap(columns[0], columns[2])
        reached = "" if quick else ("yes" if ratio >= GOAL else "**no**")
        print(f"| {name} | {was:.2f} | {ratio:.2f} ± {error:.2f} | {reached} |")
    change = rms(made - new.reshape(made.shape))
    back = rms(model.inverse_transform(made) - new.reshape(made.shape))
    order = spearmanr(before[:, 0], after[:, 0])[0]
    print(
        f"\nCycle: {back / change:.3f} of the change. Order of the largest current: {order:.4f}. "
        f"Fit {seconds:.0f} s, {each:.0f} µs per waveform."
    )
    if twins is not None:
        here, there = (x.reshape(len(x), -1) for x in twins)
        left = rms(model.transform(here[:, None]) - there) / rms(here - there)
        kept = spearmanr(measure(here)[:, 0], measure(there)[:, 0])[0]
        own = spearmanr(measure(here)[:, 0], measure(model.transform(here[:, None]))[:, 0])[0]
        print(
            f"Twins without noise: the error is {left:.3f} of what the electronics changes; order "
            f"of the largest current {own:.4f}, by the electronics itself {kept:.4f}."
        )


def real_waveforms():
    """Th-228 waveforms, cleaned and prepared."""
    X = fetch_th228_waveforms().data
    table = PulseShapeFeatures().set_output(transform="pandas").fit_transform(X)
    flags = table[["no_pulse", "pileup", "truncated", "saturated"]].to_numpy()
    x = X.astype(np.float32)
    smooth = _moving_mean(x - np.median(x[:, :100], axis=1, keepdims=True), 25)
    good = (flags == 0).all(1) & (smooth.max(1) > LEAST_HEIGHT)
    rise = (smooth > 0.5 * smooth.max(1, keepdims=True)).argmax(1)
    good &= (rise > 150) & (rise < x.shape[1] - 220)
    return prepare(x[good])


class Bare:
    """The game of a fitted translator in a bare loop."""

    def __init__(self, model):
        self.model = model
        self.networks = copy.deepcopy(model.module_[1])

    def fit(self, source, target, epochs):
        """Train it."""
        torch.manual_seed(0)
        model, networks = self.model, copy.deepcopy(self.networks)
        both = torch.from_numpy(np.concatenate([source, target]))
        mean, scale = both.mean(), both.std()
        parts = [(torch.from_numpy(x) - mean) / scale for x in (source, target)]
        generators, critics = networks.generators, networks.critics
        average = AveragedModule(generators)
        players = [
            torch.optim.AdamW(
                module.parameters(), lr=rate, betas=model.betas, weight_decay=0.0, fused=True
            )
            for module, rate in (
                (critics, model.critic_learning_rate),
                (generators, model.learning_rate),
            )
        ]
        size = model.batch_size
        per_epoch = -(-len(source) // size)
        size = -(-len(source) // per_epoch)
        n_steps, step = epochs * per_epoch, 0
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                player, lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2
            )
            for player in players
        ]
        for _ in range(epochs):
            orders = [torch.randperm(len(part)) for part in parts]
            for start in range(0, len(source), size):
                x, y = (
                    part[order[start : start + size]]
                    for part, order in zip(parts, orders, strict=True)
                )
                players[0].zero_grad()
                self.of_critics(generators, critics, x, y).backward()
                players[0].step()
                players[1].zero_grad()
                critics.requires_grad_(False)
                self.of_generators(networks, x, y).backward()
                critics.requires_grad_(True)
                players[1].step()
                step += 1
                average.move_average(generators, 1 - min(model.ema_decay, (1 + step) / (10 + step)))
                for schedule in schedules:
                    schedule.step()
        return self

    def of_critics(self, generators, critics, x, y):
        """Least squares, with the penalty of the slope."""
        with torch.no_grad():
            made = generators[0](x), generators[1](y)
        loss = 0.0
        for critic, true, false in zip(critics, (y, x), made, strict=True):
            both = torch.cat([true, false]).requires_grad_()
            output = critic(both, None)
            (slope,) = torch.autograd.grad(output.sum(), both, create_graph=True)
            of_true, of_false = output.chunk(2)
            loss = loss + (of_true - 1).square().mean() + of_false.square().mean()
            penalty = slope.flatten(1).square().sum(1).mean()
            loss = loss + self.model.gradient_penalty * penalty
        return loss

    def of_generators(self, networks, x, y):
        """Pleasing the critics, coming back, and leaving alone."""
        model, loss = self.model, 0.0
        generators, critics, distance = networks.generators, networks.critics, networks.distance
        for here, there, (out, back), critic in (
            (x, y, generators, critics[0]),
            (y, x, reversed(generators), critics[1]),
        ):
            made, kept = out(torch.cat([here, there])).split([len(here), len(there)])
            loss = loss + model.adversarial_weight * (critic(made, None) - 1).square().mean()
            loss = loss + model.cycle_weight * distance(back(made), here).mean()
            loss = loss + model.identity_weight * distance(kept, there).mean()
        return loss


def speed(n, epochs, repeat):
    """Fit against the bare loop."""
    torch.set_num_threads(1)
    source, target = prepare(simulate(n, 0)), prepare(simulate(n, 1, **OTHER))
    X, domain = np.concatenate([source, target]), np.repeat([0, -1], n)

    def fit():
        model = CycleGANTranslator(max_epochs=epochs, random_state=0, device="cpu")
        return model.fit(X, sample_domain=domain)

    bare = Bare(fit())
    sides = {"sknuc": fit, "bare loop": lambda: bare.fit(source, target, epochs)}
    times = alternate(sides, repeat)
    task = f"fit, {n:,} + {n:,} waveforms of 256 samples, {epochs} epochs"
    print("\n### The engine against a bare loop\n")
    print_table([(task, times, "bare loop", GOAL_SPEED)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--parts", default="abc")
    parser.add_argument("--events", type=int, default=2000, help="of either domain")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    n, epochs = (200, 2) if options.quick else (options.events, options.epochs)
    print(f"{machine()}, threads: {torch.get_num_threads()}", flush=True)
    if "a" in options.parts:
        # The same random state: the same events, of which the electronics alone differs.
        silent = {"white_noise": 0.0, "pink_noise": 0.0}
        twins = [
            prepare(simulate(n // 2, 2, **electronics))
            for electronics in (silent, {**OTHER, **silent})
        ]
        source, target = prepare(simulate(n, 0)), prepare(simulate(n, 1, **OTHER))
        judge("(a) Other electronics", source, target, epochs, twins, options.quick)
    if "b" in options.parts:
        try:
            target = real_waveforms()
        except (ImportError, OSError) as error:
            print(f"\n(b) is left out: {error}")
        else:
            source = prepare(simulate(n, 0, **LARGE))
            judge("(b) Th-228", source, target, epochs, quick=options.quick)
    if "c" in options.parts:
        speed(min(n, 512), 1 if options.quick else 4, 1 if options.quick else options.repeat)


if __name__ == "__main__":
    main()
