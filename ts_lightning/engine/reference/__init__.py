"""The pass over the reference batch."""
