"""The paper's CIFAR10-LT recipe written plainly, without a line of iifdet's training, beside iifdet's own run of it.

    python tools/bench/plain_cifar.py --epochs 20 --seeds 0

It answers whether a figure is the recipe's or a fault of ours: SE-ResNet32, cosine classifier, AutoAugment, Cutout,
Mixup and steps stand here a second time, from the paper's text and torchvision's transforms, one image at a time. The
last ``--drop`` of the epochs run at a hundredth of the rate and less (the paper: from 360 and 380 of 400).
"""

from __future__ import annotations

import csv
import io
import os
import statistics
import sys
import tempfile
import time
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, write

import iifdet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Block(nn.Module):
    """Two convolutions, squeeze and excitation (a quarter of the channels), the padded shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.squeeze = nn.Linear(outside, outside // 4, bias=False)
        self.excite = nn.Linear(outside // 4, outside, bias=False)
        self.stride, self.more = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(out.mean((2, 3))))))
        short = x[:, :, :: self.stride, :: self.stride]
        short = F.pad(short, (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(out * gates[:, :, None, None] + short)


class Network(nn.Module):
    """SE-ResNet32 for small images with a cosine classifier: x / (1 + |x|) times rows of length one, times 16."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = [16] * 6 + [32] * 5 + [64] * 5
        blocks = [Block(a, b, 2 if b > a else 1) for a, b in pairwise(widths)]
        self.blocks = nn.Sequential(*blocks)
        self.rows = nn.Parameter(torch.empty(classes, 64))
        nn.init.xavier_uniform_(self.rows)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.stem(images)).mean((2, 3))
        x = x / (1 + x.norm(dim=1, keepdim=True))
        return 16 * x @ F.normalize(self.rows, dim=1).T


class Cutout:
    """A square of 16 pixels around any pixel, its part inside the image, becomes 0."""

    def __call__(self, image: Tensor) -> Tensor:
        y, x = np.random.randint(32, size=2)
        image[:, max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = 0
        return image


class Split(Dataset[tuple[Tensor, int]]):
    """A folder of class folders inside the zip file."""

    def __init__(self, file: Path, split: str, transform: Any) -> None:
        with zipfile.ZipFile(file) as archive:
            names = sorted(
                name for name in archive.namelist() if name.startswith(f"{split}/") and name.endswith(".jpg")
            )
            self.images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
        folders = [name.split("/")[1] for name in names]
        order = sorted(set(folders))
        self.labels = [order.index(folder) for folder in folders]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i]), self.labels[i]


def train_plainly(file: Path, epochs: int, drop: list[int], seed: int, device: str) -> tuple[list[float], float]:
    """Top-1 of each test class after the last epoch, percent, and seconds of training."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    steps = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), policy, *end, Cutout()]
    train = Split(file, "train", transforms.Compose(steps))
    test = Split(file, "test", transforms.Compose(end))
    batches = DataLoader(train, 64, shuffle=True)
    model = Network(10).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)
    started, step = time.perf_counter(), 0
    for epoch in range(epochs):
        model.train()
        rate = 0.1 * 0.01 ** sum(epoch >= at for at in drop)
        for images, labels in batches:
            warm = 0.001 + 0.999 * min(1.0, step / len(batches))
            optimizer.param_groups[0]["lr"] = rate * warm
            share, other = float(np.random.beta(0.2, 0.2)), torch.randperm(len(labels))
            images, labels = images.to(device), labels.to(device)
            logits = model(share * images + (1 - share) * images[other])
            loss = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels[other])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        print(f"plain, seed {seed}: epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}", flush=True)
    seconds = time.perf_counter() - started
    model.eval()
    right, seen = torch.zeros(10), torch.zeros(10)
    with torch.inference_mode():
        for images, labels in DataLoader(test, 1000):
            hits = (model(images.to(device)).argmax(1).cpu() == labels).float()
            right += torch.bincount(labels, hits, 10)
            seen += torch.bincount(labels, minlength=10)
    return (100 * right / seen).tolist(), seconds


def train_ours(epochs: int, drop: list[int], seed: int, device: str, folder: str) -> tuple[list[float], float]:
    """The same by the recipe that iifdet brings."""
    keys = {"model": "classify/cifar10-lt-softmax", "data": "cifar10_lt100_jpeg", "epochs": epochs, "steps": drop}
    keys |= {"select_on": "test", "val_every": epochs, "plots": False, "channels_last": device != "cpu"}
    run = iifdet.train(**keys, seed=seed, device=device, project=folder, name=f"seed{seed}", exist_ok=True)
    rows = {row["name"]: 100 * row["accuracy"] for row in run.metrics["per_class"]}
    with (run.folder / "results.csv").open() as file:
        return [rows[name] for name in sorted(rows)], sum(float(row["seconds"]) for row in csv.DictReader(file))


def main() -> None:
    args = arguments(__doc__, epochs=20, drop=0.1, seeds="0", device="cpu")
    file = Path(os.environ["IIFDET_DATA_DIR"]) / "cifar10_lt100_jpeg.zip"
    drop = [round(args.epochs * (1 - args.drop)), round(args.epochs * (1 - args.drop / 2))]
    content: dict[str, Any] = {"setting": {"epochs": args.epochs, "steps": drop}, "plain": [], "iifdet": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in map(int, args.seeds.split(",")):
            pairs = {
                "plain": train_plainly(file, args.epochs, drop, seed, args.device),
                "iifdet": train_ours(args.epochs, drop, seed, args.device, folder),
            }
            for name, (classes, seconds) in pairs.items():
                row = {"top1": round(statistics.mean(classes), 2), "classes": [round(c, 1) for c in classes]}
                content[name].append({"seed": seed, **row, "seconds": round(seconds)})
                print(name, content[name][-1], flush=True)
    write("plain_cifar", args.out, content)


if __name__ == "__main__":
    main()
