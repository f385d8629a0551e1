from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.reports.specs import Choose, FigureSpec, TableSpec, parse, shown

TABLE = {"name": "t", "rows": ["arm"], "metrics": ["pass_rate"]}
FIGURE = {"name": "f", "kind": "line", "x": "corruption.rate", "y": "pass_rate"}


def test_a_specification_is_read_with_its_defaults() -> None:
    table = parse({**TABLE, "columns": "corruption.rate", "baseline": {"arm": "dpo"}}, TableSpec)
    assert (table.columns, table.baseline, table.caption) == ("corruption.rate", {"arm": "dpo"}, "")
    figure = parse(FIGURE, FigureSpec)
    assert (figure.line, figure.log_x) == ("arm", False)
    assert table.where is table.choose is figure.where is figure.choose is None


def test_a_search_is_read_with_its_table_or_figure() -> None:
    node = {"where": {"arm": "kto"}, "choose": {"over": ["loss.beta"], "by": "pass_rate"}}
    for found in (parse({**TABLE, **node}, TableSpec), parse({**FIGURE, **node}, FigureSpec)):
        assert (found.where, found.choose) == ({"arm": "kto"}, Choose(["loss.beta"], "pass_rate"))


@pytest.mark.parametrize(
    ("node", "spec", "message"),
    [
        ({**TABLE, "colums": "x"}, TableSpec, r"table t: the key 'colums' is unknown. Keys are name, rows"),
        ({"name": "t", "rows": ["arm"]}, TableSpec, "the key 'metrics' is missing"),
        ({"rows": ["arm"], "metrics": ["kl"]}, TableSpec, "table without a name: the key 'name' is missing"),
        ({**TABLE, "rows": "arm"}, TableSpec, "rows and metrics are lists"),
        ({**TABLE, "metrics": []}, TableSpec, "rows and metrics are lists"),
        ({**TABLE, "baseline": {"loss": "dpo"}}, TableSpec, "the baseline names 'loss'"),
        ({**TABLE, "name": "../t"}, TableSpec, "has no slash"),
        ({**TABLE, "where": ["arm"]}, TableSpec, "table t: where is a mapping"),
        ({**TABLE, "choose": {"over": ["x"]}}, TableSpec, "table t, choose: the key 'by' is missing"),
        ({**TABLE, "choose": ["x"]}, TableSpec, "table t, choose: it is a mapping with the keys over, by"),
        ({**TABLE, "choose": {"over": "x", "by": "pass_rate"}}, TableSpec, "choose.over is a list"),
        ({**TABLE, "choose": {"over": ["arm"], "by": "pass_rate"}}, TableSpec, "'arm' is searched over"),
        (
            {**FIGURE, "choose": {"over": ["x"], "by": "kl"}},
            FigureSpec,
            "figure f: choose.by is 'kl', of which neither more nor less is better. Choose by one of pass_rate",
        ),
        (
            {**TABLE, "choose": {"over": ["x"], "by": "reward_auc"}},
            TableSpec,
            "table t: choose.by is 'reward_auc', which has no score for each prompt",
        ),
        ({**FIGURE, "kind": "pie"}, FigureSpec, r"figure f: there is no kind 'pie'. Kinds are line, heatmap"),
    ],
)
def test_a_mistake_is_named(node: dict[str, Any], spec: Any, message: str) -> None:
    with pytest.raises(LabError, match=message):
        parse(node, spec)


def test_choices_for_a_reader() -> None:
    assert [shown(value) for value in (0.1, 0.0, 3, "kto", None, 1e-5)] == ["0.1", "0", "3", "kto", "–", "1e-05"]
