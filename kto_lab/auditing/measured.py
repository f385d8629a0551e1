"""How well wrong labels were found, where the clean labels are known."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kto_lab.auditing.examples import Bools, Examples, Floats, Ints
from kto_lab.auditing.suspects import ranking
from kto_lab.statistics import Estimate, auc_interval, share_interval

# Beside the number of wrong labels: about as many as a person reviews in one sitting.
FIRST = 50


@dataclass(frozen=True)
class Found:
    """How well one suspicion finds the labels that are not the clean ones.

    Attributes:
        auc: chance that a wrong label is doubted more than a right one; prompts are resampled for the interval.
        precision: share of wrong labels among the most doubtful, as many as labels are wrong.
        precision_first: the same among the first FIRST.
    """

    auc: Estimate
    precision: Estimate
    precision_first: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure_found(suspicion: Floats, wrong: Bools, examples: Examples, *, seed: int) -> Found:
    """Measure one suspicion (N,) against which labels are wrong (N,).

    Ties are broken by the identity of the examples, which says nothing of the label in doubt.
    """
    order = ranking(suspicion, examples)
    return Found(
        auc=auc_interval(suspicion, wrong, examples.prompt_ids, seed=seed),
        precision=_precision(order, int(wrong.sum()), wrong, examples, seed=seed),
        precision_first=_precision(order, FIRST, wrong, examples, seed=seed),
    )


def _precision(order: Ints, first: int, wrong: Bools, examples: Examples, *, seed: int) -> Estimate:
    """The share of wrong labels among the first, with a bootstrap over their prompts."""
    rows = order[:first]
    prompts, member = np.unique(examples.prompt_numbers[rows], return_inverse=True)
    hits = np.bincount(member, wrong[rows], minlength=len(prompts))
    return share_interval(hits, np.bincount(member, minlength=len(prompts)), seed=seed)


def measure_each(suspicions: Mapping[str, Floats], wrong: Bools, examples: Examples, *, seed: int) -> dict[str, Found]:
    """`found` of every suspicion; none where no label is wrong, or every one."""
    if not wrong.any() or wrong.all():
        return {}
    return {name: measure_found(suspicion, wrong, examples, seed=seed) for name, suspicion in suspicions.items()}
