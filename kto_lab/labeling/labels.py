"""The interface of labelers: answers in; for each a thumb, or a reason for none, out.

A labeler is a Hydra option of the group `labeler`. It sees the answers to label and the thumbs it may learn from, but
never the thumb of an answer that it is labelling: labelers that learn do so out of fold by prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from kto_lab.judging.answer import Answer

if TYPE_CHECKING:
    import torch

GIVEN = "given"


@dataclass(frozen=True)
class Label:
    """A thumb.

    Attributes:
        desirable: thumbs-up.
        by: the part of the labeler that decided: a rule's or a principle's name.
        score: how desirable the answer is, on the labeler's own scale, or None.
        scores: the parts behind it, by name: every principle's score, every rule that matches.
    """

    desirable: bool
    by: str
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NoLabel:
    """Why an answer gets no thumb, in words for a report; the same words for the same reason."""

    reason: str


Verdict: TypeAlias = Label | NoLabel


@dataclass(frozen=True)
class Labelled:
    """What a labeler returns.

    Attributes:
        verdicts: (N,) one per answer, in their order.
        numbers: its own entries in the report: thresholds, calibration, the model.
        raters: (N,) thumbs of others that the labeler used, by name, to be compared with each other.
        signals: (N,) what the scores were made of, by name, None where there is no thumb: to be measured against the
            truth. Not scores calibrated out of fold: a fold whose thumbs are mostly up gets lower ones, since its own
            thumbs were left out, so that of a useless signal they have an AUC below 0.5.
    """

    verdicts: list[Verdict]
    numbers: dict[str, Any] = field(default_factory=dict)
    raters: dict[str, list[bool | None]] = field(default_factory=dict)
    signals: dict[str, list[float | None]] = field(default_factory=dict)


class Labeler(Protocol):
    """Gives thumbs to answers; a Hydra option of the group `labeler`."""

    name: str

    def label(self, answers: Sequence[Answer], thumbs: Sequence[Answer], device: "torch.device") -> Labelled:
        """A verdict on every answer.

        Args:
            answers: what to label.
            thumbs: answers of the training split that have a thumb, to learn from. They may be among `answers`: what
                is learned from the thumbs of a prompt is not used on that prompt.
            device: where a model computes.

        Raises:
            LabError: something that a person can mend.
        """
        ...
