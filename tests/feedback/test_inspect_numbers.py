from typing import Any

import pytest
from datasets import Dataset
from hydra.utils import instantiate

from kto_lab.errors import LabError
from kto_lab.feedback.inspect_numbers import (
    Advice,
    Classes,
    Flips,
    Lengths,
    Prompts,
    Repeats,
    advise,
    describe,
    lengths_by_class,
)
from kto_lab.feedback.table import build_table
from tests.small_runs import composed


def example(prompt: str, completion: str, desirable: bool, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "desirable": desirable, **more}


def table(*rows: dict[str, Any]) -> Dataset:
    return build_table(rows, source="hand", held_out=0)


def test_classes_and_groups_are_counted() -> None:
    found = describe(
        table(
            example("a", "1", True, group="small"),
            example("b", "1", True, group="large"),
            example("c", "1", False, group="large"),
            example("d", "1", False, group="large"),
            example("e", "1", False, group="small"),
        )
    )
    assert found.classes == Classes(5, 2, 3, share=0.4, ratio=2 / 3)
    assert list(found.groups.items()) == [
        ("large", Classes(3, 1, 2, share=1 / 3, ratio=0.5)),
        ("small", Classes(2, 1, 1, share=0.5, ratio=1.0)),
    ]


def test_repeated_texts_agree_or_contradict() -> None:
    found = describe(
        table(
            example("a", "twice, agreeing", True),
            example("a", "twice, agreeing", True),
            example("a", "three times, contradicting", True),
            example("a", "three times, contradicting", False),
            example("a", "three times, contradicting", False),
            example("a", "once", False),
            example("b", "once", True),
        )
    )
    assert found.repeats == Repeats(texts=4, repeated=2, one_label=1, contradicting=1, spare=3)


def test_prompts_of_one_class_make_no_pair() -> None:
    found = describe(
        table(
            *[example("both", text, text == "1") for text in "123"],
            *[example("up", text, True) for text in "12"],
            example("down", "1", False),
            example("the same text", "1", True),
            example("the same text", "1", False),
        )
    )
    assert found.prompts == Prompts(prompts=4, both=2, only_desirable=1, only_undesirable=1)
    assert found.pairs == 1
    assert describe(table(example("up", "1", True))).pairs == 0


def test_lengths_are_characters_of_each_class() -> None:
    rows = table(*[example("a", "ä" * n, True) for n in (5, 1, 4, 2, 3)], example("a", "long " * 9 + ".", False))
    found = describe(rows)
    assert found.lengths == {"desirable": Lengths(1, 2, 3, 4, 5), "undesirable": Lengths(46, 46, 46, 46, 46)}
    assert lengths_by_class(rows)["desirable"].tolist() == [5, 1, 4, 2, 3]
    assert describe(rows.select(range(5))).lengths["undesirable"] is None


def test_flips_are_read_against_the_clean_labels() -> None:
    cells = {(True, True): 3, (True, False): 1, (False, True): 2, (False, False): 6}
    rows = [
        example(str(number), f"{clean}{label}", label, desirable_clean=clean)
        for (clean, label), count in cells.items()
        for number in range(count)
    ]
    assert describe(table(*rows)).flips == Flips(3, 1, 2, 6, rate_down=0.25, rate_up=0.25)
    assert describe(table(*rows[:4])).flips == Flips(3, 1, 0, 0, rate_down=0.25, rate_up=None)


def counts(desirable: int, undesirable: int) -> Classes:
    return Classes(desirable + undesirable, desirable, undesirable, share=0, ratio=0)


def reached(advice: Advice, desirable: int, undesirable: int) -> float:
    return advice.lambda_desirable * desirable / (advice.lambda_undesirable * undesirable)


@pytest.mark.parametrize(("desirable", "undesirable"), [(10, 30), (30, 10), (7, 7)])
def test_advised_weights_reach_their_targets(desirable: int, undesirable: int) -> None:
    found = advise(counts(desirable, undesirable), 0.5)
    assert found is not None and found.unweighted == desirable / undesirable
    assert [item.target for item in found.training] == [1.0, 1.25, 1.5]
    for item in found.training:
        assert reached(item, desirable, undesirable) == pytest.approx(item.target)
        assert min(item.lambda_desirable, item.lambda_undesirable) == 1
    assert found.recommended == found.training[1]


def test_what_is_recommended_is_what_a_run_has_by_default() -> None:
    found = advise(counts(10, 30), 0.5)
    weights = instantiate(composed([]).loss.weighting).weights(10, 30)
    assert found is not None
    assert (found.recommended.lambda_desirable, found.recommended.lambda_undesirable) == (
        weights.desirable,
        weights.undesirable,
    )


@pytest.mark.parametrize(
    ("share", "target"),
    [(0.55, 0.55 / 0.45), (0.8, 1.5), (0.2, 1.0)],
    ids=["within the range", "above it", "below it"],
)
def test_weights_for_deployment_stay_in_the_papers_range(share: float, target: float) -> None:
    found = advise(counts(10, 30), share)
    assert found is not None
    assert reached(found.importance, 10, 30) == pytest.approx(share / (1 - share)), "stands for deployment"
    total = 10 * found.importance.lambda_desirable + 30 * found.importance.lambda_undesirable
    assert total == pytest.approx(40), "importance weights average to 1"
    assert reached(found.recommended_for_deployment, 10, 30) == pytest.approx(target)
    assert (found.recommended_for_deployment == found.importance) == (share == 0.55)


def test_the_overrides_set_the_weights() -> None:
    found = advise(counts(1, 3), 0.9)
    assert found is not None
    for advice in (*found.training, found.importance):
        weights = instantiate(composed(advice.override.split()).loss.weighting).weights(5, 5)
        expected = (advice.lambda_desirable, advice.lambda_undesirable)
        assert (weights.desirable, weights.undesirable) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("loss", ["kto_robust", "bco", "apo_zero_unpaired"])
def test_an_override_fits_other_losses_with_weights(loss: str) -> None:
    found = advise(counts(1, 3), 0.5)
    assert found is not None
    weights = instantiate(composed([f"loss={loss}", *found.recommended.override.split()]).loss.weighting).weights(5, 5)
    assert (weights.desirable, weights.undesirable) == (3.75, 1)


@pytest.mark.parametrize("share", [0, 1, -0.2, 4.0, "4:1"])
def test_a_share_that_is_none_is_said(share: Any) -> None:
    with pytest.raises(LabError, match="deployment_ratio is"):
        advise(counts(4, 4), share)


def test_one_class_gets_no_advice() -> None:
    assert advise(counts(4, 0), 0.5) is advise(counts(0, 4), 0.5) is None
