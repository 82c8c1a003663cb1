"""What is read of a file that is published on the board: its columns, leads and refused rows."""

import csv
import io
import re
import tempfile
import time

import pytest

from stream_app.board import uploads
from stream_app.board.uploads import Uploads
from stream_app.client.publish.leads import Checker, PublishOptions, Ready, Refusal
from stream_app.client.publish.rows import open_csv
from stream_app.config import Settings
from tests.support.uploads import ADA, NOW_MS, Views, add, checked, settled


async def test_a_file_that_was_just_added_is_as_its_first_page_shows_it(kept: Uploads) -> None:
    raw = b"E-Mail,Notes,\n" + b"".join(
        b"ada%d@example.com, %s ,\n" % (n, note)
        for n, note in enumerate((b"x" * 41, b"", b"second", b"fourth"))
    )
    file = tempfile.TemporaryFile()  # noqa: SIM115 (its upload closes it)
    file.write(raw)
    upload = await kept.add(file, "of ada@example.com.csv", 77, "kfdwzp", "jane")
    assert upload.titles == ["E-Mail", "Notes", ""]
    assert upload.names == ["email", "Notes", ""]
    assert upload.samples == [
        [f"ada{n}@example.com" for n in range(3)],
        ["x" * 40, "second"],
        [],
    ]
    assert upload.file == "of [email]", "its name may have an address"
    assert upload.size == 77
    assert upload.who == "jane"
    assert upload.state == "columns"
    assert upload.share == 0.0
    assert upload.published == 0
    assert upload.problem == ""
    assert upload.rejects == []
    assert upload.quotes == []
    assert upload.work is None
    assert upload.options == PublishOptions(import_id="2026-09-21-kfdwzp")
    assert re.fullmatch(r"[\w-]{32}", upload.id), "nobody guesses it"
    await kept.settled(upload, 30)
    assert list(upload.rejected_rows()) == []


async def test_the_columns_are_guessed_as_the_command_does(kept: Uploads) -> None:
    upload = await add(kept, ADA)
    assert upload.titles == ["E-Mail", "Vorname", "Notes"]
    assert upload.names == open_csv(io.BytesIO(ADA), {}).names == ["email", "first_name", "Notes"]
    assert upload.import_id == "2026-09-21-kfdwzp"
    assert upload.file == "leads.csv"
    assert upload.state == "columns"
    assert (await add(kept, b"email,E-Mail,email\n")).names == ["email", "", ""], (
        "of one name the second is left out"
    )
    upload = await checked(kept, "\ufeffE-Mail;Name\r\nada@example.com;Ada, L\r\n".encode())
    assert upload.names == ["email", "full_name"], "semicolons of a spreadsheet"
    assert upload.summary.ready == 1, "semicolons of a spreadsheet"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "the file is empty"),
        ("email\n".encode("utf-16"), "the header is not UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00", "it is a spreadsheet, an archive or a document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "it is a spreadsheet, an archive or a document"),
        (b'{"email": "ada@example.com"}\n', "it is JSON, not CSV"),
        (b",".join(b"c%d" % n for n in range(201)), "the header has 201 columns"),
        (b'"never closed\n' + b"x\n" * 200, "the header cannot be read as CSV"),
    ],
)
async def test_a_file_that_is_no_csv_is_refused_in_words(
    kept: Uploads,
    raw: bytes,
    text: str,
) -> None:
    with pytest.raises(ValueError, match=text):
        await add(kept, raw)
    kept.make_room()


async def test_a_header_may_have_as_many_columns_as_the_page_shows(kept: Uploads) -> None:
    header = b",".join(b"c%d" % n for n in range(uploads.MAX_COLUMNS))
    assert len((await add(kept, header + b"\n")).titles) == 200
    with pytest.raises(ValueError, match="the header has 201 columns, and this page shows 200; "):
        await add(kept, header + b",more\n")
    with pytest.raises(ValueError, match="it is JSON, not CSV; publish JSON Lines with"):
        await add(kept, b'  [{"email": 1}]\n')


async def test_a_header_of_50_000_columns_is_refused_before_it_is_compared(kept: Uploads) -> None:
    header = b",".join(b"email%d" % (number % 25_000) for number in range(50_000))
    began = time.process_time()
    with pytest.raises(ValueError, match="the header has 50000 columns, and this page shows 200"):
        await add(kept, header + b"\n")
    assert time.process_time() - began < 1, "comparing them all took 25 s"


async def test_a_header_beyond_the_first_bytes_has_no_samples(kept: Uploads) -> None:
    upload = await add(kept, b'email,"' + b"x" * 70_000 + b'"\nada@example.com,1\n')
    assert upload.samples == [[], []]


async def test_the_leads_are_those_that_the_command_makes(
    kept: Uploads,
    settings: Settings,
) -> None:
    raw = ADA + 'b@example.com,Bo,naïve\nnot one,,\nc@example.com,<b>C</b>,"a\nb"\n'.encode()
    upload = await checked(kept, raw)
    options = PublishOptions("acme", import_id=upload.import_id)
    checker = Checker(settings, options)
    expected = [
        answer
        for row in open_csv(io.BytesIO(raw), {}).rows
        if isinstance(answer := checker.check(row), Ready)
    ]
    assert upload._batch is not None
    assert list(upload._batch) == expected
    assert upload.summary.rows == 4
    assert upload.summary.ready == 3
    assert upload.summary.refused == 1
    assert upload.share == 1


async def test_half_of_the_rows_are_refused_and_can_be_downloaded(kept: Uploads) -> None:
    raw = b"email,note\n" + b"".join(
        b"a%d@example.com,x\n=bad %d,y\n" % (n, n) for n in range(5_000)
    )
    upload = await checked(kept, raw)
    assert upload.summary.ready == 5_000
    assert upload.summary.refused == 5_000
    rows = list(csv.reader(io.StringIO(b"".join(upload.rejected_rows()).decode())))
    assert rows[0] == ["line", "reason", "text", "row"]
    assert len(rows) == 5_001
    assert rows[1][:2] == ["3", "bad_email"]
    assert rows[1][3] == "'=bad 0,y"
    assert len(upload.rejects) == uploads.SHOWN_REJECTS
    assert {reject.row for reject in upload.rejects} == {""}


async def test_two_checks_of_a_file_count_each_row_once(settings: Settings) -> None:
    views = Views()
    kept = Uploads(settings, views, lambda: NOW_MS)
    upload = await checked(kept, b"email,Note\nada@example.com,1\nno,=x\nbob@example.com,2\n")
    batch = upload._batch
    rejected = upload._rejected
    kept.check(upload, upload.names, PublishOptions("globex", import_id="b"))
    await settled(upload)
    assert upload.state == "checked"
    counts = upload.summary
    assert counts.rows == 3
    assert counts.ready == 2
    assert counts.refused == 1
    assert upload.share == 1
    text = (
        "Its e-mail is not an e-mail address: correct it, or leave it empty to publish the rest "
        "of the row"
    )
    assert upload.rejects == [Refusal(3, "bad_email", text)]
    assert b"".join(upload.rejected_rows()).decode() == (
        f'line,reason,text,row\r\n3,bad_email,"{text}","no,=x"\r\n'
    )
    assert views.asked == [({"acme": 2}, NOW_MS), ({"globex": 2}, NOW_MS)]
    assert [quote.workspace for quote in upload.quotes] == ["globex"]
    assert upload._batch is not batch
    assert rejected is not None
    assert rejected.closed, "the rows that the first check refused"
    kept.close()
    assert upload._source.closed
    assert list(upload.rejected_rows()) == []
    assert kept.get(upload.id, "jane") is None
