"""The one error of this folder. No imports, so that a command can name it without loading torch."""


class DataError(Exception):
    """Data, or a model on it, that cannot be used; the message names the file, the place, and what to do."""
