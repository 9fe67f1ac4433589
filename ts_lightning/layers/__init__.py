"""The layers that can be solved from targets, a family each."""
