"""Images that cannot be read: each is logged, and too many of them end the run."""

from __future__ import annotations

import logging

import torch

from iifdet.errors import InputError

logger = logging.getLogger("iifdet")


class BadImages:
    """Counts the bad images of one data set. The workers of a loader share the count, so their number changes nothing.

    Args:
        root: what the data set is called in messages.
        images: how many it has.
        max_bad: largest share of them that may be bad.
        what: what is wrong with them.
    """

    def __init__(self, root: str, images: int, max_bad: float, what: str = "cannot be read") -> None:
        self.root, self.images, self.max_bad, self.what = root, images, max_bad, what
        self._said = torch.zeros(images, dtype=torch.bool).share_memory_()

    def say(self, row: int, file: str, text: str) -> None:
        """Log once an image.

        Raises:
            InputError: there are too many of them.
        """
        if self._said[row]:
            return
        self._said[row] = True
        logger.warning(text)
        share = int(self._said.sum()) / self.images
        if share > self.max_bad:
            raise InputError(
                f"{self.root}: expected at most {self.max_bad:.1%} images that {self.what}, got "
                f"{share:.1%} so far, the last one {file}; see iifdet check, or raise max_bad"
            )
