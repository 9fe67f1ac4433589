"""Weights from targets, and gradients back."""
