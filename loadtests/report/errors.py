"""What can be wrong with a record."""


class RecordError(Exception):
    """The folder holds no record that can be read; the message says where and why."""
