"""What learns inside an estimator, and whether it has requested the weights of events.

With scikit-learn's metadata routing, an estimator that holds others passes weights to whatever has
requested them. That a scaler or a scorer gets them is of no use to what learns.
"""

from sklearn.frozen import FrozenEstimator
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    _routing_enabled,
    get_routing_for_object,
)
from sklearn.utils.validation import has_fit_parameter

__all__ = ["takes_weights", "without_weights"]

#: The request of what has no parameter `sample_weight`.
_NONE = "no parameter"


def takes_weights(estimator):
    """Whether ``fit(..., sample_weight=...)`` gives the weights to all that learns by it."""
    takes = has_fit_parameter(estimator, "sample_weight")
    if not _routing_enabled():
        held = getattr(estimator, "estimator", None)
        return takes and (held is None or takes_weights(held))
    try:
        routing = get_routing_for_object(estimator)
    except NotImplementedError:
        # An estimator that holds others, and routes nothing.
        return False
    if not takes and not isinstance(routing, MetadataRouter):
        return False
    # Who is given weights by hand needs no request, but may have refused them.
    if False in _requests(routing):
        return False
    held = _requests(routing, own=False)
    return all(request in (True, "sample_weight") for request in held) if held else takes


def without_weights(estimator):
    """Whether nothing that learns has a parameter for weights, with which it could refuse them."""
    return set(_requests(get_routing_for_object(estimator))) == {_NONE}


def _requests(routing, method="fit", *, own=True):
    """Requests for weights of all that ``fit`` lets learn; without those of the top if not `own`.

    Of what predicts: transformers of events, scorers and splitters learn nothing from a weight.
    """
    if not isinstance(routing, MetadataRouter):
        learns = hasattr(routing.owner, "predict") and not isinstance(
            routing.owner, FrozenEstimator
        )
        return [getattr(routing, method).requests.get("sample_weight", _NONE)] * (own and learns)
    requests = []
    for name, (mapping, part) in routing:
        if name == "$self_request":
            # A router that takes no weights itself passes them on.
            requests += [r for r in _requests(part, method) if own and r != _NONE]
            continue
        callees = {callee for caller, callee in mapping if caller == method}
        for callee in sorted(callees & {"fit", "fit_transform"}):
            requests += _requests(part, callee)
    return requests
