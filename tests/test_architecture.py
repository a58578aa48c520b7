"""Who may import whom."""

import ast
from pathlib import Path

import pytest

import sknuc

ROOT = Path(sknuc.__file__).parent
METHODS = {"networks", "distributions", "uncertainty", "samplers", "adaptation", "representation"}
HEAVY = {"torch", "skorch", "gpytorch"}
FORBIDDEN = {
    "base": HEAVY | {"matplotlib", "xgboost"},
    "nn": {"sklearn", "skorch"},
    "losses": {"sklearn", "skorch"},
    "baselines": HEAVY,
    "datasets": HEAVY,
    "metrics": HEAVY,
    "preprocessing": HEAVY,
}


def imports(path, *, top_level_only=False):
    """Dotted names that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_respect_the_rooms(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    names = set(imports(path))
    packages = {name.split(".")[0] for name in names}
    rooms = {name.split(".")[1] for name in names if name.startswith("sknuc.")}
    assert not packages & {"tests", "benchmarks", "examples"}
    assert not packages & FORBIDDEN.get(room, set())
    if room != "_engine":
        assert "skorch" not in packages
    else:
        assert rooms <= {"_engine", "exceptions"}
    if room == "base":
        assert not rooms
    if room in METHODS:
        assert not (rooms & METHODS) - {room}
    assert not any(
        name.split(".")[0] == "matplotlib" for name in imports(path, top_level_only=True)
    )
