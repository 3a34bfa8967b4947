"""What the convscope command's exit status means to a script."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses of the convscope command; docs/command-line.md lists them."""

    OK = 0
    # What was given or asked for is not right: an unreadable picture, an unknown layer.
    REJECTED = 1
    # The command line itself is not right, or an extra is not installed.
    USAGE = 2
    # The server cannot be reached, is not ready, or refuses for now: trying again may help.
    UNAVAILABLE = 3
    # The deadline passed.
    DEADLINE = 4
    # The server failed: its log says why.
    SERVER_ERROR = 5
    # Ctrl-C, as shells report it.
    INTERRUPTED = 130
