"""How often and how much gradients were clipped: said in the plan, at the end, and in the record."""

from pathlib import Path

import pytest

from kto_lab.runs.record import read_record
from kto_lab.training.clipping import Clipping
from tests.small_runs import metrics, run

WEIGHTED = ("weighting@loss.weighting=fixed", "loss.weighting.lambda_desirable=3", "optimization.max_steps=4")


@pytest.mark.parametrize(
    ("factors", "share", "median", "said"),
    [
        ([1.0, 1.0], 0.0, None, "clipped: no step"),
        ([1.0, 0.5], 0.5, 0.5, "clipped: 50% of the steps, to 0.5 of their gradient (median)"),
        ([1.0, 0.5, 0.1, 0.2], 0.75, 0.2, "warning: clipped: 75% of the steps, to 0.2 of their gradient (median)"),
    ],
)
def test_share_and_median_and_a_warning_where_most_are(
    factors: list[float], share: float, median: float | None, said: str
) -> None:
    clipping = Clipping.of(factors)
    assert clipping == Clipping(share, median)
    assert clipping.said().startswith(said)
    assert ("optimization.clip_norm" in clipping.said()) == (share > 0.5)


@pytest.mark.parametrize("norm", ["1e-4", "1e4"])
def test_a_run_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], norm: str) -> None:
    folder = run(tmp_path, *WEIGHTED, f"optimization.clip_norm={norm}")
    clips = norm == "1e-4"
    shown = " ".join(capsys.readouterr().out.split())
    # Of a batch of four, all or none can be desirable: weights of 1 to 3.
    assert f"gradients are clipped at a norm of {float(norm):g} times " in shown
    assert ("warning: clipped: 100% of the steps" in shown) == clips
    found = read_record(folder)["training"]["clipping"]
    assert found["share"] == (1.0 if clips else 0.0) and (found["median_factor"] is None) != clips
    assert all((float(row["clip_factor"]) < 1) == clips for row in metrics(folder))


def test_where_nothing_weighs_the_norm_is_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "loss=dpo", "optimization.max_steps=1", "optimization.clip_norm=7")
    assert "gradients are clipped at a norm of 7\n" in capsys.readouterr().out
