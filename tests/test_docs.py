"""The example in docs/look-inside.md runs on models that have learnt nothing; links lead somewhere; keys exist."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from iifdet.checkpoint import save_checkpoint
from iifdet.config import CONFIGS, parse_value
from iifdet.datasets import load_index
from iifdet.models import MODELS, create_model, model_options

DOCS = Path(__file__).parent.parent / "docs"


def blocks(file: Path) -> list[str]:
    """The Python blocks of a Markdown file."""
    return re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_link_inside_leads_to_a_file_and_every_picture_is_shown() -> None:
    texts = {file: file.read_text(encoding="utf-8") for file in [DOCS.parent / "README.md", *DOCS.glob("*.md")]}
    links = {
        (file.parent / link).resolve()
        for file, text in texts.items()
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
        if "://" not in link
    }
    assert len(links) > 20 and not [link for link in links if not link.is_file()]
    assert set((DOCS / "pictures").iterdir()) <= links


def test_the_commands_of_the_documentation_have_keys_that_there_are() -> None:
    """Each ``iifdet verb key=value …`` of the README and docs/, as far as the configuration reads it."""
    commands = []
    for file in [DOCS.parent / "README.md", *DOCS.glob("*.md")]:
        text = re.sub(r"  +#.*", "", file.read_text(encoding="utf-8"))
        commands += re.findall(r"^ *(?:torchrun [-\w= ]* -m )?iifdet ([a-z]+) (.*)$", text, flags=re.MULTILINE)
    checked = 0
    for verb, rest in commands:
        words = [word for word in shlex.split(rest.split("  ")[0]) if "=" in word]
        keys = {key: parse_value(value) for key, _, value in (word.partition("=") for word in words)}
        unknown = {key.split(".")[0] for key in keys} - set(CONFIGS[verb].model_fields)
        assert not unknown, f"iifdet {verb} {rest}: {unknown}"
        checked += len(keys)
    assert checked > 80


def test_the_page_of_keys_is_what_the_configuration_says() -> None:
    module: dict[str, Any] = runpy.run_path(str(DOCS.parent / "tools" / "keys.py"))
    page = (DOCS / "keys.md").read_text(encoding="utf-8")
    assert module["written"](page) == page, "python tools/keys.py writes it"
    tables = re.findall(r"^\|---\|---\|---\|\n(.*?)\n$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(tables) > 20 and all(line.startswith("|") for table in tables for line in table.split("\n"))


def test_the_page_of_keys_names_every_option_of_every_model() -> None:
    head = (DOCS / "keys.md").read_text(encoding="utf-8").partition("<!--")[0]
    named = set(re.findall(r"`(\w+)`", head))
    assert {option for name in MODELS for option in model_options(name)} <= named


@pytest.mark.slow
def test_the_blocks_of_the_example_run_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="pip install iifdet[export]")
    monkeypatch.chdir(tmp_path)
    index = load_index("demo", "train")
    for seed, name in enumerate(("softmax", "iif")):
        torch.manual_seed(seed)
        model = create_model("yolov3-nano", len(index.names), width=0.125, depth=0.1).eval()
        model.names, model.counts = list(index.names), index.counts()
        with torch.no_grad():
            for scale in model.scales:
                scale.predict.box.bias.view(-1, 5)[:, 4] = 2.0  # sure that there is something everywhere
        for rows in model.classifier_rows():
            rows.weight.data.normal_(std=0.5)
        if name == "iif":
            model.set_adjustment(torch.linspace(1, 2, len(index.names)))
        save_checkpoint(f"runs/train/demo-{name}/weights/last.pt", model, recipe={"imgsz": 128, "data": "demo"})
    found = blocks(DOCS / "look-inside.md")
    assert len(found) == 6
    scope: dict[str, object] = {}
    for block in found:
        exec(compile(block, "look-inside.md", "exec"), scope)
    said = capsys.readouterr().out
    assert "detections as COCO dicts" in said and "deletion 0." in said and "Fixed AP" in said and "report.html" in said
    counts = re.findall(r"\[[\d, ]+\]", said.splitlines()[-1])
    assert counts[0] == counts[1] != "[0, 0, 0, 0]", "the exported file finds as much"
    for file in ("found.png", "rests-on.png", "demo.onnx", "runs/compare/demo/report.html"):
        assert (tmp_path / file).stat().st_size > 1000
