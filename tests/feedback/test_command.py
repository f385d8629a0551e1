import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException

from kto_lab import cli
from kto_lab.errors import LabError
from kto_lab.feedback import collect
from kto_lab.feedback.checkers import score_answer
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.command import collect_feedback
from kto_lab.models.generate import Answer
from tests.small_runs import composed

SMALL = ["model=tiny", "model.weights=random", "prompts=arithmetic", "prompts.prompts=20", "sampling.max_new_tokens=4"]


def configured(tmp_path: Path, *more: str) -> Any:
    return composed([*SMALL, "trainer=cpu", f"output={tmp_path / 'sums.parquet'}", *more], name="collect")


def test_the_command_writes_a_table_that_feedback_collected_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kto-lab", "feedback", "collect", *SMALL, "output=sums.parquet"])
    cli.main()
    table = from_collected("sums.parquet", None)
    assert len(set(table["prompt_id"])) == 20
    assert set(table["origin"]) == {"sampled"}
    assert all(row["desirable"] == (score_answer(row["checks"], row["completion"]) == 1.0) for row in table)
    assert [file.name for file in tmp_path.iterdir()] == ["sums.parquet"], (
        "finished blocks are gone, nothing else is made"
    )
    said = capsys.readouterr().out
    assert "80 answers to 20 prompts" in said
    assert "feedback=collected feedback.path=sums.parquet" in said


def test_empty_answers_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [Answer(text, (1, 0), True, 1) for text in ("7", " ", "", "8")]
    monkeypatch.setattr(collect, "generate", lambda *given, **rest: [answers for _ in given[2]])
    table = from_collected(str(collect_feedback(configured(tmp_path))), None)
    assert set(table["completion"]) == {"7", "8"}
    assert len(table) == 40
    assert "80 answers to 20 prompts; 40 empty answers left out" in capsys.readouterr().out


def test_a_stopped_collection_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    whole = from_collected(str(collect_feedback(configured(other, "sampling.block=5"))), None)
    real, blocks = collect._collect_block, []

    def stopped(*given: Any, **rest: Any) -> list[dict[str, Any]]:
        blocks.append(rest["seed"])
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return real(*given, **rest)

    monkeypatch.setattr(collect, "_collect_block", stopped)
    with pytest.raises(KeyboardInterrupt):
        collect_feedback(configured(tmp_path, "sampling.block=5"))
    assert not (tmp_path / "sums.parquet").exists()
    again = from_collected(str(collect_feedback(configured(tmp_path, "sampling.block=5"))), None)
    assert blocks == [0, 1, 2, 2, 3]
    assert again.to_list() == whole.to_list()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prompts=file", "prompts.path=mine.jsonl"], r"mine\.jsonl:1: the prompt has no .*checks"),
        (["held_out=1.5"], "held_out is 1.5"),
        (["sampling.samples=0"], "sampling.samples is 0"),
        (["+loss=kto"], "Nothing reads the configuration's loss"),
        (["output=???"], "Not set: output"),
    ],
)
def test_a_mistake_shows_before_the_model_is_loaded(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"prompt": "1+1="}\n')
    cfg = composed(["model=hf", "model.name=nowhere", "trainer=cpu", "output=out.parquet", *words], name="collect")
    with pytest.raises((LabError, InstantiationException), match=message):
        collect_feedback(cfg)


def test_a_finished_table_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "sums.parquet").write_bytes(b"hours of sampling")
    with pytest.raises(LabError, match=r"sums\.parquet exists"):
        collect_feedback(configured(tmp_path))
    assert (tmp_path / "sums.parquet").read_bytes() == b"hours of sampling"
