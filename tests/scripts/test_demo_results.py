"""The page on the demo is what its records say."""

import re

import demo_results
import pytest

from kto_lab.statistics import mean_interval

ROOT = demo_results.TARGET.parent.parent


def test_the_page_is_what_the_records_beside_it_say() -> None:
    page = (demo_results.TARGET / "README.md").read_text(encoding="utf-8")
    assert page == demo_results.page(demo_results.kept())
    assert "The 10 constraints are those that were trained on" in page and "+0.37 [+0.17, +0.57]" in page


def test_the_interval_of_the_mean_covers_new_seeds_and_new_prompts() -> None:
    records = demo_results.kept()
    row = next(line for line in demo_results.page(records).splitlines() if line.startswith("| mean of 3 seeds"))
    *_, mean, gain, _, _ = row.split("|")
    for cell, which in ((mean, "trained"), (gain, "difference")):
        value, low, high = map(float, re.findall(r"[\d.]+", cell))
        found = [record["metrics"]["answers"]["pass_rate"][which] for record in records]
        seeds = mean_interval([one["value"] for one in found])
        assert seeds.low is not None and seeds.high is not None
        # Wider than over seeds alone, and than over the prompts of any one run.
        assert low < seeds.low < value < seeds.high < high
        assert high - low > max(one["high"] - one["low"] for one in found)


@pytest.mark.parametrize("page", ["README.md", "docs/demo.md"])
def test_pages_that_show_the_demo_have_its_rows(page: str) -> None:
    rows = [line for line in demo_results.page(demo_results.kept()).splitlines() if re.match(r"\| (\d|mean of) ", line)]
    assert len(rows) == 4
    shown = (ROOT / page).read_text(encoding="utf-8")
    for row in rows:
        assert "|".join(row.split("|")[:5]) in shown
