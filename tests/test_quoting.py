"""A quoted text is read by Hydra as that text."""

from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir

from kto_lab.configuration import config_dir
from kto_lab.quoting import plain, quoted

TEXTS = [
    "plain",
    "two words.of-it",
    "32-true",
    "3.14.2",
    "12",
    "1_000",
    "1E-3",
    "_",
    "True",
    "NaN",
    "漢",
    "it's",
    "a b, c=d [e] {f} (g) $h ü 漢",
    r"back\slash",
    "ends with \\",
    r"both \' and \\'",
    '"double"',
    "${now:%Y}",
    r"\${escaped}",
    "~ : ; # % & * ? | <x>",
    "null",
    "1e3",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("written", [quoted, plain])
def test_any_text_comes_back(text: str, written: Callable[[str], str]) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        assert compose("train", [f"run_dir={written(text)}"]).run_dir == text


def test_quotes_are_only_where_they_are_needed() -> None:
    assert [plain(text) for text in ("two words.of-it", "32-true", "12", "a[0]")] == [
        "two words.of-it",
        "32-true",
        "'12'",
        "'a[0]'",
    ]
