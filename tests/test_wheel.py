"""The built wheel does the job in an empty folder, far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HAS_VERBS = (ROOT / "iifdet" / "cli.py").is_file()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("build") is None or find_spec("hatchling") is None, reason="needs build and hatchling"
    ),
]
needs_verbs = pytest.mark.skipif(not HAS_VERBS, reason="iifdet/cli.py is not there yet")


def _run(*argv: object, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(a) for a in argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and borrows its dependencies from this one."""
    venv = tmp_path_factory.mktemp("wheel") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=venv).strip())
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    _run(*pip, "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel, cwd=venv)
    # Named in a .pth, a folder's own .pth files are not read: an editable install of this checkout stays out.
    (site / "borrowed.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
    return python


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return tmp_path


def test_wheel_holds_the_yaml_once_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for kind in ("cfg", "data"):
        expected = {f"iifdet/_resources/{kind}/{p.relative_to(ROOT / kind)}" for p in (ROOT / kind).rglob("*.yaml")}
        assert expected <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"iifdet"}


def test_imports_from_the_wheel_and_finds_its_resources(python: Path, empty: Path) -> None:
    code = (
        "import iifdet.longtail, iifdet.resources as r; print(r.__file__); "
        "print(*[f'{k}/{n}' for k in r.KINDS for n in r.resource_names(k) if r.resource_path(k, n)])"
    )
    where, found = _run(python, "-c", code, cwd=empty).split("\n")[:2]
    assert not Path(where).is_relative_to(ROOT) or python.is_relative_to(ROOT)
    expected = {
        p.relative_to(ROOT).with_suffix("").as_posix() for k in ("cfg", "data") for p in (ROOT / k).rglob("*.yaml")
    }
    assert set(found.split()) == expected


@needs_verbs
def test_help_of_module_and_script(python: Path, empty: Path) -> None:
    assert "train" in _run(python, "-m", "iifdet", "--help", cwd=empty)
    assert "train" in _run(python.parent / "iifdet", "--help", cwd=empty)


@needs_verbs
def test_stats_on_the_demo_data(python: Path, empty: Path) -> None:
    assert _run(python, "-m", "iifdet", "stats", "data=demo", cwd=empty)
