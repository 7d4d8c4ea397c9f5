"""The errors that a person can mend. The command line prints them without a traceback."""


class HyenaDNAError(ValueError):
    """What was given cannot be used as it is."""


class InputError(HyenaDNAError):
    """Data, a file or a setting cannot be used as it is. The command line prints the message
    without a traceback.
    """


class CheckpointError(HyenaDNAError):
    """A checkpoint, a folder or a setting cannot be used as it is. The command line prints it
    without a traceback.
    """


class PushError(CheckpointError):
    """The Hub refused an upload, or could not be reached. The message says what was published:
    nothing, as a rule.
    """
