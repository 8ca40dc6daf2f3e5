"""What a text of a request or a seed may contain."""

from __future__ import annotations

import re

#: Matches what no text may contain: NUL, and half a surrogate pair. A program can be passed neither.
REFUSED = re.compile("[\0\ud800-\udfff]")

#: The message about a text that contains it, after the text's name.
REFUSAL = "must not contain NUL or half a surrogate pair"
