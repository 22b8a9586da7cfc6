"""What IIF costs: a training step with and without it, and inference adjusted, folded and plain.

Whole steps on a shared machine scatter by more than the goal of 1 %, so the class loss, the only part that differs, is
timed alone too, and without the adjustment module (softmax runs through it as the identity): its extra over a whole
step is the cost.

    python tools/bench/iif_cost.py
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, paired_times, summary, write

from iifdet.detectors import DETECTORS, Detector
from iifdet.detectors.postprocess import PostprocessOptions
from iifdet.longtail import CLASS_LOSSES


def main() -> None:
    args = arguments(__doc__, model="yolov3-tiny", classes=80, size=320, batch=8, repeats=40)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    options = PostprocessOptions(conf=0.25)
    plain = DETECTORS[args.model](args.classes)
    plain.options = options
    adjusted = copy.deepcopy(plain)
    adjusted.set_adjustment(torch.linspace(1, 8, args.classes))
    folded = copy.deepcopy(adjusted)
    folded.fold()
    images = torch.rand(args.batch, 3, args.size, args.size, device=device)
    corners = torch.rand(args.batch, 7, 2, device=device) * args.size * 0.6
    boxes = torch.cat((corners, corners + args.size * 0.3), dim=2)
    targets = [{"boxes": b, "labels": torch.randint(args.classes, (7,), device=device)} for b in boxes]

    def train_step(model: Detector) -> None:
        sum(model(images, targets).values()).backward()
        model.zero_grad(set_to_none=True)

    boxes_in_batch = sum(len(t["labels"]) for t in targets)
    logits = torch.randn(boxes_in_batch, args.classes, device=device, requires_grad=True)
    labels = torch.cat([t["labels"] for t in targets])

    def bare_loss() -> None:
        CLASS_LOSSES["ce"](logits, labels).sum().backward()

    def class_loss(model: Detector) -> None:
        model.class_losses(logits, labels).sum().backward()

    models = {"softmax": plain, "iif": adjusted}
    for model in (plain, adjusted, folded):
        model.to(device).train()
    train = paired_times({k: lambda m=m: train_step(m) for k, m in models.items()}, args.repeats)
    tasks = {"bare loss": bare_loss, **{k: lambda m=m: class_loss(m) for k, m in models.items()}}
    loss = paired_times(tasks, 20 * args.repeats)
    for model in (plain, adjusted, folded):
        model.eval()
    with torch.inference_mode():
        one = images[:1]
        tasks = {k: lambda m=m: m(one) for k, m in {**models, "iif folded": folded}.items()}
        infer = paired_times(tasks, args.repeats)
    step, losses = summary(train, "softmax"), summary(loss, "bare loss")
    extra = losses["iif"]["ms"] - losses["bare loss"]["ms"]
    write(
        "iif_cost",
        args.out,
        {
            "setting": {k: v for k, v in vars(args).items() if k != "out"},
            "training_step": step,
            "class_loss_alone": losses,
            "cost_percent_of_step": round(100 * extra / step["softmax"]["ms"], 4),
            "single_image": summary(infer, "softmax"),
        },
    )


if __name__ == "__main__":
    main()
