"""The ridge solve: mathematics that knows no module."""
