"""Invented texts with and without personal data, for measuring what is found of it.

Numbers and keys are made up in their services' forms, or are the ones that the services give as examples. Keys are put
together from parts, so that scanners of repositories do not take them for real ones.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A text, and what is in it: pairs of kind and value."""

    text: str
    data: tuple[tuple[str, str], ...] = ()


def _texts(kind: str, *templates: tuple[str, str]) -> list[Text]:
    return [Text(template.replace("{}", value), ((kind, value),)) for template, value in templates]


_HEX = "0123456789abcdef"
_MIXED = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8cD0fG2hJ4kL6nP8rS"
EMAILS = _texts(
    "EMAIL",
    ("Write to {} and ask.", "jane.doe@example.com"),
    ("My address: {}.", "j_doe+news@mail.example.co.uk"),
    ("<{}>", "info@example.org"),
    ("mailto:{}", "support@sub.example.io"),
    ("contact {}, thanks", "müller@beispiel.de"),
    ('{"email": "{}", "age": 3}', "o'brien@example.ie"),
    ("Schreib an {}!", "a.b-c@example-firma.de"),
    ("From {}\nTo all", "x@y.museum"),
    ("Is {} or another one right?", "first.last@users.example.net"),
    ("用户邮箱:{}", "wang@example.cn"),
)
PHONES = _texts(
    "PHONE",
    ("Call me at {} tonight.", "+1 415-555-2671"),
    ("Phone: {}", "+14155552671"),
    ("tel:{}", "+442079460958"),
    ("Ruf mich an: {}", "+49 30 901820"),
    ("Mon numéro est le {}.", "+33 1 42 68 53 00"),
    ("WhatsApp {} please", "+91 98765 43210"),
    ("({})", "+61 2 9374 4000"),
    ("My cell is {} now", "(415) 555-2671"),
    ("or {} after six", "415-555-2671"),
    ("The office: {}.", "212.736.5000"),
    ("{} is my number", "+34 912 34 56 78"),
    ("Reach us under {}", "+81 3-3211-0000"),
)
CARDS = _texts(
    "CARD",
    ("My card is {} and it fails.", "4111 1111 1111 1111"),
    ("Card: {}", "5500005555555559"),
    ("amex {} exp 12/29", "3782 822463 10005"),
    ("Pay with {}.", "4012-8888-8888-1881"),
    ("number={}&cvc=123", "4242424242424242"),
    ("{}", "6011111111111117"),
    ("mastercard {} please", "2223 0031 2200 3222"),
    ("JCB {} was refused", "3530111333300000"),
    ("diners: {}", "30569309025904"),
)
IBANS = _texts(
    "IBAN",
    ("Transfer it to {} please.", "DE89 3704 0044 0532 0130 00"),
    ("IBAN: {}", "GB82WEST12345698765432"),
    ("Konto {} OK", "AT611904300234573201"),
    ("compte {}.", "FR14 2004 1010 0505 0001 3M02 606"),
    ("({})", "NL91ABNA0417164300"),
    ("on {} by Friday", "CH93 0076 2011 6238 5295 7"),
    ("cuenta {}", "ES91 2100 0418 4502 0005 1332"),
)
KEYS = _texts(
    "KEY",
    ("aws_access_key_id = {}", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("Authorization: Bearer {}", "sk-" + "proj-" + _MIXED),
    ("my token {} does not work", "ghp_" + "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8cD0fG2hJ4"),
    ("export HF_TOKEN={}", "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"),
    ("GOOGLE_KEY='{}'", "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q"),
    ("slack: {}", "xoxb-" + "123456789012-1234567890123-" + "aBcDeFgHiJkLmNoPqRsTuVwX"),
    ("stripe {} in the code", "sk_live_" + "aB3dE5gH7jK9mN1pQ2sT4vW6"),
    ("client = Anthropic(api_key='{}')", "sk-ant-" + "api03-" + _MIXED),
    ("curl -H 'PRIVATE-TOKEN: {}'", "glpat-" + "aB3dE5gH7jK9mN1pQ2sT"),
    (
        "jwt {}",
        "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    ),
    ("postgres://bob:{}@db.example.com/prod", "hunter" + "2secret"),
    ("npm config: //registry.example.org/:_authToken={}", "npm_" + "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8cD0fG2hJ4"),
    ("SENDGRID={}", "SG." + "aB3dE5gH7jK9mN1pQ2sT4v" + "." + "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8cD0fG2hJ4kL6nP8r"),
    ("bot {}", "110201543" + ":AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1"),
    (
        "Here it is:\n{}\nIs it right?",
        "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq\nq83rAbCdEf==\n-----END RSA PRIVATE KEY-----",
    ),
)
WITHOUT = [
    Text(text)
    for text in (
        "What is 123456789 + 987654321? It is 1111111110.",
        "Compute 4111 * 1111 and 5500 - 555.",
        "pi is 3.14159265358979323846, e is 2.71828182845904523536",
        "The meeting is on 2026-05-01 at 09:30:00, or on 01.05.2026 at 10.15.",
        "Version 1.2.3.4567 of the library was released in 2024.",
        "ISBN 978-3-16-148410-0 is an example, and so is ISBN 0-306-40615-2.",
        "The commit 3f786850e387550fdab836ed7e6dc881de23001b broke it.",
        "uuid 123e4567-e89b-12d3-a456-426614174000 is taken.",
        "Use @dataclass and @property, and write git@ only with a host.",
        "a = b@c  # matrix product; x @ y.T @ z",
        "In 1776, 1789, 1848 and 1917 there were revolutions.",
        "The population was 8,019,876,189 in 2023.",
        "Scores: 10-12, 21-19, 15-21 and 30-28.",
        "192.168.0.1 and 10.0.0.255 are private; 2001:0db8:85a3:0000:0000:8a2e:0370:7334 is not.",
        "for i in range(1000000): total += i * 1234567",
        "Order 1234567890123456 has been shipped.",
        "The first 16 primes: 2 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53",
        "Fibonacci: 1 1 2 3 5 8 13 21 34 55 89 144 233 377 610 987 1597 2584",
        "timestamp 1767225600 is new year; 1767225600000 in milliseconds",
        "GB is a country, DE another; DE12 is a postcode district of Derby.",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 of nothing",
        "Set password: to a strong one, and never write secret_key = 'changeme' in code.",
        "api_key = os.environ['OPENAI_API_KEY']  # never in the source",
        "https://example.com/a/b?id=1234567890&page=2#part-3 explains it.",
        "The key to success is practice; the token of thanks is a card.",
        "skip-connections and task-oriented-dialogue-systems-are-often-used-in-practice",
        "Use sk-learn, not sk-image; risk-averse-agents-in-multi-armed-bandit-problems are studied.",
        "0x7fffffffffffffff is 9223372036854775807",
        "x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]",
        "The temperature fell from +20 to -15 degrees, by +35 or so.",
        "2+2=4, 12+34=46, 123+456=579, 1234+5678=6912",
        "Rows 1000000 2000000 3000000 and +1000000 more",
        "Room 415, 555 chairs, 2671 lamps.",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
        "He said: 'AKIA is a prefix, ghp_ another, and sk- a third.'",
        "DOI 10.1038/s41586-021-03819-2, arXiv 2402.01306",
        "The EAN is 4006381333931, the UPC 036000291452.",
        "lat 48.8583701, lon 2.2944813",
        "npm install left-pad@1.3.0 react@18.2.0 @types/node@20.1.0",
        "docker pull registry/library/nginx@sha256:0d17b565c37bcbd895e9d92315a05c1c3c9a29f762b011a10c54a66cd53c9b31",
    )
]
TEXTS = [*EMAILS, *PHONES, *CARDS, *IBANS, *KEYS, *WITHOUT]
