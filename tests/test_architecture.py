"""Who may import whom."""

import ast
from pathlib import Path

import pytest

import sknuc

ROOT = Path(sknuc.__file__).parent
# What each room may import of sknuc, and of the packages that are not for everybody.
CONTRACT = {"base", "exceptions", "geometry", "multiplicity", "predictive", "_version"}
METHOD = {"torch_estimator", "nn", "losses"}
NEURAL = METHOD | {"neural_estimator"}
NETWORK = {"torch", "xgboost", "gpytorch"}
ROOMS = {
    "__init__": (set(), set()),
    "_version": (set(), set()),
    "base": (set(), set()),
    "exceptions": (set(), set()),
    "geometry": (set(), set()),
    "predictive": (set(), set()),
    "_engine": (set(), {"torch", "skorch"}),
    "multiplicity": (set(), set()),
    "nn": (set(), {"torch", "zuko"}),
    "losses": (set(), {"torch"}),
    "encoders": ({"nn"}, {"torch"}),
    "torch_estimator": ({"_engine", "encoders", "nn"}, {"torch"}),
    "neural_estimator": (METHOD, {"torch"}),
    "networks": ({"neural_estimator"}, set()),
    "distributions": (METHOD | {"tree_estimator"}, NETWORK | {"zuko"}),
    "uncertainty": (METHOD | {"metrics"}, NETWORK),
    "adaptation": (NEURAL | {"encoders", "metrics"}, NETWORK),
    "samplers": (METHOD | {"encoders"}, NETWORK | {"zuko", "imblearn"}),
    "representation": (METHOD | {"encoders"}, NETWORK),
    "tree_estimator": (set(), {"xgboost"}),
    "baselines": ({"tree_estimator"}, {"xgboost"}),
    "preprocessing": (set(), {"numba"}),
    "metrics": (set(), set()),
    "datasets": (set(), {"numba", "h5py", "pooch", "requests", "fcio", "pandas"}),
}
RESTRICTED = {
    "torch",
    "skorch",
    "gpytorch",
    "xgboost",
    "zuko",
    "shap",
    "imblearn",
    "numba",
    "h5py",
    "pooch",
    "requests",
    "fcio",
    "pandas",
    "tests",
    "benchmarks",
    "examples",
}
WITHOUT_SKLEARN = {"nn", "losses"}


def imports(path, *, at_import=False):
    """Dotted names that a file imports: anywhere, or when it is itself imported."""
    pending = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (at_import and isinstance(node, ast.FunctionDef | ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_respect_the_rooms(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    rooms, packages = ROOMS[room]
    names = set(imports(path))
    foreign = {name.split(".")[0] for name in names} & RESTRICTED
    assert foreign <= packages
    own = {name.split(".")[1] for name in names if name.startswith("sknuc.")}
    assert own <= rooms | CONTRACT | {room}
    if room in WITHOUT_SKLEARN:
        assert not any(name.split(".")[0] == "sklearn" for name in names)
    assert "matplotlib" not in {name.split(".")[0] for name in imports(path, at_import=True)}


def test_every_room_is_in_the_table():
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} == set(ROOMS)
