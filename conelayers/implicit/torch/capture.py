"""A function of tensors that closes over others (``nn.Module`` parameters and the like), made a function of those too.

Derivatives call the function again. By then a module's parameters may have changed (``torch.func.functional_call``
sets them for one call only), and transformations of torch follow inputs, not closures. So the function is called once
under a mode that sees the arguments of every operation; those that need a derivative and are no input become inputs.
When the function is called again, ``functional_call`` sets parameters in their modules; other tensors are exchanged in
the arguments of the operations.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, final

import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Captured", "capture"]

Tensor = torch.Tensor
_DEPTH = 4  # how many attributes, closures and containers deep modules are looked for


@final
@dataclass(frozen=True, eq=False)
class Captured:
    """A function of (z, *theta), the ``tensors`` that it closes over, and its output when they were looked for."""

    function: Callable[..., Any]
    tensors: tuple[Tensor, ...]
    output: Any
    _modules: _Modules
    _names: Mapping[int, str]  # position among the tensors: name in the modules

    def call(self, values: Sequence[Tensor], *args: Any) -> Any:
        """The function at args with the captured tensors replaced by ``values``."""
        if not self.tensors:
            return self.function(*args)
        named = {name: values[i] for i, name in self._names.items()}
        loose = {id(t): v for i, (t, v) in enumerate(zip(self.tensors, values, strict=True)) if i not in self._names}
        function = self.function
        if named:
            function = functools.partial(torch.func.functional_call, self._modules, named, strict=False)
            args = (args,)
        if not loose:
            return function(*args)
        with _Exchange(loose) as exchange:
            value = function(*args)
        if exchange.unused:
            raise RuntimeError(
                "the function no longer uses a tensor that it closed over when the equation was solved (a parameter "
                "swapped by functional_call, or a closure that was rebound): pass it in theta"
            )
        return value


def capture(name: str, function: Callable[..., Any], z: Tensor, theta: Sequence[Any]) -> Captured:
    """Finds what ``function`` closes over by calling it at copies of z and theta.

    Raises ValueError where the result depends on a parameter that no operation of torch was seen to take, or an input
    is changed.
    """
    # The inputs are copied, since a tensor that is an input may be closed over too: then it counts as two tensors.
    detach = lambda h: h.detach() if isinstance(h, Tensor) else h  # noqa: E731
    inputs = (z.clone(), *tree_map(detach, tuple(theta)))
    versions = _versions(inputs)
    with torch.enable_grad(), _Record(tree_leaves(inputs)) as record:
        output = function(*inputs)
    if _versions(inputs) != versions:
        raise ValueError(
            f"{name}: the function changes z or theta in place, expected one that leaves its arguments as they are: "
            "write z = z + … for z += …, or start with z = z.clone()"
        )
    found = tuple(record.captured.values())
    if not torch._C._are_functorch_transforms_active() and isinstance(output, Tensor):
        _refuse_unseen(name, output, record)
    modules = _Modules(function)
    places: dict[int, str] = {}
    for place, h in itertools.chain(modules.named_parameters(), modules.named_buffers()):
        places.setdefault(id(h), place)
    names = {i: places[id(t)] for i, t in enumerate(found) if id(t) in places}
    return Captured(function, found, detach(output), modules, names)


@final
class _Modules(torch.nn.Module):
    """A module that holds all modules that a function reaches; calling it calls the function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._call = (function,)  # in a tuple: were it a module, it would be registered twice
        self.reached = torch.nn.ModuleList(_reached(function, _DEPTH, set()))

    def forward(self, *args: Any) -> Any:
        return self._call[0](*args)


def _reached(thing: Any, depth: int, seen: set[int]) -> list[torch.nn.Module]:
    if id(thing) in seen or depth < 0:
        return []
    seen.add(id(thing))
    parts: list[Any]
    if isinstance(thing, torch.nn.Module):
        return [thing]
    if isinstance(thing, functools.partial):
        parts = [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, MethodType):
        parts = [thing.__self__, thing.__func__]
    elif isinstance(thing, FunctionType):
        variables = inspect.getclosurevars(thing)
        parts = [*variables.nonlocals.values(), *variables.globals.values(), *(thing.__defaults__ or ())]
        parts += (thing.__kwdefaults__ or {}).values()
    elif isinstance(thing, (list, tuple)):
        parts = list(thing)
    elif isinstance(thing, dict):
        parts = list(thing.values())
    elif callable(thing) and hasattr(thing, "__dict__") and not inspect.isclass(thing):
        parts = list(vars(thing).values())
    else:
        return []
    return [module for part in parts for module in _reached(part, depth - 1, seen)]


def _versions(inputs: Any) -> list[int]:
    """How often each tensor was changed in place; tensors of inference mode have no such count."""
    return [h._version for h in _tensors(inputs) if not h.is_inference()]


def _tensors(args: Any) -> list[Tensor]:
    return [h for h in tree_leaves(args) if isinstance(h, Tensor)]


def _follows(t: Tensor) -> bool:
    """Whether a derivative or a transformation depends on t."""
    if t.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(t):
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None


@final
class _Record(TorchFunctionMode):
    def __init__(self, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.known = {id(h): h for h in inputs if isinstance(h, Tensor)}  # holds them, so that no id is given twice
        self.captured: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in _tensors((args, kwargs or {})):
            if id(t) not in self.known:
                self.known[id(t)] = t
                if _follows(t):
                    self.captured[id(t)] = t
        result = func(*args, **(kwargs or {}))
        for t in _tensors(result):
            self.known.setdefault(id(t), t)
        return result


@final
class _Exchange(TorchFunctionMode):
    def __init__(self, exchanged: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._exchanged, self.unused = exchanged, set(exchanged)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def swap(h: Any) -> Any:
            if isinstance(h, Tensor) and id(h) in self._exchanged:
                self.unused.discard(id(h))
                return self._exchanged[id(h)]
            return h

        args, kwargs = tree_map(swap, (tuple(args), kwargs or {}))
        return func(*args, **kwargs)


def _refuse_unseen(name: str, output: Tensor, record: _Record) -> None:
    """Raises ValueError if the graph of ``output`` ends in a tensor that was not recorded.

    An autograd Function hides the tensors that it takes.
    """
    ends = {t.grad_fn for t in record.captured.values() if t.grad_fn is not None}
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node in ends:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in record.known:
            raise ValueError(
                f"{name}: the function depends on a tensor of shape {tuple(leaf.shape)} that requires a gradient and "
                "that only an autograd Function was seen to take: pass it in theta"
            )
        waiting += [following for following, _ in node.next_functions]
