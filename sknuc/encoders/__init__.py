"""Encoders: the networks that read a detector's data, as scikit-learn objects."""

from sknuc.encoders._base import Encoder, ModuleEncoder
from sknuc.encoders._cnn import CNN
from sknuc.encoders._convlstm import ConvLSTM
from sknuc.encoders._kamnet import KamNet
from sknuc.encoders._mlp import MLP
from sknuc.encoders._pointnet import PointNet
from sknuc.encoders._recurrent import GRU, LSTM
from sknuc.encoders._spherical import SphericalCNN
from sknuc.encoders._transformer import Transformer

__all__ = [
    "CNN",
    "GRU",
    "LSTM",
    "MLP",
    "ConvLSTM",
    "Encoder",
    "KamNet",
    "ModuleEncoder",
    "PointNet",
    "SphericalCNN",
    "Transformer",
]
