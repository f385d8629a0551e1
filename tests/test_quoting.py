"""A quoted text is read by Hydra as that text."""

import pytest
from hydra import compose, initialize_config_dir

from kto_lab.configuration import config_dir
from kto_lab.quoting import quoted

TEXTS = [
    "plain",
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
def test_any_text_comes_back(text: str) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        assert compose("train", [f"run_dir={quoted(text)}"]).run_dir == text
