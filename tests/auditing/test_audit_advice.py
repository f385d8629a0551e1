"""What to set for given rates."""

import pytest
from hydra.utils import instantiate

from kto_lab.auditing.advice import MATTERS, WITHIN, Advice, advise, review_size
from kto_lab.auditing.bounds import Bounds, Trial
from kto_lab.auditing.raters import wilson
from kto_lab.auditing.rates import Rates
from kto_lab.feedback.pairs import make_pairs, pair_noise
from kto_lab.feedback.table import of_split
from kto_lab.losses import FlipRates
from kto_lab.losses.noise import clean_counts, effective_weights
from kto_lab.losses.weighting import Weights
from kto_lab.statistics import Estimate
from tests.small_runs import composed


def rates(down: float, up: float, *, half: float = 0.02, method: str = "raters") -> Rates:
    return Rates(method, *(Estimate(rate, max(rate - half, 0.0), rate + half, 100) for rate in (down, up)))


def bounded(down: float, up: float, value: float | None = None) -> Rates:
    """What signals tell: from 0 to a bound."""
    return Rates("noise_aware", *(Estimate(value, 0.0, high, 100) for high in (down, up)))


BOUNDS = Bounds(Estimate(0.55, 0.53, 0.57, 100), 0.42, 0.43, [Trial(0.3, 0.52, 0.47, 0.48)])
OPEN = bounded(0.42, 0.43)


def advised(*found: Rates, bounds: Bounds = BOUNDS, desirable: int = 500, undesirable: int = 500) -> list[Advice]:
    return advise([OPEN, *found], bounds, desirable, undesirable)


def test_nothing_is_set_where_both_upper_ends_are_low() -> None:
    (item,) = advise([bounded(MATTERS - 0.01, 0.01)], BOUNDS, 500, 500)
    assert item.about == "nothing to set" and item.override == "" and "bear" in item.text
    # A low value alone is no reason: that is what a weak signal gives.
    (item,) = advise([bounded(0.42, 0.43, value=0.0)], BOUNDS, 500, 500)
    assert item.about == "rates" and item.override == ""


def test_where_the_signals_hardly_predict_the_thumbs_the_rates_cannot_be_known() -> None:
    (item,) = advised()
    assert item.override == "" and "cannot be known from this table" in item.text
    assert "AUC 0.55 [0.53, 0.57]" in item.text and "0.0% to 42.0%" in item.text and "hardly" in item.text
    assert "from 42% and 43% to 47% and 48%" in item.text
    asked = review_size(OPEN, 500, 500)
    assert f"at_random={asked}" in item.text
    coin = Bounds(Estimate(0.5, 0.48, 0.52, 100), 0.5, 0.5)
    assert "do not predict" in advised(bounds=coin)[0].text


def test_no_loss_is_prescribed_from_an_upper_end() -> None:
    """Signals that predict the thumbs well, and thumbs that a fifth of them contradict: wrong, or not understood."""
    strong = Bounds(Estimate(0.8, 0.78, 0.82, 100), 0.22, 0.22)
    (item,) = advise([bounded(0.22, 0.22, value=0.2)], strong, 500, 500)
    assert item.override == "" and "20.0% and 20.0% are wrong; but" in item.text


def test_a_review_of_the_size_that_is_asked_for_tells_the_rates_as_closely() -> None:
    asked = review_size(bounded(0.3, 0.3), 400, 600)
    low, high = wilson(0.3, asked * 0.4)
    assert (high - low) / 2 == pytest.approx(WITHIN, rel=0.1)
    assert review_size(bounded(0.3, 0.3), 4, 6) == 10


def test_evidence_that_is_wide_changes_nothing() -> None:
    for unknown in (rates(0.3, 0.3, half=0.2), Rates("raters", *[Estimate(None, None, None, 3)] * 2)):
        (item,) = advised(unknown)
        assert item.override == "" and "cannot be known" in item.text
    # Close, but on either side of what matters.
    (item,) = advised(rates(0.1, 0.1, half=0.03))
    assert item.override == ""


def test_rates_that_cannot_be_change_nothing() -> None:
    (item,) = advised(rates(0.1, 0.4), desirable=100, undesirable=900)
    assert item.override == "" and "do not fit" in item.text


def test_every_override_composes_and_is_what_the_rates_ask_for() -> None:
    advice = advised(rates(0.1, 0.25))
    words = [item.override for item in advice if item.override]
    assert len(words) == 2
    robust, weighted = (composed(override.split()).loss for override in words)
    assert (robust.flip_rates.desirable, robust.flip_rates.undesirable) == (0.1, 0.25)
    # Of the true classes the weights are those of balanced, target 1.25.
    seen = Weights(weighted.weighting.lambda_desirable, weighted.weighting.lambda_undesirable)
    true = effective_weights(seen, FlipRates(0.1, 0.25))
    desirable, undesirable = clean_counts(500, 500, FlipRates(0.1, 0.25))
    assert true.desirable * desirable / (true.undesirable * undesirable) == pytest.approx(1.25, rel=1e-3)


@pytest.mark.parametrize("feedback", ["arithmetic", "instruction_checks"])
def test_no_flip_rate_of_pairs_is_given_since_it_is_not_in_the_rates(feedback: str) -> None:
    (pairs,) = [item for item in advised(rates(0.2, 0.2)) if item.about == "losses of pairs"]
    assert pairs.override == ""
    cfg = composed([f"feedback={feedback}", "corruption=label_noise", "corruption.rate=0.2"])
    noisy = instantiate(cfg.corruption)(of_split(instantiate(cfg.feedback), "train")).table
    share = pair_noise(make_pairs(noisy, seed=0), noisy["desirable_clean"][:]).swapped
    assert f"{share:.1%} of the pairs of {feedback}" in pairs.text or f"{share:.1%} of those of" in pairs.text


def test_even_noise_at_even_weights_leaves_kto_as_it_is() -> None:
    even, *_ = advised(rates(0.2, 0.2), desirable=555, undesirable=445)
    assert even.about == "loss=kto" and "Nothing has to be set" in even.text
    uneven, *_ = advised(rates(0.05, 0.3), desirable=555, undesirable=445)
    assert "Correct it" in uneven.text
    # Few thumbs up, weighed up: the class that weighs less bears little.
    inverted, *_ = advised(rates(0.02, 0.13), desirable=150, undesirable=850)
    assert "wrong way" in inverted.text


def test_a_review_counts_before_several_thumbs_and_these_before_bounds() -> None:
    review = rates(0.2, 0.2, half=0.05, method="reviewed")
    overrides = [item.override for item in advised(rates(0.3, 0.3), review)]
    assert any("flip_rates.desirable=0.2 " in override for override in overrides)
    # A review that settles nothing leaves the word to the thumbs.
    overrides = [item.override for item in advised(rates(0.3, 0.3), rates(0.2, 0.2, half=0.2, method="reviewed"))]
    assert any("flip_rates.desirable=0.3 " in override for override in overrides)
