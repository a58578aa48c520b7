"""Training: the only room that imports skorch."""

from sknuc._engine._device import (
    draw_seed,
    needs_mixed_precision,
    prediction_device,
    resolve_device,
    seeded,
    torch_dtype,
)
from sknuc._engine._events import (
    CHUNK_BYTES,
    RESIDENT_BYTES,
    Batch,
    EventSource,
    PairedData,
    TrainingData,
    as_tensor,
    is_on_disk,
    load_if_small,
    numpy_dtype,
)
from sknuc._engine._forward import forward
from sknuc._engine._game import Player, TrainingResult, train
from sknuc._engine._work import multiply_adds, threads_for

__all__ = [
    "CHUNK_BYTES",
    "RESIDENT_BYTES",
    "Batch",
    "EventSource",
    "PairedData",
    "Player",
    "TrainingData",
    "TrainingResult",
    "as_tensor",
    "draw_seed",
    "forward",
    "is_on_disk",
    "load_if_small",
    "multiply_adds",
    "needs_mixed_precision",
    "numpy_dtype",
    "prediction_device",
    "resolve_device",
    "seeded",
    "threads_for",
    "torch_dtype",
    "train",
]
