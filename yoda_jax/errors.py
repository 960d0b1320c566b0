"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """A wrong configuration, path, picture, record or checkpoint.

    Its message is one sentence: what, what was expected, what was found and what to do. The command
    line prints it without a traceback and exits with status 2.
    """
