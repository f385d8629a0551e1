"""The one kind of error that is meant for a person."""


class LabError(Exception):
    """Something a person can mend.

    The message says what was wrong, where (file and line for data, key for configuration) and what to do. The command
    line prints it without a traceback; a library caller catches it like any exception.
    """
