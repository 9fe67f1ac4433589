"""Callbacks that watch a training in target space."""
