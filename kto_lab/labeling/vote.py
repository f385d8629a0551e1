"""Labels by a vote of earlier label files, and how far these agree, in pairs and all at once.

A text (a prompt with its completion, compared exactly) has one vote per file. Where a file holds several thumbs on one
text, its vote is their majority; a tie is no vote.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.hashing import content_hash
from kto_lab.judging.answer import Answer
from kto_lab.labeling.labels import Label, Labelled, NoLabel, Verdict

if TYPE_CHECKING:
    import torch

NO_VOTE = "no file has a thumb on it"
TIE = "the files are split evenly"
APART = "the files do not agree"
ALONE = "only one file has a thumb on it"


@dataclass(frozen=True)
class Vote:
    """The labeler.

    Attributes:
        files: tables of examples, such as this command writes.
        policy: "majority": the thumb of most files that have one; "unanimous": only where at least two have one and all
            of them agree.
    """

    files: Sequence[str]
    policy: Literal["majority", "unanimous"]
    name = "vote"

    def label(self, answers: Sequence[Answer], thumbs: Sequence[Answer], device: "torch.device") -> Labelled:
        """See `Labeler`; a vote learns nothing.

        Raises:
            LabError: there are fewer than two files, two share a name, or one is not a table of examples.
        """
        if self.policy not in ("majority", "unanimous"):
            raise LabError(f"labeler.policy is {self.policy!r}; it must be 'majority' or 'unanimous'.")
        names = [Path(file).stem for file in self.files]
        if len(names) < 2 or len(set(names)) < len(names):
            raise LabError(f"labeler.files is {list(self.files)}; give two files or more, of different names.")
        texts = [content_hash(answer.prompt, answer.completion) for answer in answers]
        raters = {}
        for name, file in zip(names, self.files, strict=True):
            votes = votes_of(file)
            raters[name] = [votes.get(text) for text in texts]
        verdicts = [self._verdict(dict(zip(names, row, strict=True))) for row in zip(*raters.values(), strict=True)]
        return Labelled(verdicts, {"files": [str(file) for file in self.files], "policy": self.policy}, raters)

    def _verdict(self, votes: dict[str, bool | None]) -> Verdict:
        cast = {name: vote for name, vote in votes.items() if vote is not None}
        if not cast:
            return NoLabel(NO_VOTE)
        share = sum(cast.values()) / len(cast)
        if self.policy == "unanimous" and len(cast) == 1:
            return NoLabel(ALONE)
        if self.policy == "unanimous" and 0 < share < 1:
            return NoLabel(APART)
        if share == 0.5:
            return NoLabel(TIE)
        desirable = share > 0.5
        by = "+".join(name for name, vote in cast.items() if vote is desirable)
        return Label(desirable, by, share, {name: float(vote) for name, vote in cast.items()})


def votes_of(file: str) -> dict[str, bool]:
    """The vote of a file on each of its texts, by the text's hash; texts with a tie are left out."""
    table = from_collected(file, None)
    cast: dict[str, list[bool]] = defaultdict(list)
    for row in table.select_columns(["prompt", "completion", "desirable"]):
        cast[content_hash(row["prompt"], row["completion"])].append(row["desirable"])
    return {text: 2 * sum(said) > len(said) for text, said in cast.items() if 2 * sum(said) != len(said)}
