import pytest

from kto_lab.errors import LabError
from kto_lab.importing.repeats import Policy
from kto_lab.importing.settings import settings
from tests.small_runs import composed


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("repeats.one_rater=first", "repeats.one_rater is 'first'; it must be one of last, majority, all, drop"),
        ("repeats.several_raters=null", "repeats.several_raters is None"),
        ("duplicates.exact=ignore", "duplicates.exact is 'ignore'"),
        ("duplicates.anonymous=merge", "duplicates.anonymous is 'merge'"),
        ("repeats.rows_in_order_of_time=maybe", "repeats.rows_in_order_of_time is 'maybe'"),
        ("duplicates.near=keep", "duplicates.near is 'keep'"),
        ("duplicates.near_threshold=0", "duplicates.near_threshold is 0"),
        ("duplicates.near_threshold=80", "duplicates.near_threshold is 80"),
        ("group_by=user", "group_by is 'user'"),
        ("personal_data=remove", "personal_data is 'remove'"),
        ("phone_region=USA", "phone_region is 'USA'"),
        ("held_out=1", "held_out is 1"),
        ("max_characters=0", "max_characters is 0"),
        ("places=-1", "places is -1"),
    ],
)
def test_a_value_that_there_is_not_is_refused_by_its_key(word: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        settings(composed(["export.path=x", "output=y", word], name="import"))


def test_defaults() -> None:
    found = settings(composed(["export.path=x", "output=y"], name="import"))
    assert (found.one_rater, found.several_raters, found.near_threshold) == (Policy.LAST, Policy.ALL, None)
