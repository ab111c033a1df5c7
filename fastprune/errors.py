"""The one exception that says the input, not the program, is at fault."""


class InputError(ValueError):
    """Bad input: the message names the file, field or shape at fault and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """
