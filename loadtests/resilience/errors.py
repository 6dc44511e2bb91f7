"""The one error of a run."""


class RunError(Exception):
    """Something the person at the keyboard has to know; its text is one line and ends the run, or its scenario."""
