"""A text as a value of Hydra's command line, whatever is in it."""

import re


def quoted(text: object) -> str:
    """A text as one of Hydra's quoted strings, which stands for that text.

    Backslashes count in front of a quote and of "${", which would begin an interpolation; nothing else is special.
    """
    plain = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", str(text))
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), plain) + "'"
