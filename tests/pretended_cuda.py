"""A CUDA device that is not there: its tensors are the CPU's, but mixing them up with the CPU's own is an error.

What runs on it goes through the branches for CUDA, and must end with the CPU's very figures: random numbers come from
the one generator that there is, autocast is the CPU's. Streams and pinned memory do nothing, and there are no graphs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
#: Take tensors of both devices.
BOTH = ("copy_", "__setitem__", "index_put_", "type_as", "__set__", "_has_compatible_shallow_copy_type")
#: Ask the device for a value, or for a number of rows, which a recording of its work cannot know.
ASK = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero", "masked_select")
#: Of no tensor of the device: a memo to walk through, a device that is only read.
PASSED_ON = ("__deepcopy__", "_parse_to", "device")


class OnDevice(Tensor):
    """A tensor of the pretended device; every function of torch is made on ``value``, autograd too."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> OnDevice:
        self = Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype, device=CUDA)
        self.value = value
        return self  # type: ignore[no-any-return]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} was reached below torch's functions")

    def record_stream(self, stream: Any) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.value!r})"

    def __deepcopy__(self, memo: Any) -> OnDevice:
        copied = OnDevice(self.value.detach().clone().requires_grad_(self.value.requires_grad))
        copied.__dict__.update({k: v for k, v in self.__dict__.items() if k != "value"})  # such as: is a Parameter
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a tensor of the device is written: move it to the CPU first")


class _Recording:
    """Whether what happens on the device is being recorded, as for a CUDA graph."""

    on = False


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """What no CUDA graph can hold is an error while this lasts: a value that is asked for, a copy from the CPU."""
    _Recording.on = True
    try:
        yield
    finally:
        _Recording.on = False


class _Device(TorchFunctionMode):
    """Catches what has no tensor of the device among its arguments, but asks for one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = (*args, *kwargs.values())
        if OnDevice in types or any(isinstance(value, OnDevice) or _is_cuda(value) for value in given):
            return _called(func, args, kwargs)
        return func(*args, **kwargs)


def _called(func: Any, args: Any, kwargs: Any) -> Any:
    """The function on the CPU's tensors; its result on the device where CUDA's would be."""
    name = getattr(func, "__name__", "")
    if name in PASSED_ON:
        return func(*args, **kwargs)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    here = any(isinstance(t, OnDevice) for t in tensors)
    owner = getattr(getattr(func, "__self__", None), "__name__", "")  # of a property
    if here and owner in ("device", "is_cuda"):
        return CUDA if owner == "device" else True
    if name == "_has_compatible_shallow_copy_type":
        return type(args[0]) is type(args[1])
    if here and name in ("numpy", "__array__"):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")
    if _Recording.on:
        _refuse_to_record(name, args, here)
    if here and not _may_mix(name, args):
        _refuse_mixture(name or str(func), tensors)
    plain_args, plain_kwargs = tree_map_only(OnDevice, lambda t: t.value, (args, kwargs))
    plain_kwargs.pop("non_blocking", None)
    with _autocast():
        out = func(*map(_on_cpu, plain_args), **{k: _on_cpu(v) for k, v in plain_kwargs.items()})
    if not _stays(name, args, kwargs, here):
        return out
    if name == "to" and out is plain_args[0] and not isinstance(args[0], OnDevice):
        out = out.detach().clone().requires_grad_(out.requires_grad)  # a copy, as a transfer makes one
    known = {id(t.value): t for t in tensors if isinstance(t, OnDevice)}
    return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else OnDevice(t), out)


def _is_cuda(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.split(":")[0] == "cuda"


def _on_cpu(value: Any) -> Any:
    return CPU if _is_cuda(value) else value


def _may_mix(name: str, args: Any) -> bool:
    """Whether CUDA takes tensors of the CPU there: to copy them, or as numbers of rows."""
    rows = name == "__getitem__" and isinstance(args[0], OnDevice)
    return name in BOTH or rows or (name == "to" and len(args) > 1 and isinstance(args[1], Tensor))


def _refuse_mixture(name: str, tensors: list[Tensor]) -> None:
    """As CUDA does: a scalar of the CPU may be among tensors of the device, nothing else."""
    if any(not isinstance(t, OnDevice) and t.dim() > 0 for t in tensors):
        shapes = [(t.device.type, tuple(t.shape)) for t in tensors]
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {shapes}")


def _refuse_to_record(name: str, args: Any, here: bool) -> None:
    masks = name in ("__getitem__", "__setitem__") and any(
        isinstance(t, Tensor) and t.dtype == torch.bool for t in tree_leaves(args[1])
    )
    if here and (name in ASK or masks):
        raise RuntimeError(f"{name}: cannot be recorded, it waits for the device")
    if name in ("tensor", "as_tensor") or (name == "to" and not isinstance(args[0], OnDevice)):
        raise RuntimeError(f"{name}: cannot be recorded, it copies from the CPU")


def _stays(name: str, args: Any, kwargs: Any, here: bool) -> bool:
    """Whether the result lies on the device."""
    asked = [v for v in (*args, *kwargs.values()) if isinstance(v, (torch.device, str))]
    if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        return isinstance(args[1], OnDevice)
    leaves = name == "cpu" or (name == "to" and any(v in (CPU, "cpu") for v in asked))
    return (here and not leaves) or any(map(_is_cuda, asked))


def _autocast() -> contextlib.AbstractContextManager[Any]:
    """What autocast asks of the device, asked of the CPU."""
    if not torch.is_autocast_enabled("cuda"):
        return contextlib.nullcontext()
    return torch.autocast("cpu", torch.get_autocast_dtype("cuda"))


class _Stream:
    """Everything happens at once."""

    def __init__(self, device: torch.device | None = None) -> None:
        pass

    def record_event(self) -> None:
        pass

    def wait_event(self, event: None) -> None:
        pass

    def is_capturing(self) -> bool:
        return False


class CurrentDevice:
    """``with torch.cuda.device(…)``."""

    inside: ClassVar[list[torch.device]] = []

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> None:
        self.inside.append(self.device)

    def __exit__(self, *error: object) -> None:
        self.inside.pop()


#: What stands in for torch.cuda's own.
OF_TORCH_CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "get_device_name": lambda *_: "pretended",
    "is_bf16_supported": lambda *_: True,
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda *_: None,
    "empty_cache": lambda: None,
    "max_memory_allocated": lambda *_: 0,
    "Stream": _Stream,
    "current_stream": _Stream,
    "stream": lambda _: contextlib.nullcontext(),
    "device": CurrentDevice,
    "is_current_stream_capturing": lambda: False,
}


@contextlib.contextmanager
def pretended_cuda() -> Iterator[None]:
    """``device=cuda`` is there while this lasts."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch, _Device():
        for name, value in OF_TORCH_CUDA.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        patch.setattr(torch.accelerator, "current_stream", _Stream)
        patch.setattr(torch.accelerator, "is_available", lambda: False)  # so that nothing is really pinned
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
