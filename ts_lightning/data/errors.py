"""What is raised for data that cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """Data that is missing or unusable: its one line says what was found, what was expected and what to do."""
