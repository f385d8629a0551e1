import base64
import hashlib
import re
from importlib.resources import files

import pytest
from jinja2 import UndefinedError

from kto_lab.pages import breakable, render

HOSTILE = "<script>alert('&amp;')</script>"
DATA = {"audit": "a", "examples": [{"completion": HOSTILE}]}


def test_whatever_a_page_is_given_is_escaped() -> None:
    page = render("review.html", script="review.js", title=HOSTILE, data=DATA)
    assert HOSTILE not in page and "<title>&lt;script&gt;" in page
    assert page.count("</script>") == 2


def test_the_policy_knows_the_style_and_the_script_that_the_page_holds() -> None:
    page = render("review.html", script="review.js", title="t", data=DATA)
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(text) == 1
        known = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert f"{kind} 'sha256-{known}'" in page
    assert "default-src 'none'" in page and "unsafe-inline" not in page


def test_what_a_template_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("review.html", script="review.js", data=DATA)


def test_no_page_fetches_anything() -> None:
    pages = [file for file in (files("kto_lab") / "templates").iterdir() if file.is_file()]
    assert pages
    for file in pages:
        assert not re.search(r"""(src|href)=["']?(https?:|//)|@import|url\(""", file.read_text(encoding="utf-8")), file


def test_a_key_breaks_after_its_dots_and_a_number_does_not() -> None:
    assert breakable("a.b_c<d 0.5") == "a.<wbr>b_<wbr>c&lt;d 0.5"
