"""The one error of the benchmark."""


class BenchError(Exception):
    """Something the person at the keyboard has to know; its text is one line and ends the command."""
