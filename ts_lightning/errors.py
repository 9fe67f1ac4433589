"""The one exception of this package: something cannot be trained in target space, and why."""


class TargetSpaceError(RuntimeError):
    """Raised, before any work is lost, where target space cannot do what was asked.

    Its text says what was found, what was expected and what to do.
    """
