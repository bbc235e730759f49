"""What can go wrong before, in and after training.

TrainingError
├── DataError        photos on disk that can't be trained on
├── ExperimentError  an experiment file that can't be run
├── RunError         a run folder that is not what the command needs
└── DivergedError    a training whose loss is no number any more
"""


class TrainingError(Exception):
    """A training or evaluation that can't be done. Each message says what is wrong and what to do."""


class DataError(TrainingError):
    """Photos on disk that can't be trained on: a wrong layout, an unreadable photo, a class with too few."""


class ExperimentError(TrainingError):
    """An experiment file that can't be run: an unknown key, a value out of range."""


class DivergedError(TrainingError):
    """A training whose loss is no number any more: more epochs would not mend it."""


class RunError(TrainingError):
    """A run folder that is not what the command needs: absent, of another experiment, or not finished."""
