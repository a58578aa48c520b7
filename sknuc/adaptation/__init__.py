"""Adaptation: what was learnt on simulated events is made right for measured ones."""

from sknuc.adaptation._adversarial import CDANClassifier, DANNClassifier, DANNRegressor
from sknuc.adaptation._cyclegan import CycleGANTranslator
from sknuc.adaptation._domain_scorer import make_domain_scorer
from sknuc.adaptation._label_shift import LabelShiftClassifier
from sknuc.adaptation._moments import DeepCORALClassifier, DeepCORALRegressor, MMDClassifier
from sknuc.adaptation._plot_shift import DomainShiftDisplay
from sknuc.adaptation._reweighting import DomainReweighter
from sknuc.adaptation._shift import DomainShiftReport, domain_shift

__all__ = [
    "CDANClassifier",
    "CycleGANTranslator",
    "DANNClassifier",
    "DANNRegressor",
    "DeepCORALClassifier",
    "DeepCORALRegressor",
    "DomainReweighter",
    "DomainShiftDisplay",
    "DomainShiftReport",
    "LabelShiftClassifier",
    "MMDClassifier",
    "domain_shift",
    "make_domain_scorer",
]
