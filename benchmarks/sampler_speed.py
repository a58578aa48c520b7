r"""Samplers against bare loops of PyTorch, and against SDV's where those are installed.

Command: ``python benchmarks/sampler_speed.py [--quick] [--repeat 5] [--epochs 10] [--judge 5000]``

20,000 reconstructed jets (pT, η, φ, m), standardised, float32, one thread; both sides in turn, each
building its network anew. Bare loops are those that one writes by hand: one permutation per epoch,
indexed batches, fused AdamW, the same schedule of the learning rate, no weights, no history. They
take sizes and rates from the sampler, and nothing is timed before it is checked that as many
numbers are learnt on both sides, but for zuko's own flow and SDV.

(a) `FlowSampler.fit` against the same flow, and against zuko's own `NSF` of as many maps, hidden
layers and bins. (b) `VAESampler.fit` against an autoencoder of the same layers, whose decoder gives
the scale of every value too, as is the default. (c) `GANSampler.fit` against the same game: critic
and generator of the same layers, gradient penalties, a running average of the weights; the bare
loop is given uncorrelated variables, as the sampler makes them. (d) `GANSampler` and `VAESampler`
against CTGAN and TVAE of SDV's package ctgan, in as many epochs and batches of 500 events; only
where ctgan is installed.

What all of them learnt is judged once per side: the AUC of boosted trees that tell 5,000 of its
jets from 5,000 new ones, 0.5 is indistinguishable; and mean log densities of new jets, in nats, by
which the same flow must be equally good on both sides.
"""

import argparse
import copy
import importlib.util
import itertools
import math

import numpy as np
import torch
from _timing import alternate, machine, print_table
from torch import nn
from torch.nn import functional as F
from zuko.flows import NSF

from sknuc.datasets import make_jets
from sknuc.metrics import two_sample_auc
from sknuc.nn import ConditionalFlow
from sknuc.samplers import FlowSampler, GANSampler, VAESampler

GOAL = "≤ 1.05"
PENALTY = 0.05


def bare_loop(module, loss, X, epochs, model):
    """Train a module by the mean of ``loss(module, X)``, as one does it by hand for a sampler's."""
    X, size = torch.from_numpy(X), model.batch_size
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=model.learning_rate, weight_decay=model.weight_decay, fused=True
    )
    n_steps = epochs * -(-len(X) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2
    )
    for _ in range(epochs):
        order = torch.randperm(len(X))
        for start in range(0, len(X), size):
            optimizer.zero_grad()
            loss(module, X[order[start : start + size]]).mean().backward()
            optimizer.step()
            schedule.step()
    return module


def count(module):
    """Parameters of a module that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def widths(network):
    """What the linear layers of a network give."""
    return [layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)]


def perceptron(sizes, activation):
    """Linear layers of the widths, the first of which is that of events, activated in between."""
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


class Bare:
    """A bare loop that learns what a sampler, which is fitted first, does.

    Parameters
    ----------
    model : Sampler
    """

    # Whether it is the sampler's network.
    same = True

    def __init__(self, model):
        self.model = model


class SameFlow(Bare):
    """The network of `FlowSampler` for a table, without it."""

    name = "bare loop, the same flow"

    def fit(self, X, epochs):
        """Train it."""
        torch.manual_seed(0)
        first, n = torch.randperm(X.shape[1]).numpy(), X.shape[1]
        n_maps, sizes = self.shape()
        orders = [(first[::-1] if i % 2 else first).copy() for i in range(n_maps)]
        angular = np.zeros(n, bool)
        flow = ConditionalFlow(nn.Identity(), 1, angular, orders, sizes, self.model.bins)
        self.flow = bare_loop(flow, lambda m, x: -self.log_density(m, x), X, epochs, self.model)
        return self

    def shape(self):
        """How many maps the sampler has, and the hidden layers of each."""
        layers = self.model.module_[1].flow.layers
        return len(layers), widths(layers[0])[:-1]

    def log_density(self, flow, x):
        """Of tensors (n, 4), in nats."""
        return flow.log_prob(x.new_ones(len(x), 1), x)

    def density(self, X):
        """Mean log density, in words."""
        with torch.no_grad():
            return f"{self.log_density(self.flow, torch.from_numpy(X)).mean().item():.3f}"

    def n_parameters(self):
        """How many numbers are learnt."""
        return count(self.flow)

    def sample(self, n):
        """Jets."""
        generator = np.random.default_rng(0)
        z = self.flow.base_quantiles(generator.uniform(size=(n, 4)))
        with torch.no_grad():
            ones = torch.ones(n, 1)
            return self.flow.transform(ones).inv(torch.from_numpy(z).float()).numpy()


class ZukoFlow(SameFlow):
    """Zuko's neural spline flow."""

    name, same = "bare loop, zuko.flows.NSF", False

    def fit(self, X, epochs):
        """Train it."""
        torch.manual_seed(0)
        n_maps, sizes = self.shape()
        options = {"bins": self.model.bins, "transforms": n_maps, "hidden_features": sizes}
        flow = NSF(X.shape[1], activation=nn.SiLU, **options)
        self.flow = bare_loop(flow, lambda m, x: -self.log_density(m, x), X, epochs, self.model)
        return self

    def log_density(self, flow, x):
        """Of tensors (n, 4), in nats."""
        return flow().log_prob(x)

    def sample(self, n):
        """Jets."""
        torch.manual_seed(0)
        with torch.no_grad():
            return self.flow().sample((n,)).numpy()


class BareVAE(Bare):
    """An autoencoder with the layers of `VAESampler` for a table."""

    name = "bare loop, the same layers"

    def fit(self, X, epochs):
        """Train it."""
        torch.manual_seed(0)
        n, n_latent, own = X.shape[1], self.model.n_latent, self.model.module_[1]
        encoder = perceptron([n, *widths(own.encoder), 2 * n_latent], nn.SiLU)
        decoder = perceptron([n_latent, *widths(own.decoder)[:-1], 2 * n], nn.SiLU)
        # The scale is one for all events at first.
        scale = nn.ParameterList([torch.zeros(n), torch.zeros(())])
        module = nn.ModuleList([encoder, decoder, scale])
        self.module = bare_loop(module, self.loss, X, epochs, self.model)
        return self

    def decode(self, module, z):
        """Mean and standard deviation of events."""
        _, decoder, (common, gain) = module
        mean, width = decoder(z).chunk(2, 1)
        return mean, 1e-3 + F.softplus(common + gain * width)

    def loss(self, module, x):
        """Negative bound of events (n, 4), (n,)."""
        mean, log_std = module[0](x).chunk(2, 1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        divergence = (mean.square() + (2 * log_std).exp() - 1) / 2 - log_std
        center, std = self.decode(module, z)
        noise = ((x - center) / std).square() / 2 + std.log() + math.log(2 * math.pi) / 2
        return noise.sum(1) + divergence.sum(1)

    def density(self, X):
        """Mean of the bound, of one draw, in words."""
        torch.manual_seed(0)
        with torch.no_grad():
            return f"≥ {-self.loss(self.module, torch.from_numpy(X)).mean().item():.3f}"

    def n_parameters(self):
        """How many numbers are learnt."""
        return count(self.module)

    def sample(self, n):
        """Jets."""
        torch.manual_seed(0)
        with torch.no_grad():
            mean, std = self.decode(self.module, torch.randn(n, self.model.n_latent))
            return (mean + std * torch.randn_like(mean)).numpy()


class BareGAN(Bare):
    """The game of `GANSampler` for a table."""

    name = "bare loop, the same game"

    def fit(self, X, epochs):
        """Train it."""
        torch.manual_seed(0)
        n = X.shape[1]
        self.mean, factor = X.mean(0), np.linalg.cholesky(np.cov(X.T))
        self.factor = factor.astype(np.float32)
        X = torch.from_numpy((X - self.mean) @ np.linalg.inv(self.factor).T)

        model, own = self.model, self.model.module_[1]
        self.critic = perceptron([n, *widths(own.critic.encoder), 1], nn.LeakyReLU)
        hidden = widths(own.generator.decoder)[:-1]
        network = perceptron([n, *hidden, 2 * n], nn.LeakyReLU)
        scale = nn.ParameterList([torch.zeros(n), torch.zeros(())])
        self.generator = nn.ModuleList([network, scale])
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        players = [
            torch.optim.Adam(module.parameters(), lr=rate, betas=model.betas, fused=True)
            for module, rate in (
                (self.critic, model.critic_learning_rate),
                (self.generator, model.learning_rate),
            )
        ]
        n_steps = epochs * -(-len(X) // model.batch_size)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                player, lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2
            )
            for player in players
        ]
        step = 0
        for _ in range(epochs):
            order = torch.randperm(len(X))
            for start in range(0, len(X), model.batch_size):
                x = X[order[start : start + model.batch_size]]
                for player, loss in zip(players, (self.of_critic, self.of_generator), strict=True):
                    player.zero_grad()
                    loss(x).backward()
                    player.step()
                step += 1
                share = 1 - min(model.ema_decay, (1 + step) / (10 + step))
                torch._foreach_lerp_(
                    list(self.average.parameters()), list(self.generator.parameters()), share
                )
                for schedule in schedules:
                    schedule.step()
        return self

    def make(self, generator, latent):
        """Uncorrelated variables of latent numbers (n, 4), with noise."""
        network, (common, gain) = generator
        mean, width = network(latent).chunk(2, 1)
        noise = torch.sigmoid(10 * (common + gain * width)) * torch.randn_like(latent)
        return 0.95 * latent + mean + 0.6 * noise

    def of_critic(self, x):
        """Loss of the critic, with the penalty of its slope at true and generated events."""
        with torch.no_grad():
            made = self.make(self.generator, torch.randn_like(x))
        both = torch.cat([x, made]).requires_grad_()
        output = self.critic(both)[:, 0]
        (slope,) = torch.autograd.grad(output.sum(), both, create_graph=True)
        true, false = output.chunk(2)
        penalty = PENALTY * slope.square().sum(1).mean()
        return F.softplus(-true).mean() + F.softplus(false).mean() + penalty

    def of_generator(self, x):
        """Non-saturating loss of the generator."""
        made = self.make(self.generator, torch.randn_like(x))
        return F.softplus(-self.critic(made)[:, 0]).mean()

    def density(self, X):
        """There is none."""
        return ""

    def n_parameters(self):
        """How many numbers are learnt."""
        return count(nn.ModuleList([self.critic, self.generator]))

    def sample(self, n):
        """Jets."""
        torch.manual_seed(0)
        with torch.no_grad():
            made = self.make(self.average, torch.randn(n, len(self.factor)))
        return made.numpy() @ self.factor.T + self.mean


class Ours:
    """A sampler of sknuc."""

    def __init__(self, kind, epochs, **options):
        self.name = kind.__name__
        self.model = kind(max_epochs=epochs, random_state=0, device="cpu", **options)

    def fit(self, X, epochs):
        """Train it."""
        self.model.fit(X)
        return self

    def density(self, X):
        """Mean log density, in words."""
        if not hasattr(self.model, "score"):
            return ""
        bound = "≥ " * isinstance(self.model, VAESampler)
        return f"{bound}{self.model.score(X):.3f}"

    def n_parameters(self):
        """How many numbers are learnt."""
        return count(self.model.module_)

    def sample(self, n):
        """Jets."""
        return self.model.sample(n, random_state=0)


class FromSDV:
    """CTGAN or TVAE of SDV's package ctgan."""

    same = False

    def __init__(self, name):
        self.name = name

    def fit(self, X, epochs):
        """Train it."""
        import ctgan
        import pandas as pd

        self.model = getattr(ctgan, self.name)(epochs=epochs, batch_size=500)
        self.model.fit(pd.DataFrame(X, columns=["pt", "eta", "phi", "m"]))
        return self

    def sample(self, n):
        """Jets."""
        return self.model.sample(n).to_numpy()

    def density(self, X):
        """There is none."""
        return ""

    def n_parameters(self):
        """It is not asked for."""
        return None


def check_same(side, reference, X, epochs):
    """Fit both on a few events, and refuse to compare networks of different sizes."""
    n, other = (s.fit(X[:1000], epochs).n_parameters() for s in (side, reference))
    if reference.same and n != other:
        raise ValueError(f"{side.name} learns {n:,} numbers, but the {reference.name} {other:,}.")


def compare(title, pairs, X, X_test, options):
    """Print times of pairs of sides, then what each of them has learnt."""
    rows, sides = [], {}
    for side, reference, goal in pairs:
        check_same(side, reference, X, options.epochs)
        times = alternate(
            {s.name: lambda s=s: s.fit(X, options.epochs) for s in (side, reference)},
            options.repeat,
        )
        rows.append(
            (
                f"{len(X):,} × 4, {options.epochs} epochs",
                times,
                reference.name,
                "" if options.quick else goal,
            )
        )
        sides |= {side.name: side, reference.name: reference}
    print(f"\n### {title}\n")
    print_table(rows)
    print("\n| side | parameters | AUC | mean log density, nats |\n|---|---|---|---|")
    for name, side in sides.items():
        found, n = two_sample_auc(X_test, side.sample(len(X_test))), side.n_parameters()
        print(
            f"| {name} | {'' if n is None else f'{n:,}'} | {found.auc:.3f} ± {found.error:.3f} | "
            f"{side.density(X_test)} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--judge", type=int, default=5000, help="jets that are judged")
    options = parser.parse_args()
    n = 20_000
    if options.quick:
        n, options.repeat, options.epochs, options.judge = 1000, 1, 2, 500
    torch.set_num_threads(1)
    X, X_test = (
        make_jets(size, random_state=seed).target.astype(np.float32)
        for seed, size in enumerate((n, options.judge))
    )
    mean, std = X.mean(0), X.std(0)
    X, X_test = (X - mean) / std, (X_test - mean) / std
    print(machine() + ", one thread")
    if options.quick:
        print("A quick run: what a fit does once weighs more than in use, so that no goal applies.")
    flow, vae = (Ours(kind, options.epochs) for kind in (FlowSampler, VAESampler))
    gan = Ours(GANSampler, options.epochs, gradient_penalty=PENALTY)
    pairs = [(flow, SameFlow(flow.model), GOAL), (flow, ZukoFlow(flow.model), GOAL)]
    compare("(a) FlowSampler", pairs, X, X_test, options)
    compare("(b) VAESampler", [(vae, BareVAE(vae.model), GOAL)], X, X_test, options)
    compare("(c) GANSampler", [(gan, BareGAN(gan.model), GOAL)], X, X_test, options)
    if importlib.util.find_spec("ctgan") is None:
        print("\n### (d) SDV\n\nThe package ctgan is not installed: no comparison.")
        return
    vae, gan = (Ours(kind, options.epochs, batch_size=500) for kind in (VAESampler, GANSampler))
    pairs = [(vae, FromSDV("TVAE"), "≤ 1.00"), (gan, FromSDV("CTGAN"), "≤ 1.00")]
    compare("(d) SDV", pairs, X, X_test, options)


if __name__ == "__main__":
    main()
