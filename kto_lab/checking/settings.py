"""What must hold on a machine: the keys of `conf/check.yaml`."""

from dataclasses import dataclass

from kto_lab.kinds import NotNegative


@dataclass(frozen=True)
class Room:
    """Gigabytes that must be free.

    Attributes:
        cache: in the cache folder.
        runs: in the folder of the runs.
    """

    cache: NotNegative
    runs: NotNegative


@dataclass(frozen=True)
class Limits:
    """The largest differences, each relative to the largest number that is compared.

    Attributes:
        logps: of log-probabilities from float64.
        gradients: of gradients from float64.
        packed: of packed rows from padded ones.
    """

    logps: NotNegative
    gradients: NotNegative
    packed: NotNegative
