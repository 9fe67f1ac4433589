"""Running a model without a trace."""
