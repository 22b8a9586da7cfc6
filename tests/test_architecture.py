"""Imports point down only, and every room keeps to itself: the house plan of docs/architecture.md, checked."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "iifdet"
VERBS = {"train", "val", "predict", "tune", "cam", "compare", "stats", "check", "export"}

#: Bottom to top. A room is a file or folder directly in iifdet/; it imports from lower layers, or from itself.
#: A room that is not named here counts as a stage.
STAGE = 5
LAYERS: dict[str, int] = {
    "errors": 0,
    "types": 1,
    "tables": 1,
    "figures": 1,
    "resources": 1,
    "files": 1,
    "boxes": 2,
    "longtail": 2,
    "weight_files": 2,
    "datasets": 3,
    "detectors": 3,
    "classifiers": 3,
    "models": 4,
    "evaluation": 4,
    **dict.fromkeys(["checkpoint", "rundir", "training", "prediction", "explaining"], STAGE),
    **dict.fromkeys(["tuning", "comparison", "exporting", "plots"], STAGE),
    "config": 6,
    "build": 7,
    "running": 8,
    "api": 9,
    "__init__": 10,
    "cli": 11,
    "__main__": 12,
}

#: Who may import a room at all, where the layers alone would allow more.
ONLY_BY = {
    "config": {"build", "running", "api", "cli"},
    "build": {"running", "api"},
    "running": {"api"},
    "api": {"cli", "__init__"},
    "cli": {"__main__"},
}

#: All that a room may import of iifdet, where that is less than the layers allow.
ONLY_FROM: dict[str, set[str]] = {
    "errors": set(),
    "longtail": set(),
    "plots": {"types", "errors", "longtail"},
    "__main__": {"cli"},
}

#: Third-party packages that stand behind one room, so that it alone changes when they do.
BEHIND = {
    "albumentations": "datasets",
    "hotcoco": "evaluation",
    "matplotlib": "plots",
    "pytorch_grad_cam": "explaining",
    "sklearn": "detectors",
}


def _module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _imports(module: str) -> Iterator[str]:
    """All modules that a module imports, lazily or not; ``from iifdet import x`` names x if that is a module."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _edges() -> list[tuple[str, str]]:
    return [(m, i) for m in MODULES for i in _imports(m) if i.split(".")[0] == "iifdet"]


EDGES = _edges()
BETWEEN_ROOMS = [(m, i) for m, i in EDGES if _room(m) != _room(i)]


def test_walks_the_package() -> None:
    assert {"iifdet", "iifdet.types", "iifdet.longtail.weights"} <= set(MODULES)
    assert ("iifdet.longtail.weights", "iifdet.longtail.counts") in EDGES


def test_every_import_exists() -> None:
    assert [f"{m} imports {i}" for m, i in EDGES if i not in MODULES] == []


def test_imports_point_down() -> None:
    wrong = []
    for module, imported in BETWEEN_ROOMS:
        upper, lower = (LAYERS.get(_room(m), STAGE) for m in (module, imported))
        beside = upper == lower == STAGE  # stages may use one another; a cycle is caught below
        if not (lower < upper or beside):
            new = [r for r in (_room(module), _room(imported)) if r not in LAYERS]
            wrong.append(f"{module} imports {imported}" + (f" (place {new[0]} in LAYERS?)" if new else ""))
    assert wrong == []


@pytest.mark.parametrize("room", ONLY_BY)
def test_only_these_import(room: str) -> None:
    wrong = [f"{m} imports {i}" for m, i in BETWEEN_ROOMS if _room(i) == room and _room(m) not in ONLY_BY[room]]
    assert wrong == []


@pytest.mark.parametrize("room", ONLY_FROM)
def test_imports_only_these(room: str) -> None:
    wrong = [f"{m} imports {i}" for m, i in BETWEEN_ROOMS if _room(m) == room and _room(i) not in ONLY_FROM[room]]
    assert wrong == []


def test_data_sets_and_models_meet_in_build_alone() -> None:
    users = {lower: {_room(m) for m, i in BETWEEN_ROOMS if _room(i) == lower} for lower in LAYERS}
    assert users["datasets"] & (users["detectors"] | users["classifiers"] | users["models"]) == {"build"}


def test_longtail_needs_torch_only() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "iifdet"}
    inside = [m for m in MODULES if _room(m) == "longtail"]
    assert inside
    assert [f"{m} imports {i}" for m in inside for i in _imports(m) if i.split(".")[0] not in allowed] == []


@pytest.mark.parametrize("package", BEHIND)
def test_third_party_stays_behind_one_room(package: str) -> None:
    users = {_room(m) for m in MODULES for i in _imports(m) if i.split(".")[0] == package}
    assert users <= {BEHIND[package]}


#: Calls that would run code from a file, and those that would without this keyword.
FORBIDDEN = ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads")
NEEDS = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}


def _calls(module: str) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Dotted names of all calls, as imported, with their keywords."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                (a.asname or a.name).partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            head, dot, rest = ast.unparse(node.func).partition(".")
            yield names.get(head, head) + dot + rest, {k.arg: k.value for k in node.keywords if k.arg}


def test_nothing_that_is_read_can_run_code() -> None:
    seen = [(m, name, keywords) for m in MODULES for name, keywords in _calls(m)]
    assert {"torch.load", "yaml.safe_load"} <= {name for _, name, _ in seen}, "the search itself works"
    assert [f"{m}: {name}" for m, name, _ in seen if name in FORBIDDEN] == []
    for m, name, keywords in seen:
        if name in NEEDS:
            key, value = NEEDS[name]
            assert isinstance(keywords.get(key), ast.Constant) and keywords[key].value is value, f"{m}: {name}"  # type: ignore[attr-defined]


def test_nothing_draws_from_the_generators_of_python_and_numpy_which_checkpoints_do_not_hold() -> None:
    own = ("numpy.random.default_rng", "numpy.random.RandomState", "numpy.random.SeedSequence", "random.Random")
    calls = [(m, name) for m in MODULES for name, _ in _calls(m)]
    assert "numpy.random.default_rng" in {name for _, name in calls}, "the search itself works"
    drawn = [f"{m}: {name}" for m, name in calls if name.startswith(("random.", "numpy.random."))]
    assert [call for call in drawn if not call.partition(": ")[2].startswith(own)] == []


def test_no_module_is_named_like_a_verb() -> None:
    """A submodule train.py would overwrite the function iifdet.train as soon as it is imported."""
    assert [m for m in MODULES if m.rpartition(".")[2] in VERBS] == []


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {m: set() for m in MODULES}
    for module, imported in EDGES:
        graph[module].add(imported)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("import cycle: " + " <- ".join(error.args[1]))
