r"""From simulation to data: what adaptation wins back of what a shift costs.

Command: ``python benchmarks/adaptation.py [--quick] [--seeds 3] [--tasks abcde] [--methods ...]
[--repeat 5]``

A classifier learns from labelled events of a source, and is judged on other events of a target, of
which the adapters see as many without labels. With default parameters, but for encoder and epochs,
which are the same for all networks, and a learning rate that falls as a cosine for all of ours.

(a) Two classes of Gaussians at ±1.5 in the plane; the target is shifted by 1.5 along the same axis.
The source's best cut has the accuracy 0.749 there, the best one 0.933. (b) Tracks in a time
projection chamber (proton, carbon, other) of `make_tpc_events`, as images; the target is its
"real" detector. (c) Single-site and multi-site germanium waveforms; the target's electronics is
slower, noisier and has another gain. (d) As (a), but one class is four times as frequent as the
other in the target.

- source only: a network of the source. Oracle: one of as many labelled events of the target.
- reweighting: the source's events weighted by `DomainReweighter`, as if their density alone
  differed; by trees for tables, else by the same network.
- translation: a network of the source as `CycleGANTranslator` makes it look like the target.
- label shift: the source's network with `LabelShiftClassifier`, as if only class priors differed.
- DANN, CDAN, CORAL, MMD: the adapters. "as published" is without the map of the target's channels
  and with the source's class priors, which are both of sknuc, and games have a minimax loss without
  a penalty.
- skada's DANN and DeepCoral, where the package is installed: the same network, optimizer, epochs
  and batches, and a constant learning rate, as there.

(e) The fit of a DANN with the source's class priors against a bare loop of the same game: one
permutation per epoch and domain, fused AdamW, the same networks, losses and rates; no weights, no
history, no estimate of priors. Both sides in turn, one thread.

"Gap closed" is the accuracy's way from source only to the oracle. Accuracies are means over seeds
of data and network, with the standard error of the mean.
"""

import argparse
import copy
import importlib.util
import math
import time
import warnings

import numpy as np
import torch
from _timing import alternate, machine, print_table
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sknuc.adaptation import (
    CDANClassifier,
    CycleGANTranslator,
    DANNClassifier,
    DeepCORALClassifier,
    DomainReweighter,
    LabelShiftClassifier,
    MMDClassifier,
)
from sknuc.datasets import make_hpge_waveforms, make_tpc_events
from sknuc.encoders import CNN, MLP
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import BaselineSubtractor, TPCProjector, WaveformAligner

ADAPTERS = {
    "DANN": DANNClassifier,
    "CDAN": CDANClassifier,
    "CORAL": DeepCORALClassifier,
    "MMD": MMDClassifier,
}
PUBLISHED = {"domain_map": None, "target_priors": "source"}
PUBLISHED_GAME = {**PUBLISHED, "game": "minimax", "gradient_penalty": 0.0}


class Gaussians:
    """Tasks (a) and (d)."""

    encoder, epochs, n, n_test = MLP(), 100, 2000, 10_000

    def __init__(self, share):
        self.share = share
        self.title = f"Gaussians shifted by 1.5, {share:.0%} of class 1 in the target"

    def draw(self, n, of_target, seed):
        """Events of a domain, and their labels."""
        rng = np.random.default_rng(seed)
        y = (rng.random(n) < (self.share if of_target else 0.5)).astype(int)
        X = rng.normal(size=(n, 2))
        X[:, 0] += 3 * y - 1.5 + 1.5 * of_target
        return X.astype(np.float32), y


class Tracks:
    """Task (b)."""

    encoder, epochs, n, n_test = CNN(), 15, 3000, 3000
    title = "tracks in a time projection chamber, simulation to real"
    chamber = make_tpc_events(1, random_state=0).ranges  # mm

    def draw(self, n, of_target, seed):
        """Events of a domain, and their labels."""
        projector = TPCProjector(bins=(48, 48), ranges=self.chamber, log=True)
        state, parts = np.random.RandomState(seed), []
        for start in range(0, n, 500):
            clouds, y = make_tpc_events(
                min(500, n - start),
                domain="real" if of_target else "simulation",
                return_X_y=True,
                random_state=state,
            )
            parts.append((projector.fit_transform(clouds), y))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


class Pulses:
    """Task (c)."""

    encoder, epochs, n, n_test = CNN(channels=(8, 16)), 30, 4000, 6000
    title = "germanium waveforms, changed electronics"
    response = {"smoothing": 60.0, "white_noise": 6.0, "gain": 4.0, "decay_time": 50_000.0}

    def draw(self, n, of_target, seed):
        """Events of a domain, and their labels."""
        X, y = make_hpge_waveforms(
            n,
            weights=(0.5, 0.5, 0),
            energy=(1000.0, 2700.0),
            return_X_y=True,
            random_state=seed,
            **(self.response if of_target else {}),
        )
        steps = make_pipeline(
            BaselineSubtractor(), WaveformAligner(level=0.5, before=1024.0, after=1024.0)
        )
        X = steps.fit_transform(X)
        # Units of the pulse's height, so that energies do not matter.
        return (X / X.max(axis=1, keepdims=True)).astype(np.float32)[:, None], y


TASKS = {"a": [Gaussians(0.5)], "b": [Tracks()], "c": [Pulses()],
         "d": [Gaussians(0.8), Gaussians(0.2)]}  # fmt: skip


def skada_side(name, task, epochs, seed):
    """An adapter of skada with the same network; fit(X, y, sample_domain) and predict(X)."""
    from skada.deep import DANN, DeepCoral
    from torch.optim import AdamW

    class Network(nn.Sequential):
        """Hooks find the features by this name."""

        def __init__(self, encoder, n_features, n_classes):
            super().__init__()
            self.features, self.head = encoder, nn.Linear(n_features, n_classes)

        def forward(self, x, sample_weight=None):
            return self.head(self.features(x))

    class Side:
        def fit(self, X, y, sample_domain):
            torch.manual_seed(seed)
            encoder = task.encoder.build(X.shape[1:])
            n_features = encoder.eval()(torch.zeros(2, *X.shape[1:])).shape[1]
            mean, std = X.mean(), X.std()
            self.scale = lambda X: (X - mean) / std
            network = Network(encoder.train(), n_features, len(np.unique(y[y >= 0])))
            options = {"num_features": n_features} if name == "DANN" else {}
            self.model = {"DANN": DANN, "CORAL": DeepCoral}[name](
                network,
                layer_name="features",
                max_epochs=epochs,
                batch_size=64,
                lr=0.003,
                optimizer=AdamW,
                train_split=None,
                verbose=0,
                **options,
            )
            self.model.fit(self.scale(X), y, sample_domain)
            return self

        def predict(self, X):
            return self.model.predict(self.scale(X), np.full(len(X), -1))

    return Side()


def fit(method, task, X, y, domain, epochs, seed):
    """A fitted model with ``predict`` for events of the target."""
    network = {"encoder": task.encoder, "max_epochs": epochs, "random_state": seed}
    network["schedule"] = "cosine"
    source = domain >= 0
    plain = NeuralClassifier(batch_size=64, **network)
    if method == "source only":
        return plain.fit(X[source], y[source])
    if method == "reweighting":
        reweighter = DomainReweighter(
            None if X.ndim == 2 else plain, cv=2 if X.ndim > 2 else 5, random_state=seed
        )
        weight = reweighter.fit(X, domain).predict_weight(X)
        return plain.fit(X[source], y[source], sample_weight=weight[source])
    if method == "translation":
        translator = CycleGANTranslator(random_state=seed).fit(X, sample_domain=domain)
        moved = translator.transform(X[source]).reshape(X[source].shape).astype(X.dtype)
        return plain.fit(moved, y[source])
    if method == "label shift":
        model = LabelShiftClassifier(plain, cv=3, random_state=seed)
        return model.fit(X.reshape(len(X), -1), y, sample_domain=domain)
    name, _, how = method.partition(", ")
    if name.startswith("skada"):
        return skada_side(name.split()[1], task, epochs, seed).fit(X, y, sample_domain=domain)
    published = PUBLISHED_GAME if name in ("DANN", "CDAN") else PUBLISHED
    model = ADAPTERS[name](**network, **(published if how else {}))
    return model.fit(X, y, sample_domain=domain)


def methods_of(task, letter, chosen):
    names = ["source only", "reweighting"]
    if letter in "ad":
        names += ["label shift"]
    names += ["translation", *ADAPTERS, *(f"{name}, as published" for name in ADAPTERS)]
    if importlib.util.find_spec("skada") is not None:
        names += ["skada DANN", "skada CORAL"]
    return [name for name in names if chosen is None or name == "source only" or name in chosen]


def run(task, letter, seeds, chosen, quick):
    n, n_test = (200, 500) if quick else (task.n, task.n_test)
    epochs = 2 if quick else task.epochs
    print(f"\n### ({letter}) {task.title}: {n:,} events of either domain, {epochs} epochs\n")
    names = methods_of(task, letter, chosen)
    found = {name: [] for name in [*names, "oracle"]}
    seconds = {name: [] for name in found}
    for seed in range(seeds):
        X, y = task.draw(n, False, 4 * seed)
        X_target, y_target = task.draw(n, True, 4 * seed + 1)
        X_test, y_test = task.draw(n_test, True, 4 * seed + 2)
        both = np.concatenate([X, X_target])
        domain = np.repeat([1, -1], n)
        labels = np.concatenate([y, np.full(n, -1)])
        for name in found:
            start = time.perf_counter()
            if name == "oracle":
                model = fit("source only", task, X_target, y_target, np.ones(n), epochs, seed)
            else:
                model = fit(name, task, both, labels, domain, epochs, seed)
            seconds[name].append(time.perf_counter() - start)
            table = name == "label shift"
            X_judge = X_test.reshape(n_test, -1) if table else X_test
            found[name].append(np.mean(model.predict(X_judge) == y_test))
    low, high = (np.mean(found[name]) for name in ("source only", "oracle"))
    print("| method | accuracy in the target | of single seeds | gap closed | fit s |")
    print("|---|---|---|---|---|")
    for name, values in found.items():
        error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
        closed = "" if name in ("source only", "oracle") else (
            f"{(np.mean(values) - low) / (high - low):.0%}" if high - low > 0.01 else "no gap"
        )  # fmt: skip
        print(
            f"| {name} | {np.mean(values):.3f} ± {error:.3f} | {min(values):.3f}–{max(values):.3f} "
            f"| {closed} | {np.median(seconds[name]):.1f} |",
            flush=True,
        )


class Bare:
    """The game of a fitted DANN in a bare loop."""

    def __init__(self, model):
        self.model = model
        self.scaling, self.network = copy.deepcopy(model.module_)

    def fit(self, source, y, target, epochs):
        """Train it."""
        torch.manual_seed(0)
        model, network = self.model, copy.deepcopy(self.network).train()
        with torch.no_grad():
            x, x_other = (self.scaling(torch.from_numpy(part)) for part in (source, target))
        y = torch.from_numpy(y).float()
        size = model.batch_size
        per_epoch = -(-len(x) // size)
        size = -(-len(x) // per_epoch)
        n_steps, step = epochs * per_epoch, 0
        player = torch.optim.AdamW(
            network.parameters(),
            lr=model.learning_rate,
            betas=model.betas,
            weight_decay=model.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            player, lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2
        )
        for _ in range(epochs):
            order, other = torch.randperm(len(x)), torch.randperm(len(x_other))
            for start in range(0, len(x), size):
                rows, rows_other = order[start : start + size], other[start : start + size]
                rise = 2 / (1 + math.exp(-model.ramp * step / n_steps)) - 1
                player.zero_grad()
                strength = model.trade_off * rise
                self.loss(network, x[rows], y[rows], x_other[rows_other], strength).backward()
                player.step()
                schedule.step()
                step += 1
        return self

    def loss(self, network, x, y, x_other, strength):
        """The classes, the critic, its slope, and misleading it."""
        features = network.features(x, x_other)
        loss = F.binary_cross_entropy_with_logits(network.head(features[: len(x)])[:, 0], y)
        sign = torch.cat([torch.ones(len(x)), -torch.ones(len(x_other))])
        seen = features.detach().requires_grad_()
        told = network.critic(seen, None)
        (slope,) = torch.autograd.grad(told.sum(), seen, create_graph=True)
        penalty = self.model.gradient_penalty / 2 * slope.square().sum(1).mean()
        held = {name: weight.detach() for name, weight in network.critic.named_parameters()}
        misled = functional_call(network.critic, held, (features, None))
        lost = F.softplus(-sign * told).mean() + penalty
        return loss + lost + strength * F.softplus(sign * misled).mean()


def speed(n, epochs, repeat):
    """Fit against the bare loop."""
    task = Gaussians(0.5)
    (X, y), (X_target, _) = task.draw(n, False, 0), task.draw(n, True, 1)
    both, domain = np.concatenate([X, X_target]), np.repeat([1, -1], n)
    labels = np.concatenate([y, np.full(n, -1)])

    def fit():
        model = DANNClassifier(
            max_epochs=epochs, target_priors="source", random_state=0, device="cpu"
        )
        return model.fit(both, labels, sample_domain=domain)

    bare = Bare(fit())
    sides = {"sknuc": fit, "bare loop": lambda: bare.fit(X, y, X_target, epochs)}
    title = f"fit, {n:,} + {n:,} events of 2 numbers, source's priors, {epochs} epochs"
    print("\n### (e) The engine against a bare loop\n")
    print_table([(title, alternate(sides, repeat), "bare loop", "≤ 1.05")])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default="abcde")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Skorch warns of what skada does with it.
    warnings.simplefilter("ignore")
    print(f"{machine()}, one thread", flush=True)
    for letter, tasks in TASKS.items():
        for task in tasks if letter in options.tasks else []:
            seeds = 1 if options.quick else options.seeds
            run(task, letter, seeds, options.methods, options.quick)
    if "e" in options.tasks:
        n, epochs, repeat = (200, 2, 1) if options.quick else (4000, 20, options.repeat)
        speed(n, epochs, repeat)


if __name__ == "__main__":
    main()
