"""What a CUDA graph does with a step, done on the CPU: the operations are noted, and run again on the same memory.

As in a graph, numbers and tensors of the recording are what they were: what Python does between operations, and what it
would do otherwise the next time, is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Operations that tell Python a value, or how many rows there are.
ASKS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"),
    "aten.repeat_interleave.Tensor",
}


class Tape(TorchDispatchMode):
    """Notes what is called while it lasts, backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if {func._overloadpacket.__name__, str(func)} & ASKS or _by_mask(func, args):
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """The same operations on the same tensors; new results go where the old ones lie."""
        with torch.no_grad():
            for func, args, kwargs, old in self.calls:
                new = func(*args, **kwargs)
                given = {_place(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
                for before, after in zip(tree_leaves(old), tree_leaves(new), strict=True):
                    if isinstance(before, Tensor) and _place(before) not in given:  # no view, not in place
                        before.copy_(after)


def _by_mask(func: Any, args: Any) -> bool:
    """Whether rows are chosen by a mask, so that their number hangs on values."""
    chosen = args[1] if func._overloadpacket.__name__ in ("index", "index_put", "index_put_") else ()
    return any(isinstance(t, Tensor) and t.dtype == torch.bool for t in chosen)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def record_on_tape(body: Callable[[], None]) -> Callable[[], None]:
    """As ``graphed.record_graph``: nothing that the recording does stays."""
    state: Any = body.__self__.state  # type: ignore[attr-defined]
    moments = [m for each in state.optimizer.state.values() for m in each.values() if isinstance(m, Tensor)]
    kept = [(t, t.detach().clone()) for t in (*state.model.parameters(), *state.model.buffers(), *moments)]
    tape = Tape()
    with tape:
        body()
    with torch.no_grad():
        for tensor, before in kept:
            tensor.copy_(before)
    return tape.replay
