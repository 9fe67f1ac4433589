"""Solves and pull-backs around the steps of optimizers."""
