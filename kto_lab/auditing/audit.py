"""An audit: signals, what they say together, and the rates at which labels are wrong. No file, no screen."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from kto_lab import console
from kto_lab.auditing.combined import Combined, combine
from kto_lab.auditing.contradiction import contradiction
from kto_lab.auditing.examples import Bools, Examples, make_folds
from kto_lab.auditing.out_of_fold import out_of_fold
from kto_lab.auditing.raters import Reliability, Votes, raters
from kto_lab.auditing.rates import Rates, cleanlab_issues, of_combined, of_confident_learning, of_raters
from kto_lab.auditing.signals import Signal
from kto_lab.auditing.training import Recipe, training
from kto_lab.errors import LabError

SIGNALS = ("out_of_fold", "training", "raters", "contradiction")


@dataclass(frozen=True)
class Settings:
    """What is asked of an audit; the keys of the same names in conf/audit.yaml.

    Attributes:
        signals: of SIGNALS, at least one.
        folds: parts of the prompts.
        near_duplicates: least similarity, or None for the same text alone.
        seed: of all that is drawn.
    """

    signals: Sequence[str]
    folds: int
    near_duplicates: float | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse signals that there are not."""
        unknown = [name for name in self.signals if name not in SIGNALS]
        if unknown or not self.signals or len(set(self.signals)) < len(self.signals):
            raise LabError(
                f"signals is {list(self.signals)}; it must be one or more of {', '.join(SIGNALS)}, each once."
            )


@dataclass(frozen=True)
class Audit:
    """What was found of N examples.

    Attributes:
        examples: the examples.
        signals: what each signal says that can say anything, in the order asked.
        silent: the names of the others.
        combined: what they say together.
        rates: estimates of how often labels are wrong; the one that advice is taken from comes first.
        flagged: (N,) labels that cleanlab would have corrected; None where the out-of-fold signal was not asked.
        votes: the thumbs on each answer, where raters were asked.
        reliability: what was found of the raters; likewise.
    """

    examples: Examples
    signals: list[Signal]
    silent: list[str]
    combined: Combined
    rates: list[Rates]
    flagged: Bools | None
    votes: Votes | None
    reliability: Reliability | None


def audit(table: Dataset, settings: Settings, recipe: Recipe | None) -> Audit:
    """Ask every signal, and put together what they say.

    Args:
        table: N examples; the clean labels are not read.
        settings: what is asked.
        recipe: how policies are trained; needed where the signal `training` is asked.

    Raises:
        LabError: the table is too small for the folds, has one class, or no signal can say anything.
    """
    examples = Examples.of(table)
    folds = make_folds(examples, settings.folds, seed=settings.seed)
    asked: list[Signal] = []
    votes, reliability = None, None
    for name in settings.signals:
        console.say(f"    {name}")
        if name == "out_of_fold":
            asked.append(out_of_fold(examples, folds, seed=settings.seed))
        elif name == "contradiction":
            asked.append(contradiction(examples, similarity=settings.near_duplicates))
        elif name == "raters":
            signal, votes, reliability = raters(examples)
            asked.append(signal)
        else:
            assert recipe is not None
            asked.append(training(table, examples.labels, folds, recipe))
    signals = [signal for signal in asked if signal.speaks]
    if not signals:
        raise LabError(
            f"None of {', '.join(settings.signals)} can say anything of these examples: no answer has a second thumb "
            "or a near-duplicate. Ask out_of_fold as well."
        )
    by_thumbs = None
    if votes is not None and reliability is not None:
        by_thumbs = of_raters(votes, reliability, examples, seed=settings.seed)
    combined = combine(signals, examples, known=by_thumbs.values if by_thumbs else None, seed=settings.seed)
    text = next((signal for signal in signals if signal.name == "out_of_fold"), None)
    by_text = of_confident_learning(text, examples, seed=settings.seed) if text is not None else None
    rates = [of_combined(combined, examples), by_text, by_thumbs]
    return Audit(
        examples=examples,
        signals=signals,
        silent=[signal.name for signal in asked if not signal.speaks],
        combined=combined,
        rates=[found for found in rates if found is not None],
        flagged=cleanlab_issues(text, examples.labels) if text is not None else None,
        votes=votes,
        reliability=reliability,
    )
