"""The page of how well audits find wrong thumbs."""

import json
from pathlib import Path

import audit_quality
import numpy as np
import pytest

from kto_lab.auditing.signals import Signal


def cell(seed: int, auc: float) -> dict[str, object]:
    estimate = {"value": auc, "low": auc - 0.1, "high": auc + 0.1, "n": 9}
    return {
        "rate_desirable": 0.05,
        "rate_undesirable": 0.3,
        "seed": seed,
        "truth": {"desirable": 0.05, "undesirable": 0.3},
        "found": {"combined": dict.fromkeys(audit_quality.MEASURES, estimate)},
        "rates": {"noise_aware": {"desirable": estimate, "undesirable": {**estimate, "value": None}}},
    }


def test_the_page_has_the_means_of_the_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_quality, "RESULTS", tmp_path)
    (tmp_path / "arithmetic.json").write_text(json.dumps([cell(0, 0.6), cell(1, 0.8)]))
    audit_quality.write_page()
    page = (tmp_path / "README.md").read_text()
    assert "Draws: 2 for 5% / 30%." in page
    assert "| combined | 0.70 [0.60, 0.80] |" in page
    assert "| down on good: noise_aware | 0.700 [0.600, 0.800] |" in page
    # The interval alone where no value is known.
    assert "| up on bad: noise_aware | 0.600 to 0.800 |" in page


def test_the_mean_rank_is_over_the_signals_that_can_say() -> None:
    labels = np.array([True, True, True])
    every, one = np.ones(3, dtype=bool), np.array([True, False, False])
    signals = [Signal("a", np.array([0.1, 0.5, 0.9]), every), Signal("b", np.array([0.9, 0.5, 0.5]), one)]
    assert audit_quality.mean_rank(signals, labels).tolist() == pytest.approx([1.0, 2 / 3, 1 / 3])


def test_every_part_composes() -> None:
    for words in (audit_quality.TINY, audit_quality.INSTRUCTIONS, ["feedback=movie_ratings"]):
        assert audit_quality.composed(words).folds >= 2
