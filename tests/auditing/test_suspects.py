"""The tables of an audit, and how well wrong labels were found."""

import numpy as np
import pytest

from kto_lab.auditing.examples import Examples
from kto_lab.auditing.measured import measure_each, measure_found
from kto_lab.auditing.signals import Signal
from kto_lab.auditing.suspects import ranking, score_table, suspect_table, why
from tests.auditing.audit_tables import looks


def test_the_first_and_the_drawn_are_for_the_reviewer() -> None:
    table = looks(30)
    examples = Examples.of(table)
    suspicion = np.random.default_rng(0).random(len(table))
    known = np.arange(len(table)) % 2 == 0
    signal = Signal("out_of_fold", np.where(known, 0.9, 0.5), known)
    scores = score_table([signal], examples, suspicion, None)
    assert scores.column_names == ["example_id", "rank", "suspicion", "signal_out_of_fold"]
    assert scores["signal_out_of_fold"].null_count == len(table) // 2
    reasons = why([signal], examples.labels, suspicion)
    suspects = suspect_table(scores, table, reasons, top=10, at_random=5, seed=0)
    ranks = suspects["rank"].to_pylist()
    assert ranks == sorted(ranks) and set(range(1, 11)) <= set(ranks)
    assert sum(suspects["sampled_at_random"].to_pylist()) == 5
    assert {"prompt", "completion", "desirable", "why", "rater"} <= set(suspects.column_names)
    by_id = dict(zip(examples.example_ids, examples.completions, strict=True))
    rows = suspects.to_pylist()
    assert all(by_id[row["example_id"]] == row["completion"] for row in rows)
    assert rows[0]["suspicion"] == pytest.approx(suspicion.max())
    more = suspect_table(scores, table, reasons, top=0, at_random=9, seed=0)
    fewer = suspect_table(scores, table, reasons, top=0, at_random=4, seed=0)
    assert set(fewer["example_id"].to_pylist()) < set(more["example_id"].to_pylist())


def test_the_reason_is_the_strongest_signal_against_the_label() -> None:
    every = np.ones(3, dtype=bool)
    text = Signal("out_of_fold", np.array([0.2, 0.2, 0.6]), every)
    others = Signal("raters", np.array([0.05, 0.5, 0.5]), np.array([True, False, False]))
    reasons = why([text, others], np.array([True, True, True]), np.array([0.9, 0.8, 0.6]))
    assert reasons[0] == "the other thumbs on this answer say down (0.95)"
    assert reasons[1].startswith("classifiers of the text") and "(0.80)" in reasons[1]
    assert reasons[2].startswith("no signal alone")


def test_ties_do_not_depend_on_the_order_of_the_table() -> None:
    table = looks(10)
    order = np.random.default_rng(0).permutation(len(table))
    one, other = Examples.of(table), Examples.of(table.select(order))
    equal = np.full(len(table), 0.5)
    first = [one.example_ids[row] for row in ranking(equal, one)]
    assert first == [other.example_ids[row] for row in ranking(equal, other)]


def test_finding_every_wrong_label_is_measured_as_such() -> None:
    examples = Examples.of(looks(60))
    wrong = np.arange(len(examples)) % 4 == 0
    perfect = measure_found(wrong.astype(float), wrong, examples, seed=0)
    assert perfect.auc.value == perfect.precision.value == perfect.precision_first.value == 1
    blind = measure_found(np.zeros(len(examples)), wrong, examples, seed=0)
    assert blind.auc.value == 0.5 and blind.precision.value == pytest.approx(0.25, abs=0.12)
    assert measure_each({"x": wrong.astype(float)}, np.zeros_like(wrong), examples, seed=0) == {}
