"""Results that report that the function raised."""

from __future__ import annotations

import json

import pytest

from twisted_cm.model.raised import MOST_BYTES, MOST_CHARACTERS, first_line, raised_message


@pytest.mark.parametrize(
    ("result", "message"),
    [
        # The Python SDK: a function that raised, a result that cannot be posted, an unknown function.
        (b'{"exception": "no: Traceback (most recent"}', "no: Traceback (most recent"),
        (b'{"error": "Failed to post result: 413"}', "Failed to post result: 413"),
        (b'{"error": "Unknown query type"}', "Unknown query type"),
        # The TypeScript SDK: an error, and something else that was thrown.
        (b'{"error":"TypeError","reason":"x is not a function"}', "TypeError: x is not a function"),
        (b'{"error":"out of luck"}', "out of luck"),
        # The Java SDK.
        (b"JobId: job-1\njava.lang.Error: no\n\tat A.b(A.java:1)\n", "java.lang.Error: no\n\tat A.b(A.java:1)"),
        (b"JobId: job-1\r\njava.lang.Error: no\r\n", "java.lang.Error: no"),
        (b"JobId: job-1\n\xff", "\ufffd"),
        (
            b"Exception serializing exception for job, check logs: job-1",
            "Exception serializing exception for job, check logs: job-1",
        ),
        (b'{"exception": "\\ud800"}', "\\ud800"),
    ],
)
def test_each_sdk_reports_it_in_its_own_form(result: bytes, message: str) -> None:
    assert raised_message("job-1", result) == message


@pytest.mark.parametrize(
    "result",
    [
        b"",
        b"42",
        b'"exception"',
        b'["exception"]',
        b'{"exception": 1}',
        b'{"exception": null}',
        b'{"exception": "no", "more": 1}',
        b'{"exception": "no", "reason": "x"}',
        b'{"error": "no", "code": "x"}',
        b'{"error": {"reason": "x"}}',
        b'{"reason": "x"}',
        b'{"exceptional": "no"}',
        b'{"exception": "no"} and more',
        b'{"exception": ' + b"[" * 20_000,
        b'{"error": "\xff"}',
        b"JobId: job-2\njava.lang.Error: no",
        b'{"exception": "' + b"x" * MOST_BYTES + b'"}',
    ],
)
def test_other_results_are_results(result: bytes) -> None:
    assert raised_message("job-1", result) is None


def test_a_message_is_cut() -> None:
    result = json.dumps({"exception": "ü" * 5000}, ensure_ascii=False).encode()
    assert raised_message("job-1", result) == "ü" * MOST_CHARACTERS


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("no: Traceback (most recent call last):\n  File", "no"),
        (": Traceback (most recent call last):\n  File", ""),
        ("java.lang.Error: no\n\tat", "java.lang.Error: no"),
        ("\n one \ntwo", "one"),
    ],
)
def test_the_first_line_says_what_was_raised(message: str, line: str) -> None:
    assert first_line(message) == line
