r"""
A map of germanium pulses, learned without labels
=================================================

A network looks at pulses of a germanium detector beside a thorium-228 source. It is told nothing
about them: neither energies, nor what kind of event they are. All it is asked is to recognise a
pulse when it comes again a little earlier, a little larger and with other noise. The features that
it finds are laid out on a map, along the two directions in which they vary most; then, and only
then, the map is coloured by what an analysis of pulse shapes measures. Where a colour changes
smoothly across the map, the network has found that quantity by itself.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# With ``--output`` the figure is written to a folder instead of being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from sknuc.datasets import fetch_th228_waveforms
from sknuc.encoders import CNN
from sknuc.preprocessing import (
    BaselineSubtractor,
    PulseShapeFeatures,
    WaveformAligner,
    WaveformNormalizer,
)
from sknuc.representation import Gain, LatentDisplay, Noise, Shift, SimCLR

parser = argparse.ArgumentParser(description="Draw a map of germanium pulses without labels.")
parser.add_argument("--output", type=Path, help="folder for the figure; else it is shown")
parser.add_argument("--n-events", type=int, default=1000, help="pulses to read, 1000 at most")
parser.add_argument("--max-epochs", type=int, default=60, help="passes over the pulses")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 15})

# %%
# Pulses in ADC counts, 16 ns apart. Those that are saturated, piled up, empty or cut off are left
# out, and small ones, whose noise is above a hundredth of the pulse.
pulses = fetch_th228_waveforms()
X = pulses.data[: arguments.n_events]
shape = PulseShapeFeatures(sampling_period=pulses.sampling_period).set_output(transform="pandas")
table = shape.fit_transform(X)
flags = ["saturated", "pileup", "no_pulse", "truncated"]
clean = (table[flags] == 0).all(axis=1) & (table["energy"] > 1500)
defined = table[["drift_time", "a_over_e", "tail_slope"]].notna().all(axis=1)
chosen = (clean & defined).to_numpy()
X, table = X[chosen], table[chosen]
print(f"{len(X)} of {len(chosen)} pulses are clean and large enough")

# %%
# What the analysis measures, for the colours only.
colors = {
    "drift time (ns)": table["drift_time"].to_numpy(),
    "A/E (its median = 1)": (table["a_over_e"] / table["a_over_e"].median()).to_numpy(),
    "tail slope (% of the pulse per µs)": (100 * table["tail_slope"] / table["energy"]).to_numpy(),
}

# %%
# Pulses without baseline, of height 1, with half of it at the same time: neither their energy nor
# their trigger is left, but for the noise, which is larger relative to a small pulse. So views of a
# pulse have noise as large as that.
aligned = make_pipeline(
    BaselineSubtractor(),
    WaveformNormalizer(norm="tail"),
    WaveformAligner(level=0.5, before=1600.0, after=8000.0),
).fit_transform(X)
model = SimCLR(
    augmentations=[
        Shift(samples=(-3, 3)),
        Noise(std=(0.0, 0.02)),
        Gain(factor=(0.98, 1.02)),
    ],
    encoder=CNN(channels=(16, 32, 32), n_blocks=0),
    max_epochs=arguments.max_epochs,
    batch_size=128,
    random_state=0,
    device="cpu",
)
Z = model.fit_transform(aligned[:, np.newaxis].astype(np.float32))

# %%
# How much of each quantity is in the features: a linear fit to them, cross-validated.
shares = {}
for name, values in colors.items():
    found = cross_val_predict(RidgeCV(np.logspace(-5, 5, 21)), (Z - Z.mean(0)) / Z.std(), values)
    shares[name] = 1 - np.mean((values - found) ** 2) / np.var(values)
    print(f"{name}: a linear fit to the features explains {shares[name]:.2f} of the variance")

# %%
# The map.
display = LatentDisplay.from_features(Z, color=colors)
display.figure_.suptitle(f"{len(X)} pulses of ²²⁸Th, arranged without labels", fontsize=18)
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    display.figure_.savefig(arguments.output / "learned_map.png", dpi=120)
else:
    plt.show()
