"""The test run itself: its workers must not get in each other's way, which nobody would notice but by the clock."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process may have all threads")
def test_each_of_xdist_s_workers_has_one_thread() -> None:
    assert torch.get_num_threads() == 1
