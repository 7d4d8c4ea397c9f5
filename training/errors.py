"""The error that a recipe raises about what it was given."""


class InputError(ValueError):
    """Data, a file or a setting cannot be used as it is. The command line prints the message without a traceback."""
