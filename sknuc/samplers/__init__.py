"""Samplers: p(x) or p(x given y), learned from events, and events drawn from it."""

from sknuc.samplers._denoisers import Denoiser, ResidualMLP, UNet
from sknuc.samplers._diffusion import DiffusionSampler
from sknuc.samplers._flow import FlowSampler
from sknuc.samplers._gan import GANSampler
from sknuc.samplers._oversampler import GenerativeOverSampler
from sknuc.samplers._vae import VAESampler

__all__ = [
    "Denoiser",
    "DiffusionSampler",
    "FlowSampler",
    "GANSampler",
    "GenerativeOverSampler",
    "ResidualMLP",
    "UNet",
    "VAESampler",
]
