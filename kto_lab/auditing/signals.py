"""What a signal says: for each example, how probable it finds that the answer truly deserves a thumbs-up.

A signal reads everything but the example's own label, so that "the label is up and the signal says 0.1" is evidence
against the label. Its suspicion is the probability that it gives to the other label.
"""

from dataclasses import dataclass

import numpy as np

from kto_lab.auditing.examples import Bools, Floats

# No signal is surer than this: logits stay finite.
LIMIT = 1e-4


@dataclass(frozen=True)
class Signal:
    """What one signal says of N examples.

    Attributes:
        name: such as "out_of_fold".
        up: (N,) its probability that a thumbs-up is right, from 0 to 1; 1/2 where it cannot say. Never NaN.
        known: (N,) where it can say.
    """

    name: str
    up: Floats
    known: Bools

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not (np.isfinite(self.up).all() and self.up.min(initial=0.0) >= 0 and self.up.max(initial=0.0) <= 1):
            raise ValueError(f"The signal {self.name} holds values that are no probabilities.")

    def suspicion(self, labels: Bools) -> Floats:
        """(N,) the probability of the other label: from 0 to 1, larger is more doubtful, 1/2 where it cannot say."""
        return np.where(labels, 1 - self.up, self.up)

    @property
    def logits(self) -> Floats:
        """(N,) log-odds of a thumbs-up; 0 where it cannot say."""
        bounded = np.clip(self.up, LIMIT, 1 - LIMIT)
        return np.where(self.known, np.log(bounded / (1 - bounded)), 0.0)

    @property
    def speaks(self) -> bool:
        """Whether it can say anything of any example."""
        return bool(self.known.any())
