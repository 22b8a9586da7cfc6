"""Images that cannot be read: each is logged, and too many of them end the run."""

from __future__ import annotations

import logging

from torch.utils.data import get_worker_info

from iifdet.errors import InputError

logger = logging.getLogger("iifdet")


class BadImages:
    """Counts the bad images of one data set, as far as this process, or this worker of a loader, meets them.

    Args:
        root: what the data set is called in messages.
        images: how many it has.
        max_bad: largest share of them that may be bad; workers judge by their own parts.
        what: what is wrong with them.
    """

    def __init__(self, root: str, images: int, max_bad: float, what: str = "cannot be read") -> None:
        self.root, self.images, self.max_bad, self.what = root, images, max_bad, what
        self._said: set[int] = set()

    def say(self, row: int, file: str, text: str) -> None:
        """Log once an image (and worker).

        Raises:
            InputError: there are too many of them.
        """
        if row in self._said:
            return
        self._said.add(row)
        logger.warning(text)
        worker = get_worker_info()
        share = len(self._said) * (1 if worker is None else worker.num_workers) / self.images  # workers see a part each
        if share > self.max_bad:
            raise InputError(
                f"{self.root}: expected at most {self.max_bad:.1%} images that {self.what}, got "
                f"about {share:.1%}, the last one {file}; see iifdet check, or raise max_bad"
            )
