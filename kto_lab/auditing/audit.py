"""An audit: signals, their combination, and the rates at which labels are wrong. No files, no terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from datasets import Dataset

from kto_lab import console
from kto_lab.auditing.bounds import Bounds, bounds_of
from kto_lab.auditing.combined import HIGHEST, Combined, combine
from kto_lab.auditing.contradiction import contradiction, neighbours
from kto_lab.auditing.examples import Bools, Examples, Ints, make_folds
from kto_lab.auditing.out_of_fold import out_of_fold, text_features
from kto_lab.auditing.raters import Reliability, Votes, raters
from kto_lab.auditing.rates import Rates, cleanlab_issues, of_combined, of_confident_learning, of_raters
from kto_lab.auditing.signals import Signal
from kto_lab.auditing.training import Recipe, training
from kto_lab.errors import LabError

# A signal of N examples whose labels (N,) are these: what does not depend on the labels is made once.
Reader: TypeAlias = Callable[[Bools], Signal]
SIGNALS = ("out_of_fold", "training", "raters", "contradiction")


@dataclass(frozen=True)
class Settings:
    """What is asked of an audit; the keys of the same names in conf/audit.yaml.

    Attributes:
        signals: of SIGNALS, at least one.
        folds: folds by prompt.
        near_duplicates: minimum similarity, or None for identical texts only.
        seed: of all random draws.
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
        bounds: how often labels can be wrong at most.
        rates: estimates of how often labels are wrong.
        flagged: (N,) labels that cleanlab would have corrected; None where the out-of-fold signal was not asked.
        votes: the thumbs on each answer, where raters were asked.
        reliability: what was found of the raters; likewise.
    """

    examples: Examples
    signals: list[Signal]
    silent: list[str]
    combined: Combined
    bounds: Bounds
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
    readers: list[Reader] = []
    asked: list[Signal] = []
    for name in settings.signals:
        console.say(f"    {name}")
        read = _reader(name, examples, folds, table, settings, recipe)
        signal = read(examples.labels)
        asked.append(signal)
        if signal.speaks:
            readers.append(read)
    signals = [signal for signal in asked if signal.speaks]
    if not signals:
        raise LabError(
            f"None of {', '.join(settings.signals)} can say anything of these examples: no answer has a second thumb "
            "or a near-duplicate. Ask out_of_fold as well."
        )
    votes, reliability, by_thumbs = None, None, None
    if "raters" in settings.signals:
        _, votes, reliability = raters(examples)
        by_thumbs = of_raters(votes, reliability, examples, seed=settings.seed)
    console.say("    bounds, and the same with further flips")
    bounds = bounds_of(lambda labels: [read(labels) for read in readers], examples, folds, signals, seed=settings.seed)
    known = by_thumbs.values if by_thumbs else None
    combined = combine(signals, examples, known=known, seed=settings.seed)
    fitted = of_combined(combined, bounds, examples)
    if known is None and fitted.values is None:
        # Nothing tells the rates. A ranking needs some, and the fit's own may say that no label is wrong. They are one:
        # with a wrong ratio all labels of one class would come before those of the other.
        half = min(bounds.desirable, bounds.undesirable, HIGHEST) / 2
        combined = combine(signals, examples, supposed=half, seed=settings.seed)
    text = next((signal for signal in signals if signal.name == "out_of_fold"), None)
    by_text = of_confident_learning(text, examples) if text is not None else None
    rates = [fitted, by_text, by_thumbs]
    return Audit(
        examples=examples,
        signals=signals,
        silent=[signal.name for signal in asked if not signal.speaks],
        combined=combined,
        bounds=bounds,
        rates=[found for found in rates if found is not None],
        flagged=cleanlab_issues(text, examples.labels) if text is not None else None,
        votes=votes,
        reliability=reliability,
    )


def _reader(
    name: str, examples: Examples, folds: Ints, table: Dataset, settings: Settings, recipe: Recipe | None
) -> Reader:
    """A signal that can be asked again where labels are others; policies are not trained again, and say the same."""
    if name == "out_of_fold":
        features = text_features(examples, seed=settings.seed)
        return lambda labels: out_of_fold(features, labels, folds, seed=settings.seed)
    if name == "contradiction":
        near = neighbours(examples, similarity=settings.near_duplicates)
        return lambda labels: contradiction(near, labels)
    if name == "raters":
        return lambda labels: raters(replace(examples, labels=labels))[0]
    assert recipe is not None
    trained = training(table, examples.labels, folds, recipe)
    return lambda labels: trained
