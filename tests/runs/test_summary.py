import io
import json
from typing import Any

import pytest
from rich.console import Console

from kto_lab import console
from kto_lab.runs.summary import show_examples, show_metrics, show_single

pytestmark = pytest.mark.usefixtures("nothing_learned")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    fake = Console(file=text, width=80, color_system=None, highlight=False)
    monkeypatch.setattr(console, "console", lambda: fake)
    return text


def estimate(value: float | None, low: float | None = None, high: float | None = None, n: int = 40) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


def compared(base: float, trained: float) -> dict[str, Any]:
    change = trained - base
    return {
        "base": estimate(base, base - 0.1, base + 0.1),
        "trained": estimate(trained, trained - 0.1, trained + 0.1),
        "difference": estimate(change, change - 0.05, change + 0.05),
        "detectable": 0.1,
    }


METRICS = {
    "answers": {"pass_rate": compared(0.4, 0.6), "answer_length": compared(20, 19), "finished": compared(0.9, 0.9)},
    "groups": {"title": {"pass_rate": compared(0.2, 0.8)}, "no_comma": {"pass_rate": compared(0.7, 0.7)}},
    "rewards": {
        "reward_accuracy": estimate(0.66, 0.6, 0.7),
        "reward_auc": estimate(0.71, 0.6, 0.8),
        "pair_accuracy": estimate(None, n=0),
        "reward_desirable": estimate(0.1),
        "reward_undesirable": estimate(-0.1),
        "reward_margin": estimate(0.21, 0.1, 0.3),
    },
    "kl": estimate(1.21, 0.4, 2.0, n=8),
    "lm_eval": {
        "base": {"kto_lab_neutral": {"word_perplexity": estimate(8e12, 4e12, 1.5e13, n=60)}},
        "trained": {"kto_lab_neutral": {"word_perplexity": estimate(9e12, 4e12, 1.6e13, n=60)}},
    },
}


def test_metrics_fit_80_columns_with_no_label_broken(screen: io.StringIO) -> None:
    show_metrics(METRICS)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    starts = [line.strip().split("  ")[0] for line in lines]
    for label in (
        "pass rate",
        "answer length",
        "ended by itself",
        "reward accuracy",
        "reward AUC",
        "reward margin",
        "KL",
        "nats/answer",
        "title",
        "kto_lab_neutral",
        "word_perplexity",
    ):
        assert label in starts, label
    assert "+0.20 *" in screen.getvalue()
    assert "[4.00e+12, 1.50e+13]" in screen.getvalue()


def test_a_metric_that_nobody_declared_is_shown_by_its_name(screen: io.StringIO) -> None:
    show_metrics({"answers": {"exclamation_marks": compared(3.0, 1.0)}, "rewards": {"reward_gap": estimate(0.1)}})
    starts = [line.strip().split("  ")[0] for line in screen.getvalue().splitlines()]
    assert "exclamation marks" in starts and "reward gap" in starts
    show_single({"answers": {"exclamation_marks": estimate(3.0)}, "lm_eval": {}}, {}, name="my model")
    assert screen.getvalue().count("exclamation marks") == 2


def test_a_metric_is_shown_as_the_record_declares_it(screen: io.StringIO) -> None:
    metrics = {
        "answers": {"shouting": compared(3.0, 1.0), "whispering": compared(0.1, 0.2)},
        "groups": {"title": {"shouting": compared(4.0, 2.0)}, "no_comma": {"shouting": compared(2.0, 0.5)}},
    }
    declared = {"label": "exclamation marks", "unit": "per answer", "by_group": True, "decimals": 3}
    show_metrics(metrics, {"shouting": declared, "whispering": {"in_table": False}})
    shown = screen.getvalue()
    assert "exclamation marks" in shown and "  per answer" in shown and "Exclamation marks by group" in shown
    assert "-2.000" in shown and "-1.500" in shown and "whispering" not in shown


def test_what_has_no_value_has_no_row(screen: io.StringIO) -> None:
    show_metrics(METRICS)
    assert "pairs ranked right" not in screen.getvalue()


@pytest.mark.parametrize("metrics", [{}, {"rewards": {"reward_auc": estimate(None, n=0)}}])
def test_no_metrics_give_no_table(metrics: dict[str, Any], screen: io.StringIO) -> None:
    show_metrics(metrics)
    assert screen.getvalue() == ""


def test_one_group_is_not_a_breakdown(screen: io.StringIO) -> None:
    show_metrics({"answers": METRICS["answers"], "groups": {"title": METRICS["groups"]["title"]}})
    assert "by group" not in screen.getvalue()


def test_a_single_policy_has_one_column(screen: io.StringIO) -> None:
    show_single(
        {"answers": {"pass_rate": estimate(0.4, 0.3, 0.5)}, "lm_eval": METRICS["lm_eval"]["base"]}, {}, name="my model"
    )
    shown = screen.getvalue()
    assert "Held-out prompts: my model" in shown
    assert "trained" not in shown
    row = next(line for line in shown.splitlines() if "pass rate" in line)
    assert row.split() == ["pass", "rate", "0.40", "[0.30,", "0.50]", "40"]


def answer(prompt: str, base: float | None, trained: float | None, text: str = "yes") -> dict[str, Any]:
    found = {"prompt": prompt, "base": "no", "base_score": base, "trained": text, "trained_score": trained}
    return {**found, "thumbs_up": None, "thumbs_down": None}


def test_examples_show_answers_that_changed_their_score_a_worse_one_among_them(screen: io.StringIO) -> None:
    same = [answer(f"same {n}", 1.0, 1.0) for n in range(5)]
    better = [answer(f"better {n}", 0.0, 1.0) for n in range(4)]
    show_examples([*same, *better, answer("worse 0", 1.0, 0.0), answer("worse 1", 1.0, 0.0)])
    shown = screen.getvalue()
    assert "Of 11 answers 4 score better than before, 2 worse." in shown
    prompts = [line.removeprefix("    prompt").strip() for line in shown.splitlines() if line.startswith("    prompt")]
    assert prompts == ["better 0", "better 1", "worse 0"]
    assert "base (0)" in shown
    assert "trained (1)" in shown


def test_examples_are_cut_to_two_lines_and_hold_no_control_codes(screen: io.StringIO) -> None:
    show_examples([answer("word " * 100, 0.0, 0.4404, "* one\n* two \x1b[31m[/] red")])
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    start = next(place for place, line in enumerate(lines) if "prompt" in line)
    assert lines[start + 1].endswith("...")
    assert "base (0)" in lines[start + 2]
    assert "trained (0.44)  * one \N{RETURN SYMBOL} * two  [31m[/] red" in lines[start + 3].replace("  [", "  [")
    assert "\x1b" not in screen.getvalue()


def test_answers_that_nothing_checks_are_shown_beside_held_out_ones_and_their_thumbs(screen: io.StringIO) -> None:
    same = [answer(f"same {n}", None, None, text="no") for n in range(2)]
    changed = [{**answer(f"new {n}", None, None), "thumbs_up": f"liked {n}"} for n in range(5)]
    show_examples([*same, {**changed[0], "thumbs_down": "disliked"}, *changed[1:]])
    shown = screen.getvalue()
    assert "Of 7 answers 5 are not as before" in shown
    lines = [line.split("  ") for line in shown.splitlines() if line.startswith("    ")]
    assert [(line[2].strip(), line[-1].strip()) for line in lines[:5]] == [
        ("prompt", "new 0"),
        ("base", "no"),
        ("trained", "yes"),
        ("held out, up", "liked 0"),
        ("held out, down", "disliked"),
    ]
    assert "new 2" in shown and "new 3" not in shown and shown.count("held out, down") == 1


@pytest.mark.parametrize("rows", [[], [answer("x", None, None, text="no")], [answer("x", 1.0, 1.0)]])
def test_without_a_changed_answer_or_score_there_are_no_examples(
    rows: list[dict[str, Any]], screen: io.StringIO
) -> None:
    show_examples(rows)
    assert screen.getvalue() == ""


def test_the_metrics_of_a_record_can_be_shown_again(screen: io.StringIO) -> None:
    show_metrics(json.loads(json.dumps(METRICS)))
    assert "Held-out prompts" in screen.getvalue()
