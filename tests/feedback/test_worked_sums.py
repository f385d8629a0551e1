from kto_lab.feedback.checkers import score_answer
from kto_lab.feedback.prompts import arithmetic
from kto_lab.feedback.table import build_table, of_split
from kto_lab.feedback.worked_sums import worked_sums


def test_every_sum_has_its_right_answer_and_a_thumbs_up() -> None:
    table = worked_sums(prompts=80, largest=30, seed=0, held_out=0.25)
    assert len(table) == 80
    assert all(table["desirable"])
    assert all(score_answer(row["checks"], row["completion"]) == 1.0 for row in table)
    assert set(table["split"]) == {"train", "test"}


def test_a_sum_held_out_here_is_held_out_in_arithmetic_too() -> None:
    taught = worked_sums(prompts=150, largest=12, seed=0, held_out=0.25)
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
