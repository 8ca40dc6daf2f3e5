"""The lines that a process writes, and the jobs that they belong to."""

from __future__ import annotations

import json

from conftest import logged
from hypothesis import given
from hypothesis import strategies as st

from twisted_cm.model.jobs import OUTPUT_KEPT
from twisted_cm.server.module_output import LINES_KEPT, ModuleOutput, OutputLine
from twisted_cm.supervisor.job_output import JobOutput
from twisted_cm.supervisor.lines import LONGEST_LINE, LineSplitter


def lines_of(*pieces: bytes) -> list[str]:
    lines: list[str] = []
    splitter = LineSplitter(lines.append)
    for each in pieces:
        splitter.feed(each)
    splitter.end()
    return lines


def test_bytes_become_lines() -> None:
    assert lines_of(b"one\ntw", b"o\r\n\nlast") == ["one", "two", "", "last"]
    assert lines_of("ü".encode()[:1], "ü".encode()[1:] + b"\n\xff\n") == ["ü", "\ufffd"]
    assert lines_of() == []


def test_a_line_without_an_end_is_cut() -> None:
    assert [len(each) for each in lines_of(*[b"x" * 1000] * 20)] == [
        LONGEST_LINE,
        LONGEST_LINE,
        20_000 - 2 * LONGEST_LINE,
    ]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n"), max_size=20)), st.integers(1, 7))
def test_lines_do_not_depend_on_the_pieces(lines: list[str], size: int) -> None:
    data = "".join(f"{each}\n" for each in lines).encode("utf-8", "replace")
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert lines_of(*pieces) == lines_of(data)


def test_a_line_belongs_to_the_only_job() -> None:
    output = JobOutput()
    output.write("before")
    output.begin("a")
    output.write("one")
    output.write('{"params": {"job_id": "other"}}')
    assert output.end("a") == 'one\n{"params": {"job_id": "other"}}\n'
    output.write("after")
    output.begin("b")
    assert output.end("b") == ""
    assert output.end("unknown") == ""


def test_with_several_jobs_a_line_belongs_to_the_job_that_it_names() -> None:
    output = JobOutput()
    for each in ("a", "b", "c"):
        output.begin(each)
    named = [json.dumps({"level": "INFO", "params": {"job_id": "a"}}), '{"job_id": "b"}', '{"jobId": "c"}']
    for line in (*named, "no json", "{broken", '{"params": 5}', '{"job_id": 5}', '{"job_id": "other"}', "{}"):
        output.write(line)
    assert output.job_ids == ["a", "b", "c"]
    assert [output.end(each) for each in ("a", "b")] == [f"{each}\n" for each in named[:2]]
    output.write("alone again")
    assert output.end("c") == f"{named[2]}\nalone again\n"


def test_the_last_output_of_a_job_is_kept() -> None:
    output = JobOutput()
    output.begin("a")
    for number in range(OUTPUT_KEPT):
        output.write(str(number))
    text = output.end("a")
    assert len(text) == OUTPUT_KEPT
    assert text.endswith(f"{OUTPUT_KEPT - 2}\n{OUTPUT_KEPT - 1}\n")


def test_the_last_lines_of_each_runtime_are_kept() -> None:
    output, read = ModuleOutput(), list[OutputLine]()
    assert output.last("r") == []
    end = output.read(read.append)
    for number in range(LINES_KEPT + 1):
        output.write(OutputLine("r", "replica", number, str(number)))
    end()
    output.write(OutputLine("other", None, 0, "x"))
    assert len(read) == LINES_KEPT + 1
    assert [each.text for each in output.last("r")] == [str(number) for number in range(1, LINES_KEPT + 1)]
    assert [each.text for each in output.last("r", 1)] == [str(LINES_KEPT)]
    assert [each.text for each in output.last("other")] == ["x"]


def test_a_reader_that_fails_gets_no_more_lines_and_harms_nobody() -> None:
    output, read = ModuleOutput(), list[str]()

    def fail(line: OutputLine) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    end = output.read(fail)
    output.read(lambda line: read.append(line.text))
    with logged("Broken pipe") as warnings:
        for text in ("one", "two"):
            output.write(OutputLine("r", None, 0, text))
    end()
    assert read == ["one", "two"] and len(warnings) == 1
