"""Mistakes in data that comes from outside."""


class DatasetError(ValueError):
    """Bad data. The message is one line: the file, the place and value, what was expected, what to try."""


class DatasetWarning(UserWarning):
    """Data that can be read but deserves a look, in one line like ``DatasetError``."""
