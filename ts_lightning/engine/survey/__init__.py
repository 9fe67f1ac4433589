"""Which layers of a model can be solved, found by a dry run."""
