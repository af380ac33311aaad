"""A cache of the values used last, for solutions, their factors, and layers."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar, final

import numpy as np

__all__ = ["Recent", "digest", "factor_numbers"]

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

_BAND = 100  # a sparse factor has some hundred entries a row, a dense one as many as there are rows


@final
class Recent(Generic[_Key, _Value]):
    """The values used last, at most ``most`` of them; the one unused for longest is dropped first. Safe for threads."""

    def __init__(self, most: int | float = math.inf, *, least: int = 1) -> None:
        self._most, self._least = most, least  # ``least`` of them stay, however large they are
        self._lock = threading.RLock()
        self._entries: OrderedDict[_Key, tuple[int, _Value]] = OrderedDict()

    def add(self, key: _Key, value: _Value, *, numbers: int = 0, most_numbers: float = math.inf) -> _Value:
        """Keep the value, which holds ``numbers`` numbers; drop old ones until all together hold at most
        ``most_numbers``.
        """
        with self._lock:
            self._entries[key] = numbers, value
            self._entries.move_to_end(key)
            held = sum(size for size, _ in self._entries.values()) if most_numbers < math.inf else 0
            while len(self._entries) > self._most or (held > most_numbers and len(self._entries) > self._least):
                _, (size, _) = self._entries.popitem(last=False)
                held -= size
            return value

    def get(self, key: _Key) -> _Value | None:
        """The value of that key, if it is still here."""
        with self._lock:
            return self._use(key) if key in self._entries else None

    def get_or_make(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        """The value of that key, made while other threads wait if it is not here."""
        with self._lock:
            return self._use(key) if key in self._entries else self.add(key, make())

    def _use(self, key: _Key) -> _Value:
        self._entries.move_to_end(key)
        return self._entries[key][1]

    def drop(self, unwanted: Callable[[_Key], bool]) -> None:
        """Forget those whose keys are unwanted."""
        with self._lock:
            for key in [key for key in self._entries if unwanted(key)]:
                del self._entries[key]

    def clear(self) -> None:
        """Forget all of them."""
        self.drop(lambda _: True)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[_Key]:
        with self._lock:
            return iter(list(self._entries))


def factor_numbers(batch: int, order: int) -> int:
    """About how many numbers the factors of so many systems of this order hold."""
    return batch * order * min(order, _BAND)


def digest(*arrays: np.ndarray, of: str = "", size: int = 16) -> bytes:
    """``size`` bytes that are equal only for arrays with the same shapes and entries, and the same text."""
    found = hashlib.blake2b(str((of, [a.shape for a in arrays])).encode(), digest_size=size)
    for a in arrays:
        found.update(np.ascontiguousarray(a).tobytes())
    return found.digest()
