"""Warnings of this library, so that a program can filter them by class."""

__all__ = ["NumericalWarning"]


class NumericalWarning(UserWarning):
    """A result is not what was asked for: degenerate input, or no convergence."""
