"""Errors that a user can mend: the command line prints them in one line and exits with code 2.

A message names the parameter, its value and the remedy.
"""


class UsageError(ValueError):
    """A parameter, a file or a checkpoint that cannot be used as given."""


class DataError(UsageError):
    """A folder or a file of the data set that cannot be used; the message names it."""


class SomeFailed(UsageError):
    """Some of many files could not be done, all others were; the message lists them."""

    exit_code = 1


class TrainingStopped(RuntimeError):
    """Training ended before its time in an orderly way; the message says how to go on."""

    exit_code = 2


class Interrupted(TrainingStopped):
    """The user pressed Ctrl-C."""

    exit_code = 130


class Terminated(TrainingStopped):
    """The process received SIGTERM, or SLURM's requeue signal."""

    exit_code = 143
