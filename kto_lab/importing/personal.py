"""Personal data in texts: finding and redacting it. The data found is never kept.

| kind    | what is looked for                                             | who says what it is                      |
|---------|----------------------------------------------------------------|------------------------------------------|
| `EMAIL` | addresses                                                      | a pattern                                |
| `PHONE` | numbers that a numbering plan knows                            | phonenumbers                             |
| `CARD`  | payment cards: 13 to 19 digits of a known issuer               | a pattern, and Luhn's sum (python-stdnum)|
| `IBAN`  | bank accounts                                                  | python-stdnum (its sum, and the country) |
| `KEY`   | keys and tokens of services, private keys, passwords in a URL  | detect-secrets, and patterns             |

Names, postal addresses and the like have no recognisable form and are not looked for.
"""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from kto_lab.feedback.whole import each_text
from kto_lab.importing.thumbs import Completion, Prompt


class Kind(StrEnum):
    """What can be found, in the order in which overlapping finds are preferred."""

    KEY = "KEY"
    EMAIL = "EMAIL"
    IBAN = "IBAN"
    CARD = "CARD"
    PHONE = "PHONE"


MEANING = {
    Kind.KEY: "keys, tokens and passwords",
    Kind.EMAIL: "e-mail addresses",
    Kind.IBAN: "bank accounts (IBAN)",
    Kind.CARD: "payment cards",
    Kind.PHONE: "phone numbers",
}


@dataclass(frozen=True)
class Found:
    """Personal data in a text: its kind, its start and its end."""

    kind: Kind
    start: int
    end: int


# Every repetition is bounded, so that matching takes time linear in the text's length.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_CARD = re.compile(r"(?<![\w.+-])(?:2[2-7]|[3-6]\d)\d{2}(?:[ -]?\d){9,15}(?![\w-]|\.\d)")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}(?!\w)")
_IBAN_LENGTH = 15
# Every number that is looked for has seven digits (0 to 9) or more, with little between them.
_DIGITS = re.compile(r"(?:[0-9][ ()./A-Za-z-]{0,3}){7}")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^-]{0,20000}-----END [A-Z0-9 ]{1,60}-----|[A-Za-z0-9+/=\s\\]{0,20000})"
)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,4000}\.eyJ[\w-]{8,8000}(?:\.[\w-]{0,4000})?")
# Key formats that detect-secrets does not know, as their services document them.
_KEYS = tuple(
    re.compile(rf"(?<![\w-]){form}(?![\w-])")
    for form in (
        r"sk-ant-[\w-]{24,200}",
        r"sk-(?:proj-|svcacct-|admin-)?[\w-]{32,200}",
        r"AIza[\w-]{35}",
        r"hf_[A-Za-z0-9]{30,60}",
        r"github_pat_\w{60,100}",
        r"glpat-[\w-]{20,60}",
        r"gsk_[A-Za-z0-9]{40,80}",
        r"(?:pk|sk)-lf-[0-9a-f-]{36}",
        r"lsv2_[a-z]{2}_[0-9a-f]{32}_[0-9a-f]{10}",
    )
)
# Plugins of detect-secrets with patterns of a definite form; those that go by entropy or by a word such as "password"
# would take much of a chat about programs for secrets.
_PLUGINS = {
    "artifactory": "ArtifactoryDetector",
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "basic_auth": "BasicAuthDetector",
    "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector",
    "openai": "OpenAIDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector",
    "twilio": "TwilioKeyDetector",
}
# Some of their patterns take a time that grows with the square of the text: they see it in pieces.
_PIECE, _OVERLAP = 1000, 250
# No other key has fewer characters in a row.
_KEY_LENGTH = 16


def find(text: str, phone_region: str | None) -> list[Found]:
    """The personal data in a text, in order, none overlapping another.

    Args:
        text: any.
        phone_region: the country of phone numbers without a country code ("US"); None: only numbers with one.
    """
    found = [*_keys(text), *_emails(text)]
    if _DIGITS.search(text):
        found += [*_ibans(text), *_cards(text), *_phones(text, phone_region)]
    if len(found) < 2:
        return found
    rank = {kind: place for place, kind in enumerate(Kind)}
    taken = bytearray(len(text))
    left = []
    for one in sorted(found, key=lambda one: (rank[one.kind], one.start - one.end, one.start)):
        if not any(taken[one.start : one.end]):
            left.append(one)
            taken[one.start : one.end] = b"\1" * (one.end - one.start)
    return sorted(left, key=lambda one: one.start)


def redacted(text: str, found: Iterable[Found]) -> str:
    """The text with each find replaced by its kind in brackets."""
    parts, end = [], 0
    for one in found:
        parts += [text[end : one.start], f"[{one.kind}]"]
        end = one.end
    return "".join([*parts, text[end:]])


def pseudonym(name: str, phone_region: str | None) -> str:
    """The name itself, or a hash of it where it holds personal data.

    The hash is unkeyed: whoever guesses the name can check the guess.
    """
    return f"rater-{hashlib.sha256(name.encode()).hexdigest()[:10]}" if find(name, phone_region) else name


@dataclass
class Search:
    """Searches the texts of an import, counts what is found, and redacts it where asked.

    Attributes:
        phone_region: see `find`.
        redact: replace what is found.
        most_places: places kept per kind.
        finds: how many finds there are of each kind.
        thumbs: how many thumbs have each kind.
        places: the first places of each kind.
    """

    phone_region: str | None
    redact: bool
    most_places: int
    finds: Counter[Kind] = field(default_factory=Counter)
    thumbs: Counter[Kind] = field(default_factory=Counter)
    places: dict[Kind, list[str]] = field(default_factory=dict)

    def look(self, where: str, prompt: Prompt, completion: Completion) -> tuple[Prompt, Completion]:
        """Count the finds in a prompt and a completion, and return both, redacted where asked.

        Of messages, reasoning, results of tools, arguments of calls and the tools themselves are looked at, too.
        """
        here: Counter[Kind] = Counter()

        def seen(text: str) -> str:
            found = find(text, self.phone_region)
            here.update(one.kind for one in found)
            return redacted(text, found) if self.redact and found else text

        clean: Prompt = seen(prompt) if isinstance(prompt, str) else [each_text(message, seen) for message in prompt]
        answer = seen(completion) if isinstance(completion, str) else each_text(completion, seen)
        self.finds.update(here)
        for kind in here:
            self.thumbs[kind] += 1
            places = self.places.setdefault(kind, [])
            if len(places) < self.most_places:
                places.append(where)
        return clean, answer

    def rater(self, name: str | None) -> str | None:
        """The name of a rater, as a pseudonym where personal data is redacted."""
        return pseudonym(name, self.phone_region) if self.redact and name is not None else name


def _keys(text: str) -> Iterator[Found]:
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield Found(Kind.KEY, *match.span())
    if not any(len(word) >= _KEY_LENGTH for word in text.split()):
        return
    for pattern in (_JWT, *_KEYS):
        for match in pattern.finditer(text):
            yield Found(Kind.KEY, *match.span())
    for start in range(0, max(len(text) - _OVERLAP, 1), _PIECE - _OVERLAP):
        piece = text[start : start + _PIECE]
        for pattern, group in _patterns():
            for match in pattern.finditer(piece):
                yield Found(Kind.KEY, start + match.start(group), start + match.end(group))


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], int], ...]:
    """The patterns of the plugins, each with the group to take: all of it, but of a URL the password alone.

    Not by their own `analyze_string`: of a pattern with a group it gives the group, which may be a prefix only.
    """
    import importlib

    return tuple(
        (pattern, 1 if name == "BasicAuthDetector" else 0)
        for module, name in _PLUGINS.items()
        for pattern in getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name).denylist
    )


def _emails(text: str) -> Iterator[Found]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield Found(Kind.EMAIL, *match.span())


def _ibans(text: str) -> Iterator[Found]:
    from stdnum import iban

    for match in _IBAN.finditer(text):
        # A word that follows may look like a part of it.
        end = match.end()
        while end - match.start() >= _IBAN_LENGTH:
            if iban.is_valid(text[match.start() : end]):
                yield Found(Kind.IBAN, match.start(), end)
                break
            end = max(text.rfind(" ", match.start(), end), match.start())


def _cards(text: str) -> Iterator[Found]:
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if len(set(digits)) > 1 and luhn.is_valid(digits):
            yield Found(Kind.CARD, *match.span())


def _phones(text: str, region: str | None) -> Iterator[Found]:
    if region is None and "+" not in text:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID, max_tries=1000):
        yield Found(Kind.PHONE, match.start, match.end)
