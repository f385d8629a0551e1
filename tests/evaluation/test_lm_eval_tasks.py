"""Which tasks of lm-eval a run takes, and what is found to be wrong with them before a model is loaded."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.evaluation import lm_eval_tasks
from kto_lab.evaluation.lm_eval_tasks import AUTO, checked_rows, tasks_for
from kto_lab.feedback.checkers import arithmetic_checks
from kto_lab.feedback.table import build_table

CONVERSATION = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
OWN_DATA = "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\ndoc_to_target: text\n"


def held_out(*rows: tuple[Any, str]) -> Dataset:
    """Held-out prompts, each with its checks."""
    known = {"completion": "c", "desirable": True, "split": "test"}
    return build_table(
        [{**known, "prompt": prompt, "checks": checks} for prompt, checks in rows], source="t", held_out=0
    )


CHECKED = held_out(("1+1=", arithmetic_checks("2")))
UNCHECKED = held_out(("1+1=", ""))
TALK = held_out((CONVERSATION, arithmetic_checks("2")))


def test_auto_asks_for_what_these_prompts_can_bear_and_says_what_it_leaves_out() -> None:
    assert tasks_for(AUTO, CHECKED, None) == (["kto_lab_checks", "kto_lab_neutral"], "")
    assert tasks_for(AUTO, UNCHECKED, None) == (
        ["kto_lab_neutral"],
        "lm-eval leaves out kto_lab_checks: no held-out prompt has checks.",
    )
    tasks, left_out = tasks_for(AUTO, TALK, 40)
    assert tasks == ["kto_lab_neutral"] and "the turns user, assistant, user" in left_out


def test_what_is_asked_for_by_name_must_be_able_to_run() -> None:
    assert tasks_for(["kto_lab_checks"], CHECKED, 3) == (["kto_lab_checks"], "")
    assert tasks_for(["kto_lab_neutral"], TALK, None) == (["kto_lab_neutral"], "")
    assert tasks_for([], UNCHECKED, None) == ([], "")
    with pytest.raises(LabError, match=r"kto_lab_checks, and no held-out prompt has checks.*feedback\.columns\.checks"):
        tasks_for(["kto_lab_neutral", "kto_lab_checks"], UNCHECKED, None)
    with pytest.raises(LabError, match="the turns user, assistant, user"):
        tasks_for(["kto_lab_checks"], TALK, None)


def test_the_limit_counts_prompts_that_have_checks() -> None:
    table = held_out(*((f"{n}+1=", "" if n % 4 else arithmetic_checks(str(n + 1))) for n in range(40)))
    rows = checked_rows(table, 6)
    assert len(rows) == len(set(rows)) == 6 and all(table["checks"][row] for row in rows)
    assert checked_rows(table, None)[:6] == rows and len(checked_rows(table, None)) == 10


def test_an_unknown_task_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        all_tasks = ("arc_easy",)

        def load(self, tasks: list[str]) -> None:
            assert tasks == ["arc_easy"]

    # To index lm-eval's own tasks takes 12 seconds.
    monkeypatch.setattr(lm_eval_tasks, "task_manager", lambda defaults: Known())
    lm_eval_tasks._check_loads.cache_clear()
    assert tasks_for(["arc_easy"], UNCHECKED, None) == (["arc_easy"], "")
    with pytest.raises(LabError, match="no lm-eval task 'arc_eazy'"):
        tasks_for(["arc_eazy"], UNCHECKED, None)
    lm_eval_tasks._check_loads.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"task: far\ndataset_path: nobody/nothing\n{OWN_DATA}", "nobody/nothing"),
        ("task: [", "Error"),
        ("task: own\noutput_type: nothing\n", "Error"),
        ("- 1\n", "Error"),
    ],
)
def test_a_task_file_that_cannot_be_loaded_or_whose_data_cannot_be_reached_is_named(
    text: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    capfd.readouterr()
    with pytest.raises(LabError, match=rf"(?s)could not load .*own\.yaml of evaluation\.lm_eval: .*{message}"):
        tasks_for([str(file)], UNCHECKED, None)
    assert capfd.readouterr() == ("", "")


def test_a_task_file_that_is_not_there_is_named() -> None:
    with pytest.raises(LabError, match=r"the file missing\.yaml, which is not there"):
        tasks_for(["missing.yaml"], UNCHECKED, None)
