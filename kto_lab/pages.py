"""The HTML pages and model cards that kto-lab writes: one set of Jinja2 templates, one style sheet, files that stand
alone.

A page holds its style and its script, and fetches nothing. What templates are given is escaped, whoever wrote it; only
`Markup` is put in as it is. A content security policy lets no script run but the page's own.
"""

import base64
import hashlib
import re
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

BASE = "base.html"


def render(template: str, *, script: str = "", inline_styles: bool = False, **content: Any) -> str:
    """A page, or a part of one, as HTML.

    Args:
        template: a file of `kto_lab/templates`.
        script: the file there with the page's script; "" where it has none.
        inline_styles: whether elements carry style attributes of their own, as those of drawings do. Otherwise the
            content security policy allows the style sheet alone.
        content: what the template names.

    Raises:
        jinja2.UndefinedError: the template names something that is not given.
    """
    style, code = _source("style.css"), _source(script) if script else ""
    styles = "'unsafe-inline'" if inline_styles else _hash(style)
    policy = f"default-src 'none'; style-src {styles}" + (f"; script-src {_hash(code)}" if code else "")
    page = {"style": Markup(style), "script": Markup(code), "policy": Markup(policy)}
    return _environment().get_template(template).render(page=page, **content)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("kto_lab", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    made.filters["breakable"] = breakable
    made.filters["cell"] = cell
    return made


def markdown(template: str, **content: Any) -> str:
    """A Markdown document. What it is given is put in as it is, but for the cells of tables.

    Args:
        template: a file of `kto_lab/templates`.
        content: what the template names.
    """
    return _environment().get_template(template).render(**content)


def cell(value: object) -> str:
    """A value as the cell of a Markdown table: no bar or line break ends it, and no HTML begins in it."""
    return " ".join(str(value).split()).replace("|", r"\|").replace("<", "&lt;")


def breakable(words: str) -> Markup:
    """Text that may be broken within the name of a key: a column is then no wider than its numbers."""
    return Markup(re.sub(r"([._])(?=[a-z])", r"\1<wbr>", str(escape(words))))


def _source(name: str) -> str:
    """A file of the templates as it is."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    """What a content security policy knows a script or a style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
