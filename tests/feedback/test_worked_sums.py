import re

import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.checkers import score_answer
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.prompts import arithmetic
from kto_lab.feedback.table import build_table, of_split
from kto_lab.feedback.worked_sums import worked_sums


def worked(**changes: object) -> Dataset:
    keys = {"prompts": 80, "answers": 6, "largest": 30, "careless": 0.9, "seed": 0, "held_out": 0.25}
    return worked_sums(**{**keys, **changes})  # type: ignore[arg-type]


def first_operand(prompt: str) -> int:
    found = re.match(r"\d+", prompt)
    assert found is not None
    return int(found[0])


def ten_too_large(prompt: str) -> str:
    return str(eval(prompt.removesuffix("=")) + 10)


def test_an_answer_is_right_or_ten_too_large_and_always_a_thumbs_up() -> None:
    table = worked()
    assert len(table) == 80 * 6
    assert all(table["desirable"])
    assert set(table["split"]) == {"train", "test"}
    assert set(table["origin"]) == {"worked", "worked with a slip"}
    for row in table:
        if row["origin"] == "worked":
            assert score_answer(row["checks"], row["completion"]) == 1.0
        else:
            assert row["completion"] == ten_too_large(row["prompt"])


def test_a_careful_teacher_makes_no_slip() -> None:
    assert set(worked(careless=0.0)["origin"]) == {"worked"}


def test_the_share_of_slips_grows_with_the_first_operand() -> None:
    table = worked(prompts=900, answers=7, careless=0.8)
    for low, high in ((0, 10), (11, 20), (21, 30)):
        rows = [row for row in table if low <= first_operand(row["prompt"]) <= high]
        stated = sum(0.8 * first_operand(row["prompt"]) / 30 for row in rows) / len(rows)
        assert abs(sum(row["origin"] != "worked" for row in rows) / len(rows) - stated) < 0.03


def test_the_number_of_slips_of_a_prompt_is_its_share_rounded() -> None:
    table = worked(prompts=992, answers=10)
    for prompt in ("30+30=", "30-1=", "15+3="):
        slips = [row["origin"] != "worked" for row in table if row["prompt"] == prompt]
        assert len(slips) == 10
        assert abs(sum(slips) - 9 * first_operand(prompt) / 30) < 1


def test_a_sum_held_out_here_is_held_out_in_arithmetic_too() -> None:
    taught = worked(prompts=150, answers=1, largest=12)
    asked = build_table(
        ({"prompt": item.prompt, "completion": "1", "desirable": False} for item in arithmetic(100, 12, seed=1)),
        source="arithmetic",
        held_out=0.25,
    )
    shared = set(taught["prompt"]) & set(asked["prompt"])
    assert len(shared) > 50
    here, there = set(of_split(taught, "train")["prompt"]), set(of_split(asked, "test")["prompt"])
    assert not here & there
    assert there & shared


def test_the_shipped_thumbs_hold_out_what_was_not_taught_and_leave_something_to_gain() -> None:
    shipped = from_collected("arithmetic", None)
    taught = worked(prompts=2550, answers=1, largest=49)
    assert not set(of_split(taught, "train")["prompt"]) & set(of_split(shipped, "test")["prompt"])
    assert set(shipped["prompt"]) <= set(taught["prompt"])
    assert 0.35 < sum(shipped["desirable"]) / len(shipped) < 0.5
    down = [row for row in shipped if not row["desirable"]]
    assert sum(row["completion"] == ten_too_large(row["prompt"]) for row in down) / len(down) > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"careless": 1.1}, r"feedback\.careless is 1\.1"),
        ({"answers": 0}, r"feedback\.answers is 0"),
        ({"largest": 0}, r"feedback\.largest 0"),
        ({"prompts": 1000}, "no 1000 distinct sums"),
    ],
)
def test_what_means_nothing_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        worked(**changes)
