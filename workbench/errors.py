"""What can go wrong, as types. Every message carries the value, the rule and the remedy."""

import logging


class WorkbenchError(Exception):
    """A failure a person can act on; `exit_code` is what the command line returns for it."""

    exit_code = 1


class InputError(WorkbenchError):
    """Parameters, a dataset or another input is wrong: nothing was started."""

    exit_code = 2


class SettingsError(InputError):
    """A parameter file, key or value is refused."""


class DatasetError(InputError):
    """A table, folder or image of the dataset is refused; names the file and row."""


class WeightsError(InputError):
    """A weights file is missing, damaged or not plain data."""


class MissingInputError(InputError):
    """A step lacks what an earlier step writes; names the notebook to run."""


class StepError(WorkbenchError):
    """A step started and failed."""


class RungRefusedError(StepError):
    """07 refused a file of the ladder: 05 takes the next rung when it runs again."""


class RunLockedError(InputError):
    """Another live process works in this run folder."""


def printable(text: str) -> str:
    """Show control characters and broken Unicode as escapes: no file name steers a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


class PlainLines(logging.Formatter):
    """The lines of our log, safe to print whatever a file or class is called."""

    def __init__(self, mark: str = "") -> None:
        super().__init__("%(message)s")
        self.mark = mark

    def format(self, record: logging.LogRecord) -> str:
        return self.mark + printable(super().format(record))
