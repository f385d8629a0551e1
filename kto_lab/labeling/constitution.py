"""Labels by principles: a local language model judges each answer by each principle, and a policy makes the thumb.

The margin of yes against no becomes a probability of a thumbs-up for each principle: by Platt scaling on the thumbs of
a handful of prompts, fitted without those of the answer's own prompt; or, without thumbs, by subtracting the margin of
the same question about nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.judging.answer import Answer
from kto_lab.judging.asking import CONTENT_FREE, Exchange, Leaning
from kto_lab.labeling.answers import of_prompts
from kto_lab.labeling.calibration import Calibration, platt, prior_calibration
from kto_lab.labeling.folds import Predict, Rows, out_of_fold
from kto_lab.labeling.labels import Label, Labelled, NoLabel, Verdict
from kto_lab.labeling.principles import Principle, read_principles
from kto_lab.labeling.threshold import NEAR, Threshold
from kto_lab.labeling.yaml_file import shipped
from kto_lab.memory import within_memory

if TYPE_CHECKING:
    import torch

    from kto_lab.models.load import Loaded

Floats: TypeAlias = NDArray[np.float64]

TOO_LONG = "longer than the judge may read (labeler.max_tokens)"


@dataclass(frozen=True)
class Constitution:
    """The labeler.

    Attributes:
        model: the judge.
        path: the YAML file of principles, or "shipped".
        policy: "all": the score is that of the weakest principle; "any": of the strongest; "weighted": their mean by
            weight.
        examples: prompts whose thumbs calibrate; 0 for none.
        folds: of the calibration.
        layout: how the judge is asked: "chat" (a turn of its chat template), "text" (plain text to continue) or "auto"
            (chat where there is a template).
        max_tokens: tokens that the judge reads.
        batch_tokens: tokens in one forward pass.
        threshold: from scores, which are probabilities, to thumbs.
    """

    model: "Loaded"
    path: str
    policy: Literal["all", "any", "weighted"]
    examples: int
    folds: int
    layout: Literal["auto", "chat", "text"]
    max_tokens: int
    batch_tokens: int
    threshold: Threshold
    name = "constitution"

    def label(self, answers: Sequence[Answer], thumbs: Sequence[Answer], device: "torch.device") -> Labelled:
        """See `Labeler`.

        Raises:
            LabError: the principles do not fit, or there are thumbs, and not both kinds among those to calibrate with.
        """
        self._check()
        principles = read_principles(
            shipped("constitution.yaml") if self.path == "shipped" else Path(self.path).expanduser()
        )
        handful = of_prompts(thumbs, self.examples) if self.examples and thumbs else []
        heard = self._judge([*answers, *handful], principles, device)
        judged = _read(answers, heard[: len(answers)])
        examples = _read(handful, heard[len(answers) :])
        margins = _margins([found for _, found in judged], principles)
        if examples:
            learned = [answer for answer, _ in examples]
            theirs = _margins([found for _, found in examples], principles)
            chances, fitted = calibrated([answer for answer, _ in judged], margins, learned, theirs, self.folds)
        else:
            fitted = self._priors(principles, device)
            chances = np.stack([fit.chance(column) for fit, column in zip(fitted, margins.T, strict=True)], axis=1)
        scores = self._combined(chances, principles)
        line = self.threshold.line(scores.tolist())
        given = {
            id(answer): self._verdict(float(score), line, each, principles)
            for (answer, _), score, each in zip(judged, scores, chances, strict=True)
        }
        verdicts = [given.get(id(answer), NoLabel(TOO_LONG)) for answer in answers]
        signals = _signals(answers, [answer for answer, _ in judged], margins, principles)
        leanings = [leaning for _, found in judged for leaning in found]
        numbers = {
            "judge": self.model.provenance,
            "layout": "chat" if self._chat() else "text",
            "policy": self.policy,
            "line": line,
            "calibrated_with": {"thumbs": len(examples), "prompts": len({answer.prompt_id for answer, _ in examples})},
            "principles": [
                {**asdict(principle), "calibration": asdict(calibration)}
                for principle, calibration in zip(principles, fitted, strict=True)
            ],
            **_manner(leanings),
        }
        return Labelled(verdicts, numbers, signals=signals)

    def _check(self) -> None:
        """Refuse settings that mean nothing."""
        if self.policy not in ("all", "any", "weighted"):
            raise LabError(f"labeler.policy is {self.policy!r}; it must be 'all', 'any' or 'weighted'.")
        if self.layout not in ("auto", "chat", "text"):
            raise LabError(f"labeler.layout is {self.layout!r}; it must be 'auto', 'chat' or 'text'.")
        if self.layout == "chat" and not self.model.tokenizer.chat_template:
            raise LabError("The judge's tokenizer has no chat template. Use labeler.layout=text.")
        if self.examples < 0:
            raise LabError(f"labeler.examples is {self.examples}; it must be at least 0.")

    def _judge(
        self, answers: Sequence[Answer], principles: Sequence[Principle], device: "torch.device"
    ) -> list[list[Leaning] | None]:
        """(N, P) what the judge says, None where it cannot read the answer; the same text is judged once."""
        told = [Exchange(answer.prompt_text, answer.words) for answer in answers]
        distinct = list(dict.fromkeys(told))
        with console.progress("answers judged", len(distinct)) as advance:
            heard = self._ask(distinct, principles, device, advance)
        known = dict(zip(distinct, heard, strict=True))
        return [known[exchange] for exchange in told]

    def _chat(self) -> bool:
        return bool(self.model.tokenizer.chat_template) if self.layout == "auto" else self.layout == "chat"

    @within_memory("the judge's answers", "Lower labeler.batch_tokens, which changes no score but by rounding.")
    def _ask(
        self,
        exchanges: Sequence[Exchange],
        principles: Sequence[Principle],
        device: "torch.device",
        advance: Callable[[int], None] = lambda exchanges: None,
    ) -> list[list[Leaning] | None]:
        from kto_lab.judging.asking import ask

        return ask(
            self.model,
            exchanges,
            [principle.question for principle in principles],
            device,
            chat=self._chat(),
            max_tokens=self.max_tokens,
            batch_tokens=self.batch_tokens,
            advance=advance,
        )

    def _priors(self, principles: Sequence[Principle], device: "torch.device") -> list[Calibration]:
        """What is taken off without thumbs: the margin of each question when it is asked about nothing."""
        heard = [found for found in self._ask(CONTENT_FREE, principles, device) if found is not None]
        means = _margins(heard, principles).mean(axis=0) if heard else np.zeros(len(principles))
        return [prior_calibration(float(mean)) for mean in means]

    def _combined(self, chances: Floats, principles: Sequence[Principle]) -> Floats:
        """(N,) scores from (N, P) chances."""
        if self.policy == "weighted":
            return np.average(chances, axis=1, weights=[principle.weight for principle in principles])
        scores: Floats = chances.min(axis=1) if self.policy == "all" else chances.max(axis=1)
        return scores

    def _verdict(self, score: float, line: float, chances: Floats, principles: Sequence[Principle]) -> Verdict:
        """The thumb, and the principle that speaks for it most."""
        thumb = self.threshold.thumb(score, line)
        if thumb is None:
            return NoLabel(NEAR)
        if self.policy == "weighted":
            pull = (chances - line) * [principle.weight for principle in principles]
            place = int(np.argmax(pull if thumb else -pull))
        else:
            place = int(np.argmin(chances) if self.policy == "all" else np.argmax(chances))
        named = {principle.name: float(chance) for principle, chance in zip(principles, chances, strict=True)}
        return Label(thumb, principles[place].name, score, named)


def _read(answers: Sequence[Answer], heard: Sequence[list[Leaning] | None]) -> list[tuple[Answer, list[Leaning]]]:
    """The answers that the judge could read, with what it said."""
    return [(answer, found) for answer, found in zip(answers, heard, strict=True) if found is not None]


def _margins(heard: Sequence[Sequence[Leaning]], principles: Sequence[Principle]) -> Floats:
    """(N, P) margins in nats, above 0 where the reply speaks for the answer."""
    sides = [1 if principle.good else -1 for principle in principles]
    margins = np.array([[leaning.margin for leaning in found] for found in heard], dtype=np.float64)
    return margins.reshape(len(heard), len(principles)) * sides


def _signals(
    answers: Sequence[Answer], judged: Sequence[Answer], margins: Floats, principles: Sequence[Principle]
) -> dict[str, list[float | None]]:
    """The margins of each principle, and their weighted mean: what the judge knows, before any calibration."""
    row_of = {id(answer): row for row, answer in enumerate(judged)}
    rows = [row_of.get(id(answer)) for answer in answers]
    mean = np.average(margins, axis=1, weights=[principle.weight for principle in principles])
    columns = {principle.name: margins[:, place] for place, principle in enumerate(principles)}
    columns["mean of all margins"] = mean
    return {name: [None if row is None else float(values[row]) for row in rows] for name, values in columns.items()}


def calibrated(
    answers: Sequence[Answer], margins: Floats, learned: Sequence[Answer], theirs: Floats, folds: int
) -> tuple[Floats, list[Calibration]]:
    """Probabilities from margins, by calibrations that saw no thumb of an answer's own prompt.

    Args:
        answers: (N,) the answers to label.
        margins: (N, P) their margins.
        learned: (M,) answers with thumbs.
        theirs: (M, P) their margins.
        folds: how many, by prompt.

    Returns:
        (N, P) probabilities, and the calibration of each principle on all thumbs.
    """
    prompts, known = ([answer.prompt_id for answer in part] for part in (answers, learned))
    given = np.array([bool(answer.thumb) for answer in learned])
    chances, fitted = np.empty(margins.shape), []
    for place in range(margins.shape[1]):

        def fit(rows: Rows, mine: Floats = margins[:, place], seen: Floats = theirs[:, place]) -> Predict:
            found = platt(seen[rows], given[rows], "The calibration of a principle")
            return lambda wanted: found.chance(mine[wanted])

        chances[:, place] = out_of_fold(prompts, known, folds, fit)
        fitted.append(platt(theirs[:, place], given, "The calibration of a principle"))
    return chances, fitted


def _manner(leanings: Sequence[Leaning]) -> dict[str, Any]:
    """How the judge replies: the probability that it says yes or no at all, and the effect of their order."""
    if not leanings:
        return {}
    orders = np.array([leaning.order for leaning in leanings])
    return {
        "mean_mass_of_yes_and_no": float(np.mean([leaning.mass for leaning in leanings])),
        "mean_effect_of_order_nats": float(orders.mean()),
        "mean_margin_nats": float(np.mean([leaning.margin for leaning in leanings])),
        "spread_of_margins_nats": float(np.std([leaning.margin for leaning in leanings])),
    }
