from typing import Any

import pytest
from datasets import Dataset

from kto_lab.feedback.inspect_numbers import (
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


@pytest.mark.parametrize(("desirable", "undesirable"), [(10, 30), (30, 10), (7, 7)])
def test_advised_weights_reach_their_targets(desirable: int, undesirable: int) -> None:
    advice = advise(Classes(desirable + undesirable, desirable, undesirable, share=0, ratio=0))
    assert [item.target for item in advice] == [1.0, 1.25, 1.5]
    for item in advice:
        reached = item.lambda_desirable * desirable / (item.lambda_undesirable * undesirable)
        assert reached == pytest.approx(item.target)
        assert min(item.lambda_desirable, item.lambda_undesirable) == 1


def test_the_override_sets_the_weights() -> None:
    from hydra.utils import instantiate
    from small_runs import composed

    (advice, *_) = advise(Classes(4, 1, 3, share=0.25, ratio=1 / 3))
    weights = instantiate(composed(advice.override.split()).loss.weighting).weights(1, 3)
    assert (weights.desirable, weights.undesirable) == (advice.lambda_desirable, advice.lambda_undesirable) == (3, 1)


def test_one_class_gets_no_advice() -> None:
    assert advise(Classes(4, 4, 0, share=1, ratio=None)) == advise(Classes(4, 0, 4, share=0, ratio=0)) == []
