"""Marks on gradients: attributes of these tensors, which say what their version was at some moment."""

from __future__ import annotations

from typing import Any


def mark(gradient: Any, name: str) -> None:
    """Note on a gradient what its version is now."""
    setattr(gradient, name, gradient._version)


def is_as_marked(gradient: Any, name: str) -> bool:
    """Whether there is a gradient that was marked and not written to since."""
    return gradient is not None and getattr(gradient, name, None) == gradient._version
