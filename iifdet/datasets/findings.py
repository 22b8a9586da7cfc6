"""What a check of a data set says: one Finding a fault, and how grave each reason is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from iifdet.datasets.checking import CLASS_RANGE, CLIPPED, DUPLICATE, REASONS, UNKNOWN_CATEGORY
from iifdet.datasets.index import Problem

#: ``error``: training stops, or its figures are not about the data as annotated. ``warning``: something is dropped, or
#: likely to be wrong. ``notice``: put right, or worth knowing.
SEVERITIES = ("error", "warning", "notice")

#: Reasons of the check itself. What the readers find keeps the readers' words.
UNREADABLE = "unreadable image"
WRONG_SIZE = "size in the annotations is not the image's"
OTHER_SCALE = "image of another scale than annotated"
TOO_MANY_BAD = "more broken {unit} than max_bad"
NO_BOXES_AT_ALL = "split without boxes"
NAMES_DIFFER = "class names differ between splits"
LEAK = "same image in {first} and {second}"
SAME_SPLIT = "{first} and {second} are the same images throughout"
TWICE = "same image twice in a split"
DUPLICATE_BOX = REASONS[DUPLICATE]
NEAR_DUPLICATE = "nearly the same box twice, same class"
ASPECT = "box more than 20 times as long as wide"
NO_BOXES = "image without boxes"
LABELS_OF_NOTHING = "label file without an image"
NOT_TAKEN = "file of a kind that is not read as an image"
NO_CLASS_BOXES = "class without {split} boxes"
TWO_CLASSES = "same image in two classes"
NO_CLASS_IMAGES = "class without {split} images"
MASK_EMPTY = "empty mask"
MASK_OUTSIDE = "mask outside the image"
MASK_BEYOND = "mask reaches beyond the image"
MASK_MISFIT = "mask does not fit its box"
MASK_MISSING = "box without a mask among boxes with masks"

#: Where a reader's reason is graver or lighter than its kind suggests.
_GRAVITY = {
    REASONS[UNKNOWN_CATEGORY]: "error",
    REASONS[CLASS_RANGE]: "error",
    "unreadable label file": "error",
    REASONS[CLIPPED]: "notice",
    "duplicate annotation id": "warning",
    "annotation without a whole-number id": "warning",
    "unusable mask, box kept": "warning",
    "mask of another size than its image, box kept": "warning",
}
_GRAVITY_OF_KIND = {"image": "error", "box": "warning", "notice": "notice"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth saying about a data set.

    Attributes:
        severity: one of SEVERITIES.
        split: the split it is in.
        file: the image, label file (with ``:line``) or annotation file it concerns.
        reason: what is wrong; the same words for the same fault, so that findings can be counted.
        detail: figures and names that differ from case to case, or nothing.
        box: the annotation's id (COCO) or line (text labels), None where it is not about one box.
    """

    severity: str
    split: str
    file: str
    reason: str
    detail: str = ""
    box: int | None = None


def printable(finding: Finding) -> Finding:
    """The finding with nothing in it that a terminal or a UTF-8 file would refuse (file names may be any bytes)."""
    file, detail = (text.encode("utf-8", "replace").decode() for text in (finding.file, finding.detail))
    return finding if (file, detail) == (finding.file, finding.detail) else replace(finding, file=file, detail=detail)


class ReasonCount(NamedTuple):
    """All findings of one severity, reason and split."""

    severity: str
    split: str
    reason: str
    findings: list[Finding]


def from_problem(problem: Problem, split: str) -> Finding:
    """What a reader noted, as a finding. Its image and box faults were dropped, its notices put right.

    An image that is missing or unreadable is an error even where ``max_bad`` lets training go on without it: figures
    on a part of the images are not those of the data set.
    """
    reason, _, detail = problem.reason.partition(": ")
    severity = _GRAVITY.get(reason, _GRAVITY_OF_KIND.get(problem.kind, "warning"))
    return Finding(severity, split, problem.file, reason, detail, problem.box)


def count_reasons(findings: Iterable[Finding]) -> list[ReasonCount]:
    """Group findings: gravest first, then most frequent first; the order within a group stays.

    Example:
        >>> found = [Finding("notice", "val", "b.jpg", "image without boxes"), Finding("error", "val", "a", "x")]
        >>> [(g.severity, g.reason, len(g.findings)) for g in count_reasons(found)]
        [('error', 'x', 1), ('notice', 'image without boxes', 1)]
    """
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.split, finding.reason), []).append(finding)
    counts = [ReasonCount(*key, members) for key, members in groups.items()]
    return sorted(counts, key=lambda g: (SEVERITIES.index(g.severity), -len(g.findings)))
