"""Class activation maps from the command line: ``iifdet cam`` with the models and images as plain words.

python tools/gradcam.py runs/train/a/weights/last.pt runs/train/b/weights/last.pt photo.jpg folder method=layercam
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from iifdet.cli import main as iifdet

WEIGHTS = (".pt", ".weights", ".pth", ".safetensors")


def main(words: Sequence[str]) -> int:
    """Plain words that end like weights are models, the others images; key=value goes to ``iifdet cam`` as it is."""
    plain = [w for w in words if "=" not in w and not w.startswith("-")]
    weights = [w for w in plain if w.endswith(WEIGHTS)]
    source = [w for w in plain if not w.endswith(WEIGHTS)]
    keys = [f"{key}={','.join(files)}" for key, files in (("weights", weights), ("source", source)) if files]
    return iifdet(["cam", *keys, *(w for w in words if w not in plain)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
