"""What can go wrong, as types. Every message carries the value, the rule and the remedy."""


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
