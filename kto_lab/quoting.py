"""A text as a value of Hydra's command line, whatever is in it."""

import re

# Texts that Hydra reads as themselves without quotes, unless they spell another value.
_BARE = re.compile(r"\w[\w.-]*(?: [\w.-]+)*", re.ASCII)
_VALUE = re.compile(r"null|true|false|nan|inf|[\d_.]+(?:e[+-]?[\d_]+)?", re.IGNORECASE | re.ASCII)


def quoted(text: object) -> str:
    """A text as one of Hydra's quoted strings, which stands for that text.

    Backslashes count in front of a quote and of "${", which would begin an interpolation; nothing else is special.
    """
    escaped = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", str(text))
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), escaped) + "'"


def plain(text: str) -> str:
    """A text as it is where Hydra reads it as that text, else as one of its quoted strings: for people to read."""
    return text if _BARE.fullmatch(text) and not _VALUE.fullmatch(text) else quoted(text)
