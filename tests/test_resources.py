"""Built-in YAML is found by name, in a checkout and in a wheel, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from iifdet import resources
from iifdet.resources import resource_names, resource_path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up checkout with one recipe, one search space and one data description."""
    return _install(tmp_path, tmp_path, monkeypatch, project_file=True)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as a wheel lays it out, beside another package's stray folder named data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stray.yaml").write_text("x: 1\n")
    return _install(tmp_path, tmp_path / "iifdet" / "_resources", monkeypatch, project_file=False)


def _install(site: Path, root: Path, monkeypatch: pytest.MonkeyPatch, project_file: bool) -> Path:
    for name in ("cfg/yolov3.yaml", "cfg/tune/yolov3.yaml", "data/demo.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x: 1\n")
    (site / "secret.yaml").write_text("x: 1\n")
    (site / "iifdet").mkdir(exist_ok=True)
    if project_file:
        (site / "pyproject.toml").touch()
    monkeypatch.setattr(resources, "__file__", str(site / "iifdet" / "resources.py"))
    monkeypatch.setattr(resources, "files", lambda package: site / package)
    return root


@pytest.mark.parametrize("layout", ["checkout", "wheel"])
def test_finds_names_with_and_without_suffix(layout: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    assert resource_path("cfg", "yolov3") == resource_path("cfg", "yolov3.yaml") == root / "cfg" / "yolov3.yaml"
    assert resource_path("cfg", "tune/yolov3") == root / "cfg" / "tune" / "yolov3.yaml"
    assert resource_path("data", "demo") == root / "data" / "demo.yaml"
    assert resource_path("data", "yolov3") is None
    assert resource_names("cfg") == ["tune/yolov3", "yolov3"]
    assert resource_names("data") == ["demo"]


@pytest.mark.parametrize(
    "name",
    ["../secret", "../secret.yaml", "tune/../../secret", "..", "", ".", "tune", "..\\secret", "C:secret", "a\0b"],
)
def test_never_leaves_the_folder(checkout: Path, name: str) -> None:
    assert resource_path("cfg", name) is None


def test_absolute_path_is_no_name(checkout: Path) -> None:
    assert resource_path("cfg", str(checkout / "cfg" / "yolov3.yaml")) is None


def test_missing_folder_has_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "iifdet" / "resources.py"))
    monkeypatch.setattr(resources, "files", lambda package: tmp_path / package)
    assert resource_names("cfg") == []
    assert resource_path("cfg", "yolov3") is None


def test_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected one of cfg, data, got 'docs'"):
        resource_path("docs", "x")


@pytest.mark.parametrize("kind", resources.KINDS)
def test_every_name_of_this_checkout_is_found(kind: str) -> None:
    assert all(resource_path(kind, name) for name in resource_names(kind))
