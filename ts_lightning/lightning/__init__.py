"""Target space in Lightning's life cycle."""
