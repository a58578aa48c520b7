"""What the displays of predicted distributions share."""

__all__ = ["BANDS", "name_targets"]

#: Names of the bands, and their half widths in standard deviations.
BANDS = (("95 % band", 1.96, "#E6E6E6"), ("68 % band", 0.994, "#CCCCCC"))


def name_targets(name, shape, target_names, default):
    """Names of the curves of all targets."""
    n_targets = 1 if len(shape) == 1 else shape[1]
    if target_names is None:
        target_names = [None] if len(shape) == 1 else [f"target {j}" for j in range(n_targets)]
    if len(target_names) != n_targets:
        raise ValueError(
            f"The 'target_names' parameter must name {n_targets} targets. Got {target_names!r}."
        )
    names = [", ".join(part for part in (name, target) if part) for target in target_names]
    return [label or default for label in names]
