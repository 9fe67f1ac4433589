"""Target space of one model, without Lightning."""
