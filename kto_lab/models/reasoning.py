"""The reasoning in a sampled answer: told apart from its words by what the chat template writes around the two.

Qwen3 has `<think>` and `</think>` there, gpt-oss its channels `analysis` and `final`. Checks, judges and people read
the words; an answer that was cut in its reasoning has none.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Markup:
    """What a chat template writes before the words of an answer, and around its reasoning.

    Attributes:
        lead: before the words where there is no reasoning, such as an empty thinking block.
        opens: before the reasoning; "" where the generation prompt has begun it.
        closes: between the reasoning and the words; "" where the template has no place for reasoning.
    """

    lead: str = ""
    opens: str = ""
    closes: str = ""

    def part(self, text: str) -> tuple[str, str]:
        """The reasoning of a sampled text, "" where it has none, and its words.

        Where the end of the reasoning comes several times, the words follow the last one, as templates read it.
        """
        if self.closes and self.closes in text:
            reasoning, _, words = text.rpartition(self.closes)
            return reasoning.strip().removeprefix(self.opens).strip(), words.lstrip()
        if self.lead and text.startswith(self.lead):
            return "", text.removeprefix(self.lead)
        cut = text.strip()
        if self.closes and any(mark.startswith(cut) for mark in (self.opens, self.lead.strip())):
            return "", ""
        if self.closes and cut.startswith(self.opens):
            return cut.removeprefix(self.opens).strip(), ""
        return "", text
