"""The example in docs/look-inside.md runs, block after block, on models that have learnt nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from iifdet.checkpoint import save_checkpoint
from iifdet.datasets import load_index
from iifdet.models import create_model

DOCS = Path(__file__).parent.parent / "docs"


def blocks(file: Path) -> list[str]:
    """The Python blocks of a Markdown file."""
    return re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


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
