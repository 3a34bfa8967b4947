"""The base of every error that the user, not the programmer, can put right."""


class ExportError(Exception):
    """Something expected went wrong; the message is one line.

    It says what was expected, what came, and what to do. Every domain error of
    this package derives from it and lives in the module that raises it; the
    command line turns it into exit status 1.
    """
