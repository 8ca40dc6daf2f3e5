"""What a recording leaves out."""

from __future__ import annotations

import json
import re

from ..model.types import JSONValue

#: What stands in a recording for the value of a secret.
MASK = "***"


#: Names of fields whose values are secrets, in lower case and without what separates words.
_SECRET = re.compile(
    "passw(or)?d|pwd|passphrase|secret|credential|authorization|authheader|^auth$|bearer|cookie|jwt|sessionid"
    "|(api|access|private|signing|encryption)key"
)


#: Numbers under such a name are counts, as in C{max_tokens}.
_SECRET_UNLESS_NUMBER = re.compile("token")


class _Masking:
    """Masks objects while they are parsed."""

    def __init__(self) -> None:
        self.masked = False

    def __call__(self, pairs: list[tuple[str, JSONValue]]) -> dict[str, JSONValue]:
        fields = dict(pairs)
        for name, value in fields.items():
            if value not in (None, MASK) and _is_secret(name, value):
                fields[name] = MASK
                self.masked = True
        return fields


def _is_secret(name: str, value: JSONValue) -> bool:
    plain = re.sub(r"[\W_]", "", name.lower())
    if _SECRET.search(plain):
        return True
    return bool(_SECRET_UNLESS_NUMBER.search(plain)) and not isinstance(value, int | float)


def mask_query(query: JSONValue) -> JSONValue:
    """
    @return: the same, with L{MASK} for every value under the name of a secret.
    @raise RecursionError: it is nested too deeply.
    """
    return json.loads(json.dumps(query), object_pairs_hook=_Masking())


def mask_text(text: str) -> str:
    """
    @param text: JSON values, one after another, or anything else.
    @return: the text as it is if it is no JSON or has no secret, else JSON anew, a value on each line.
    @raise RecursionError: it is nested too deeply.
    """
    # A server that records nothing starts without it.
    from ..client.values import ValueParser

    masking = _Masking()
    try:
        values = list(ValueParser(masking).feed(text.encode("utf-8"), True))
    except ValueError:
        return text
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values) if masking.masked else text
