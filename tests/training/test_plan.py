"""The plan: a pure function of data and seed, with mismatched pairs that really mismatch."""

import random
from collections import Counter

import numpy as np
import pytest

from kto_lab.errors import LabError
from kto_lab.training.plan import Plan, make_plan, pair_mismatched

PROMPTS = [f"p{number // 3}" for number in range(30)]  # ten prompts of three examples
THUMBS = [(number,) for number in range(30)]


def plan(**changes: object) -> Plan:
    settings: dict[str, object] = {
        "batch_size": 4,
        "epochs": 2,
        "max_steps": None,
        "seed": 3,
        "keep_prompts_together": True,
        "mismatched": True,
    }
    return make_plan(THUMBS, PROMPTS, **(settings | changes))  # type: ignore[arg-type]


def test_it_is_a_function_of_data_and_seed_alone() -> None:
    np.random.seed(1)
    first = plan()
    np.random.seed(2)
    random.seed(2)
    again = plan()
    assert (first.steps == again.steps).all()
    assert first.mismatched is not None and (first.mismatched == again.mismatched).all()
    assert not (first.steps == plan(seed=4).steps).all()


def test_epochs_follow_without_a_gap() -> None:
    found = plan(epochs=2).steps
    assert found.shape == (15, 4)  # 2 * 30 = 15 * 4: nothing is left out
    seen = found.flatten().tolist()
    assert sorted(seen[:30]) == sorted(seen[30:]) == list(range(30))
    assert seen[:30] != seen[30:]
    # 1.5 epochs: 45 units, of which 44 fill batches; a longer run starts like a shorter one.
    assert plan(epochs=1.5).steps.flatten().tolist() == seen[:44]
    assert plan(max_steps=3).steps.flatten().tolist() == seen[:12]


def test_examples_of_a_prompt_follow_one_another_if_asked() -> None:
    together = [PROMPTS[unit] for unit in plan(epochs=1, batch_size=3).steps.flatten()]
    assert all(len(set(together[at : at + 3])) == 1 for at in range(0, 30, 3))
    assert together != sorted(together)
    apart = [PROMPTS[unit] for unit in plan(epochs=1, batch_size=3, keep_prompts_together=False).steps.flatten()]
    assert any(len(set(apart[at : at + 3])) > 1 for at in range(0, 30, 3))


def test_mismatched_examples_are_those_of_the_step() -> None:
    found = plan()
    assert found.mismatched is not None and found.same_prompt > 0
    conflicts = 0
    for units, partners in zip(found.steps, found.mismatched, strict=True):
        assert sorted(units) == sorted(partners)
        conflicts += sum(PROMPTS[unit] == PROMPTS[partner] for unit, partner in zip(units, partners, strict=True))
    assert conflicts == found.same_prompt
    assert plan(mismatched=False).mismatched is None


def test_groups_draw_their_mismatched_pairs_among_themselves() -> None:
    found = plan(batch_size=6, group=3, keep_prompts_together=False)
    assert found.mismatched is not None
    for units, partners in zip(found.steps, found.mismatched, strict=True):
        for at in (0, 3):
            assert sorted(units[at : at + 3]) == sorted(partners[at : at + 3])
    with pytest.raises(LabError, match=r"reference_point\.size is 4, which does not divide .*batch_size=6"):
        plan(batch_size=6, group=4)


def test_a_pair_is_known_by_its_first_example() -> None:
    units = [(2 * number, 2 * number + 1) for number in range(6)]
    prompts = [f"p{number // 2}" for number in range(12)]
    found = make_plan(
        units, prompts, batch_size=3, epochs=1, max_steps=None, seed=0, keep_prompts_together=False, mismatched=True
    )
    assert found.mismatched is not None
    assert {int(example) % 2 for example in found.mismatched.flatten()} == {0}


def test_partners_share_a_prompt_only_where_they_must() -> None:
    draw = random.Random(0)
    for _ in range(500):
        size = draw.randint(1, 12)
        prompts = [str(draw.randint(0, draw.randint(0, 6))) for _ in range(size)]
        partners = pair_mismatched(prompts)
        assert sorted(partners) == list(range(size))
        commonest = max(Counter(prompts).values())
        shared = sum(prompts[at] == prompts[partner] for at, partner in enumerate(partners))
        assert shared == (size if commonest == size else max(0, 2 * commonest - size)), prompts
        if size > 1:
            assert all(at != partner for at, partner in enumerate(partners)), prompts


def test_too_little_data_for_a_batch_is_refused() -> None:
    with pytest.raises(LabError, match=r"1 epochs of 30 .* one batch of 31.*optimization\.batch_size"):
        plan(batch_size=31, epochs=1)
    assert plan(batch_size=31).steps.shape == (1, 31)  # two epochs fill it


def test_a_batch_of_one_has_no_mismatched_pair() -> None:
    with pytest.raises(LabError, match="reference_point=zero"):
        plan(batch_size=1)
    assert plan(batch_size=1, mismatched=False).steps.shape == (60, 1)
