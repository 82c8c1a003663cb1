"""Reading rows: whatever is in the file, each row is a draft or is refused, and the next one is
read.
"""

import csv
import io
import re

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_app.client.publish import rows as rows_module
from stream_app.client.publish.rows import (
    MAX_LINE_BYTES,
    MAX_LINES_PER_ROW,
    Draft,
    FileRow,
    check_unique,
    draft_of,
    first_cells,
    guess_columns,
    name_columns,
    open_csv,
    open_named_csv,
    read_jsonl,
    read_titles,
)
from stream_app.domain.lead.read import Unreadable


def csv_rows(data: bytes, **mapping: str) -> list[FileRow]:
    return list(open_csv(io.BytesIO(data), mapping).rows)


def outcome(row: FileRow) -> str | Draft:
    return row.draft.reason if isinstance(row.draft, Unreadable) else row.draft


def test_a_plain_csv() -> None:
    data = (
        b"\xef\xbb\xbfE-Mail;First Name;Workspace;Notes\r\na@b.example;Jane;acme;\r\n\r\n"
        b'c@d.example;;;"x;\ny"\r\n'
    )
    assert [(row.line, outcome(row)) for row in csv_rows(data)] == [
        (2, {"workspace": "acme", "fields": {"email": "a@b.example", "first_name": "Jane"}}),
        (4, {"fields": {"email": "c@d.example", "Notes": "x;\ny"}}),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'a,"b"c,d\n', "bad_csv"),
        (b'a,"never closed\n', "bad_csv"),
        (b"a," + b"x" * 200_000 + b"\n", "bad_csv"),
        (b"a," + b"x" * 1_100_000 + b"\n", "oversize"),
        (b"a,b,c,d\n", "too_many_cells"),
    ],
)
def test_a_bad_row_is_refused_and_the_next_ones_are_read(bad: bytes, reason: str) -> None:
    good = b"jane@acme.example,Jane,x\n"
    seen = csv_rows(b"email,first name,notes\n" + good + bad + good + good)
    assert [row.line for row in seen] == [2, 3, 4, 5]
    assert [outcome(row) for row in seen][1] == reason
    assert all(isinstance(row.draft, dict) for row in (seen[0], *seen[2:]))


def test_an_unclosed_quote_costs_one_row_of_a_file_of_any_length() -> None:
    good = b"a@b.example,x\n" * (3 * MAX_LINES_PER_ROW)
    seen = csv_rows(b'email,notes\n"broken,x\n' + good)
    assert outcome(seen[0]) == "bad_csv"
    assert len(seen) == 1 + 3 * MAX_LINES_PER_ROW
    assert all(isinstance(row.draft, dict) for row in seen[1:])
    assert [row.line for row in seen] == list(range(2, len(seen) + 2))


def test_a_row_that_is_not_utf8_shows_only_when_it_is_written() -> None:
    seen = csv_rows(b"email,notes\na@b.example,caf\xe9\nc@d.example,ok\n")
    assert isinstance(seen[0].draft, dict)
    with pytest.raises(UnicodeEncodeError):
        msgspec.json.encode(seen[0].draft)
    assert outcome(seen[1]) == {"fields": {"email": "c@d.example", "notes": "ok"}}


@pytest.mark.parametrize("header", ["email,name".encode("utf-16"), b"caf\xe9,email\n", b'"email\n'])
def test_a_header_that_cannot_be_read_is_said_at_once(header: bytes) -> None:
    with pytest.raises(ValueError, match="the header"):
        open_csv(io.BytesIO(header), {})


def test_jsonl_takes_leads_and_flat_objects() -> None:
    data = b"""{"fields":{"email":"a@b.example"},"lead_id":"1"}

{"email":"c@d.example","lead_id":"2","employees":12}
[1]
{"email":
"""
    assert [(row.line, outcome(row)) for row in read_jsonl(io.BytesIO(data))] == [
        (1, {"fields": {"email": "a@b.example"}, "lead_id": "1"}),
        (3, {"fields": {"email": "c@d.example", "employees": 12}, "lead_id": "2"}),
        (4, "not_an_object"),
        (5, "not_json"),
    ]


def test_a_line_of_an_export_is_its_lead_and_its_own_text_is_kept() -> None:
    """Who writes the refused rows needs the text as it stood in the file."""
    data = (
        b'\xef\xbb\xbf{"record_id":"d/0/7","headers":{},"lead":{"email":"a@b.example"}}\n'
        b'{"record_id":"d/0/8","headers":{},"lead":null}\n'
        b'{"record_id":"of another system","email":"c@d.example"}\n'
        b'{"headers":"bold","email":"e@f.example"}\n'
    )
    seen = list(read_jsonl(io.BytesIO(data)))
    assert [outcome(row) for row in seen] == [
        {"fields": {"email": "a@b.example"}},
        "no_lead",
        {"fields": {"record_id": "of another system", "email": "c@d.example"}},
        {"fields": {"headers": "bold", "email": "e@f.example"}},
    ]
    assert [row.raw for row in seen] == data.splitlines(keepends=True)


def test_blank_cells_beyond_the_header_are_no_fault() -> None:
    """Spreadsheets write them behind the last column that was ever used."""
    seen = csv_rows(b"email,notes\na@b.example,x,,\n,,,\nc@d.example\ne@f.example,,,y\n")
    assert [(row.line, outcome(row)) for row in seen] == [
        (2, {"fields": {"email": "a@b.example", "notes": "x"}}),
        (4, {"fields": {"email": "c@d.example"}}),
        (5, "too_many_cells"),
    ]
    assert seen[-1].raw == "e@f.example,,,y\n"
    assert isinstance(seen[-1].draft, Unreadable)
    assert seen[-1].draft.text == "The row has 4 cells, the header 2"
    assert seen[0].cells == ("a@b.example", "x", "", "")


def test_jsonl_with_nesting_and_long_lines() -> None:
    data = (
        b'{"a":'
        + b"[" * 100_000
        + b"\n"
        + b'"'
        + b"x" * (2 * MAX_LINE_BYTES)
        + b'"\n{"email":"a@b.example"}'
    )
    seen = [(row.line, outcome(row)) for row in read_jsonl(io.BytesIO(data))]
    assert seen == [
        (1, "nested_too_deep"),
        (2, "oversize"),
        (3, {"fields": {"email": "a@b.example"}}),
    ]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2), max_size=5))
def test_any_output_of_pythons_csv_writer_is_read(cells: list[list[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["email", "notes"])
    writer.writerows(cells)
    wanted = [
        {name: cell for name, cell in zip(("email", "notes"), row, strict=True) if cell}
        for row in cells
        if any(row)
    ]
    seen = csv_rows(text.getvalue().encode())
    assert [row.draft["fields"] for row in seen if isinstance(row.draft, dict)] == wanted


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_refused(data: bytes) -> None:
    header = b"email,notes\n"
    lines = (header + data).count(b"\n") + 1
    for row in [*csv_rows(header + data), *read_jsonl(io.BytesIO(data))]:
        assert 1 <= row.line <= lines
        assert isinstance(row.draft, dict | Unreadable)


def test_memory_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", 50)
    reads: list[int] = []

    class Source(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            reads.append(size or 0)
            return super().readline(size)

    assert [row.line for row in read_jsonl(Source(b"x" * 10_000 + b"\n{}\n"))] == [1, 2]
    assert max(reads) <= 51
    assert min(reads) > 0


@pytest.mark.parametrize(
    ("header", "mapping", "names"),
    [
        ("E-Mail,First_Name,WEBSITE,Lead ID", {}, "email,first_name,domain,lead_id"),
        ("not_after_ms,Odd One,,", {}, "not_after_ms,Odd One,,"),
        ("E-Mail,Work Email", {}, "email,Work Email"),
        ("E-Mail Adresse (work),CRM-ID,Website/URL,Tel.", {}, "email,lead_id,domain,phone"),
        ("Notes (e-mail),(work)", {}, "Notes (e-mail),(work)"),
        ("E-Mail,email", {}, "E-Mail,email"),
        ("E-Mail,Private", {"email": "Private"}, "E-Mail,email"),
    ],
)
def test_columns_are_named_by_their_usual_spellings(
    header: str,
    mapping: dict[str, str],
    names: str,
) -> None:
    assert name_columns(header.split(","), mapping) == names.split(",")


def test_a_name_goes_to_one_column_and_a_mapping_must_name_one() -> None:
    with pytest.raises(ValueError, match="two columns would have the name email"):
        name_columns(["email", "email"], {})
    with pytest.raises(ValueError, match="--map email=E-Mail: no such column; there are: Email"):
        name_columns(["Email"], {"email": "E-Mail"})


def test_a_mapping_is_a_lead_with_fields_or_a_flat_one() -> None:
    lead = {"workspace": "acme", "fields": {"email": "ada@example.com"}}
    draft = draft_of(lead)
    assert draft == lead == draft_of({"workspace": "acme", "email": "ada@example.com"})
    draft["workspace"] = "other"
    assert lead["workspace"] == "acme", "the caller's mapping is unchanged"


# --------------------------------------------------------------- bounds, and what is told of a file


@pytest.mark.parametrize(("lines", "reason"), [(100, None), (101, "bad_csv")])
def test_a_cell_may_have_as_many_lines_as_a_row(lines: int, reason: str | None) -> None:
    assert MAX_LINES_PER_ROW == 100
    cell = b"\n".join(b"line %d" % n for n in range(lines))
    (first, *others) = csv_rows(b'email,notes\na@b.example,"' + cell + b'"\nc@d.example,x\n')
    assert first.line == 2
    if reason is None:
        assert first.draft == {"fields": {"email": "a@b.example", "notes": cell.decode()}}
        assert first.text == f'a@b.example,"{cell.decode()}"'
        assert [row.line for row in others] == [102]
    else:
        assert outcome(first) == reason
        assert first.text == 'a@b.example,"line 0', "the lines behind may be rows of their own"
    assert others[-1].draft == {"fields": {"email": "c@d.example", "notes": "x"}}


def test_a_line_may_be_as_long_as_the_bound_with_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", 20)
    lengths = (19, 20, 21, 40, 41, 42, 60)
    lines = [b'{"e":"' + b"x" * (length - 9) + b'"}\n' for length in lengths]
    seen = list(read_jsonl(io.BytesIO(b"".join(lines) + lines[-1].rstrip())))
    assert [row.line for row in seen] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [isinstance(row.draft, dict) for row in seen] == [True, True, *[False] * 6]
    assert {outcome(row) for row in seen[2:]} == {"oversize"}
    assert [row.text for row in seen[:3]] == [lines[0].decode()[:-1], lines[1].decode()[:-1], ""]


def test_a_line_that_is_too_long_within_a_cell_refuses_its_row() -> None:
    long = b"x" * MAX_LINE_BYTES
    broken, too_long, good = csv_rows(
        b'email,notes\na@b,"c"d\na@b.example,"x\n' + long + b'\ny"\nc@d.example,x\n',
    )
    assert [row.line for row in (broken, too_long, good)] == [2, 3, 6]
    assert [row.text for row in (broken, too_long, good)] == ['a@b,"c"d', "", "c@d.example,x"]
    assert broken.draft == Unreadable(
        "bad_csv",
        "The row cannot be read as CSV: broken quotes or line breaks, or a cell above 128 KB",
    )
    assert too_long.draft == Unreadable("oversize", "The line has more than 1048576 bytes")
    assert broken.cells == ()
    assert too_long.cells == ()
    assert good.cells == ("c@d.example", "x")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"caf\xe9 \r\n", "caf\ufffd "),
        ("caf\udce9\n\r\n", "caf\ufffd"),
        (" naïve", " naïve"),
        (b"", ""),
    ],
)
def test_the_text_of_a_row_is_what_stood_in_the_file(raw: bytes | str, text: str) -> None:
    assert FileRow(1, {}, raw=raw).text == text


@pytest.mark.parametrize(
    ("line", "reason", "text"),
    [
        (b"nonsense", "not_json", "The line is not JSON"),
        (b"[1]", "not_an_object", "The line is JSON, but not an object"),
        (
            b"[" * 10_000,
            "nested_too_deep",
            "The JSON is nested too deep (more than 100 levels)",
        ),
        (
            b'{"record_id": 1, "headers": {}, "lead": "x"}',
            "no_lead",
            "The dead letter holds no JSON object: write one as lead, or remove the line",
        ),
    ],
)
def test_a_line_that_is_no_lead_says_why(line: bytes, reason: str, text: str) -> None:
    (row,) = read_jsonl(io.BytesIO(b" \t\r\n\xef\xbb\xbf\n" + line + b"\n"))
    assert row == FileRow(3, Unreadable(reason, text), raw=line + b"\n")


@pytest.mark.parametrize(
    ("beginning", "says"),
    [
        *(
            (
                beginning,
                "it is a spreadsheet, an archive or a document, not CSV; save it as CSV UTF-8",
            )
            for beginning in (
                b"PK\x03\x04",
                b"%PDF-1.7",
                b"\xd0\xcf\x11\xe0",
                b"\x1f\x8b\x08",
            )
        ),
        (b"email\0,x\n", "the header is not UTF-8; save the file as CSV UTF-8"),
        (b"caf\xe9\n", "the header is not UTF-8; save the file as CSV UTF-8"),
        (b'"email\n', "the header cannot be read as CSV"),
        (b'"em"ail\n', "the header cannot be read as CSV"),
        (b'"email\n' + b"x\n" * 200, "the header cannot be read as CSV"),
    ],
)
def test_what_is_no_csv_is_told_by_its_beginning(beginning: bytes, says: str) -> None:
    for read in (read_titles, lambda file: open_csv(file, {})):
        with pytest.raises(ValueError, match=re.escape(says)):
            read(io.BytesIO(beginning))
    assert first_cells(io.BytesIO(beginning), 3) == []


def test_an_empty_file_has_neither_columns_nor_rows() -> None:
    sheet = open_csv(io.BytesIO(b""), {})
    assert sheet.titles == []
    assert sheet.names == []
    assert list(sheet.rows) == []
    assert first_cells(io.BytesIO(b""), 3) == []


@pytest.mark.parametrize("delimiter", rows_module.DELIMITERS)
def test_the_delimiter_is_what_stands_most_often_between_the_titles(delimiter: str) -> None:
    inside = "".join(other * 3 for other in rows_module.DELIMITERS if other != delimiter)
    header = f'"e-mail"{delimiter}"{inside}"{delimiter}x'
    sheet = open_csv(io.BytesIO(f"{header}\na@b.example{delimiter}{delimiter}7\n".encode()), {})
    assert sheet.titles == ["e-mail", inside, "x"]
    assert [row.draft for row in sheet.rows] == [{"fields": {"email": "a@b.example", "x": "7"}}]


def test_titles_may_span_lines_and_have_spaces_around_them() -> None:
    sheet = open_csv(io.BytesIO(b'\xef\xbb\xbf E-Mail ,"odd\none"\na@b.example,1\n'), {})
    assert sheet.titles == [" E-Mail ", "odd\none"]
    assert sheet.names == ["email", "odd\none"]
    assert [row.line for row in sheet.rows] == [3]
    with pytest.raises(ValueError, match=r"--map email=x: no such column; there are: A, B$"):
        name_columns([" A", "B "], {"email": "x"})
    assert name_columns([" A", "B "], {"email": "B"}) == ["A", "email"]


def test_columns_are_named_by_those_who_chose() -> None:
    data = b"one,two,three\na@b.example,x,y\n,,z\n"
    sheet = open_named_csv(io.BytesIO(data), ("email", "", "three"))
    assert sheet.names == ["email", "", "three"]
    assert [row.draft for row in sheet.rows] == [
        {"fields": {"email": "a@b.example", "three": "y"}},
        {"fields": {"three": "z"}},
    ]
    for names, says in (
        (["a", "b"], "the header has 3 columns, and 2 were named"),
        (
            ["a", "b", "a"],
            "two columns would have the name a; name one of them otherwise, or leave it out",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            open_named_csv(io.BytesIO(data), names)


def test_one_column_is_told_in_the_singular() -> None:
    with pytest.raises(ValueError, match="the header has 1 column, and 2 were named"):
        open_named_csv(io.BytesIO(b"one\na@b.example\n"), ["a", "b"])


def test_names_that_two_columns_would_have_are_listed_up_to_a_bound() -> None:
    check_unique(["", "", "a"], "never told")
    names = [f"n{number:02}" for number in range(21)]
    for twice, others in ((20, ""), (21, " and others")):
        shown = ", ".join(names[:20])
        with pytest.raises(ValueError, match=f"would have the name {shown}{others}; do it$"):
            check_unique([*reversed(names[:twice]), *names[:twice], "once"], "do it")


def test_guessed_names_are_given_to_the_first_of_their_columns() -> None:
    assert guess_columns(["E-Mail", "x", "Last"]) == ["email", "x", "last_name"]
    assert guess_columns(["email", "x", "email", "", "x"]) == ["email", "x", "", "", ""]


def test_the_first_cells_are_those_of_each_column() -> None:
    data = b"a,b\n1, 2 \n3\n5,6\n7,8\n"
    assert first_cells(io.BytesIO(data), 3) == [["1", "3", "5"], ["2", "6"]]
    assert first_cells(io.BytesIO(b"a,b\n" + b"\n" * 70_000 + b"1,2\n"), 3) == [[], []], (
        "a file may begin with any number of blank lines"
    )
