"""Targets: how they start, and which processes have them."""
