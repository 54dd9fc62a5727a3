"""Errors that a user can act on.

Every error raised on purpose derives from `LcpBenchError`; its message says what was expected, what came, and what to
do next. `__main__` prints the message without a traceback (`run.debug=true` shows it).
"""


class LcpBenchError(Exception):
    """Base of all errors with a message written for the user."""

    exit_code = 1


class ConfigError(LcpBenchError):
    """The command or a configuration value is wrong; nothing was run and nothing was written."""

    exit_code = 2


class WeightsError(LcpBenchError):
    """A weight file is missing, truncated, or does not fit the model."""


class ClipError(LcpBenchError):
    """One clip cannot be processed; the run goes on and the clip becomes a failed row.

    `stage` names where it failed (`read`, `face`, `audio`, `encode`, `denoise`, `decode`, `write`); `clip` is the
    clip's id in the dataset manifest.
    """

    def __init__(self, message: str, *, clip: str, stage: str) -> None:
        super().__init__(message)
        self.clip = clip
        self.stage = stage


class DatasetError(LcpBenchError):
    """The data set as a whole cannot be used (missing root, changed frozen manifest, no clips)."""


class EngagementError(LcpBenchError):
    """What was computed differs from the plan; the run's numbers must not be used."""


class RankError(LcpBenchError):
    """Another process of the same run failed or was lost, and the run ends."""


class StoreError(LcpBenchError):
    """A record cannot be written or read (lock held, disk full, unknown schema)."""


class RunHeldError(StoreError):
    """Another living process makes this run; nothing is wrong with it."""


class RepeatedError(LcpBenchError):
    """The same failure came so often in a row that trying on would only cost time (`run.fail_fast`)."""
