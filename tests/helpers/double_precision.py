"""JAX's numbers of 64 bits, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

__all__ = ["double_precision"]


@contextmanager
def double_precision() -> Iterator[None]:
    """Numbers of 64 bits in the threads of callbacks too, which ``jax.enable_x64`` does not always reach."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
