"""Labels by a threshold on the scores of a reward model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kto_lab.judging.answer import Answer
from kto_lab.judging.reward import RewardModel
from kto_lab.labeling.labels import Label, Labelled, NoLabel, Verdict
from kto_lab.labeling.threshold import NEAR, Threshold

if TYPE_CHECKING:
    import torch

TOO_LONG = "longer than the reward model may read (labeler.max_tokens)"


@dataclass(frozen=True)
class Reward(RewardModel):
    """The labeler.

    Attributes:
        threshold: from scores to thumbs.
    """

    threshold: Threshold
    name = "reward"

    def label(self, answers: Sequence[Answer], thumbs: Sequence[Answer], device: "torch.device") -> Labelled:
        """See `Labeler`; a reward model learns nothing here.

        Raises:
            LabError: the model cannot be loaded, is not a reward model, or gives a score that is not finite.
        """
        opened = self.open()
        scores = self.scores(opened, answers, device)
        line = self.threshold.line([value for value in scores if value is not None])
        verdicts: list[Verdict] = []
        for value in scores:
            if value is None:
                verdicts.append(NoLabel(TOO_LONG))
                continue
            thumb = self.threshold.thumb(value, line)
            verdicts.append(NoLabel(NEAR) if thumb is None else Label(thumb, "reward", value, {"reward": value}))
        layout = "chat" if opened.chat else "pair"
        numbers = {"model": self.model, "provenance": opened.provenance, "layout": layout, "line": line}
        return Labelled(verdicts, numbers)
