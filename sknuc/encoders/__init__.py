"""Encoders: the networks that read a detector's data, as scikit-learn objects."""

from sknuc.encoders._base import Encoder, ModuleEncoder
from sknuc.encoders._cnn import CNN
from sknuc.encoders._convlstm import ConvLSTM
from sknuc.encoders._mlp import MLP
from sknuc.encoders._pointnet import PointNet

__all__ = ["CNN", "MLP", "ConvLSTM", "Encoder", "ModuleEncoder", "PointNet"]
