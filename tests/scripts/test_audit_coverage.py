"""The measurement of whether an audit's intervals hold the truth."""

import audit_coverage
import numpy as np


def test_the_tables_have_the_flips_that_are_asked_for() -> None:
    table = audit_coverage.invented(0.5, 0.2, 300, 0)
    wrong = np.array(table["desirable"][:]) != np.array(table["desirable_clean"][:])
    assert len(table) == 1200 and 0.16 < wrong.mean() < 0.24


def test_a_table_of_weak_signal_says_that_its_rates_cannot_be_known() -> None:
    cell = audit_coverage.measure("weak", 0.2, 80, 0)
    assert cell["rates"]["desirable"]["value"] is None and cell["rates"]["desirable"]["high"] > 0.4
    assert cell["advice"] == "rates" and not cell["prescribed"]
    page = audit_coverage.page([cell])
    assert "| weak | 20% | 1 |" in page and "80 prompts" in page and "1.00 [0.21, 1.00] are held" in page
