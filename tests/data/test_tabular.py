"""Tables of one text a row: what is read of them, which columns are taken, and what is refused."""

import csv
import gzip
import random
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from data_cases import plain
from oracles import preparation

from flow.cli.main import main
from flow.data import DataOptions, is_file, load, located, registry
from flow.data.columns import seconds
from flow.data.streams import Part
from flow.errors import UserError

Row = tuple[str, str, float, str]
"""Client, text, time, group."""

HEADER = ["user_id", "body", "created_utc", "subreddit"]
TEXTS = ["red, blue", 'he said "red"', "two\nlines", "two\r\nlines", "", "日本 zoë", "tab\there", "semi;colon", " blank ", "'"]


def made_up(seed: int, rows: int = 200) -> list[Row]:
    draw = random.Random(seed)
    names = ["ann", "bob", "zoë", "user, 3", "7", 'q"q']
    return [
        (draw.choice(names), draw.choice(TEXTS), float(draw.randrange(40)), draw.choice(["", "g", "h"])) for _ in range(rows)
    ]


def write_table(
    path: Path, rows: Sequence[Sequence[Any]], header: Sequence[str] = HEADER, delimiter: str = ",", end: str = "\r\n"
) -> str:
    path.parent.mkdir(exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def write_parquet(path: Path, rows: Sequence[Sequence[Any]], header: Sequence[str] = HEADER, **columns: Any) -> str:
    columns = {name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)} | columns
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=33)
    return str(path)


def expected(rows: Iterable[Row]) -> preparation.Plain:
    parts = [Part(client, [text], [time], group) for client, text, time, group in rows]
    return preparation.prepared(parts, "words", 20, 10_000, 1)


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv.gz", ","), ("a.tsv", "\t"), ("A.CSV", ";"), ("b.csv", "|"), ("a", ",")]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_gives_the_clients_of_its_rows(tmp_path: Path, name: str, delimiter: str, end: str) -> None:
    rows = made_up(1)
    assert plain(load(DataOptions(data=write_table(tmp_path / name, rows, delimiter=delimiter, end=end)))) == expected(rows)


def test_parquet_gives_the_same_whatever_its_types(tmp_path: Path) -> None:
    rows = made_up(2)
    population = load(DataOptions(data=write_parquet(tmp_path / "a.parquet", rows)))
    assert plain(population) == expected(rows)
    times = [datetime.fromtimestamp(row[2], UTC) for row in rows]
    groups = pyarrow.array([row[3] or None for row in rows]).dictionary_encode()
    texts = pyarrow.array([row[1] for row in rows], pyarrow.large_string())
    other = write_parquet(tmp_path / "renamed", rows, created_utc=times, subreddit=groups, body=texts)
    assert load(DataOptions(data=other)).fingerprint == population.fingerprint
    numbers = write_parquet(tmp_path / "numbers.parquet", rows, user_id=[float(len(row[0])) for row in rows])
    assert plain(load(DataOptions(data=numbers))) == expected([(str(len(row[0])), *row[1:]) for row in rows])


def test_a_folder_and_a_pattern_are_several_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = made_up(3)
    for number, own in enumerate((rows[:50], rows[50:51], rows[51:])):
        write_table(tmp_path / "posts" / f"part-{number}.csv", own)
    (tmp_path / "posts" / "README").write_text("no table")
    monkeypatch.chdir(tmp_path)
    folder, pattern = (load(DataOptions(data=data)) for data in ("posts", "posts/part-*.csv"))
    assert plain(folder) == plain(pattern) == expected(rows)
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(": columns")[0] for line in lines] == ["flow: data='posts'", "flow: data='posts/part-*.csv'"]
    assert is_file("posts") and not is_file("posts/part-*.csv") and is_file("gone.csv") and not is_file("gone-*.csv")
    assert located("posts/part-*.csv") == str(tmp_path / "posts" / "part-*.csv")
    write_table(tmp_path / "posts" / "part-4.csv", [["ann", "x"]], ["user_id", "other"])
    with pytest.raises(
        UserError, match=r"part-4\.csv': no column has a usual name for the text of the columns 'user_id', 'other'"
    ):
        load(DataOptions(data="posts"))
    with pytest.raises(UserError, match=r"data='other-\*\.csv': no file of a known kind has a name of this pattern"):
        load(DataOptions(data="other-*.csv"))


def test_columns_are_given_or_guessed_and_the_guess_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [("ann", "red blue", 2, "g"), ("ann", "blue", 1, "h"), ("bob", "red", 3, "g")]
    path = write_table(tmp_path / "a.csv", rows)
    load(DataOptions(data=path))
    message = (
        "columns by their names, client: 'user_id', text: 'body', time: 'created_utc', group: 'subreddit'; --client-column"
    )
    assert message in capfd.readouterr().err
    given = DataOptions(data=path, client_column="subreddit", text_column="user_id", time_column="", group_column="")
    population = load(given)
    assert [(client.id, client.group, client.texts) for client in population.clients] == [("g", "", 2), ("h", "", 1)]
    assert not capfd.readouterr().err
    assert main(["prepare", "--data", path, "--client-column", "subreddit", "--time-column", "", "--text-column", "body"]) == 0


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("user,author,text\na,b,c\n", {}, r"the columns 'user' and 'author' may each hold the client, of the columns 'user', "
         r"'author', 'text'; say which with --client-column NAME$"),
        ("user,text,date,time\na,b,1,2\n", {}, r"'date' and 'time' may each hold the time, .*NAME, or --time-column ''"),
        ("who,text\na,b\n", {}, r"no column has a usual name for the client, .* of .*'who', 'text'; give --client-column"),
        ("user,words\na,b\n", {}, r"no column has a usual name for the text of the columns 'user', 'words'; give --text"),
        ("user,text\na,b\n", {"text_column": "body"}, r"text_column='body' is no column of the columns 'user', 'text'; give"),
        ("user,text,text\na,b,c\n", {"text_column": "text"}, r"2 columns have the name 'text', of .*; rename all but one"),
        ("user,text,text\na,b,c\n", {}, r"2 columns have the name 'text', of the columns 'user', 'text', 'text'; rename all"),
        ("user,text\na,b\n,c\n", {}, r"line 3: nothing in the column 'user', which names the client of the row; fill it in"),
        ("user,text\na,b\nc\n", {}, r"line 3: 1 value where the first line names 2 columns; put a text that holds ','"),
        ('user,text\na,"b\nc"\nd,"e" f\n', {}, r"line 4: quotation marks that do not pair up \(.*\); write a text with"),
        ('user,"te\nxt"\na,b\n', {}, r"line 1: quotation marks that do not pair up \(unexpected end of data\)"),
        ('user,text\na,b\nd,"e\n', {}, r"line 3: quotation marks that do not pair up \(unexpected end of data\)"),
        ("user,text,time\na,b,1\na,b,later\n", {}, r"line 3: 'later' in the column 'time' is no time \(.*\); write Unix"),
        ("user,text,time\na,b,9 May UTC\n", {}, r"line 2: '9 May UTC' .* is no time \(neither a number nor ISO 8601\); write"),
        ("user,text,time\na,b,2017-12-31 24:59:59\n", {}, r"line 2: '2017-12-31 24:59:59' .* is no time \(hour must be in 0"),
        ("user,text,time\na,b,nan\n", {}, r"line 2: 'nan' in the column 'time' is no time \(it is not finite\)"),
        (b"user,text\na,caf\xe9\n", {}, r"line 2: not UTF-8 \(.* at byte 6\); save the file in UTF-8, such as with `iconv"),
        ("user,text\n", {}, r"there is no row below the names of the columns"),
        ("user,text\ra,b\rc,d\r", {}, r"line 1: a carriage return inside a line; end every line with a line feed, such as"),
        ("user,text\na,b\nc,d\re\n", {}, r"line 3: a carriage return inside a line; .* holds a carriage return into quotation"),
        ("user,text\na,b\n".encode("utf-16"), {}, r"line 1: not UTF-8 .* `iconv -f UTF-16 -t UTF-8`"),
        ("user,text\na,b\n", {"text_column": "user"}, r"the column 'user' holds both the client and the text, of the columns"),
        ("text\na\n", {}, r"line 1: one column, 'text', where one for the client and one for the text must stand"),
        ("user,text\na,\ud800\n".encode("utf-8", "surrogatepass"), {}, r"line 2: not UTF-8"),
    ],
)  # fmt: skip
def test_faulty_tables_are_refused_by_name_and_line(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"^data='.*a\.csv'.*{message}"):
        load(DataOptions(data=str(path), **options))


def test_faulty_parquet_is_refused_by_name_and_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("ann", "red", 1.0, ""), ("bob", "blue", 2.0, "")]
    path = tmp_path / "a.parquet"
    for columns, message in (
        ({"body": ["x", None]}, r"row 2: nothing \(null\) in the column 'body', which holds the text; fill it in or remove"),
        ({"user_id": ["a", None]}, r"row 2: nothing in the column 'user_id', which names the client"),
        ({"body": [1, 2]}, r"the column 'body' holds int64, where a text is a string; give --text-column NAME"),
        ({"user_id": [["a"], ["b"]]}, r"the column 'user_id' holds list<.*>, where a client is a string or a number"),
        ({"created_utc": [1, None]}, r"row 2: None in the column 'created_utc' is no time"),
    ):
        write_parquet(path, rows, **columns)
        with pytest.raises(UserError, match=rf"^data='.*a\.parquet'.*{message}"):
            load(DataOptions(data=str(path)))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a\.parquet': a Parquet file that cannot be read \(.*\); copy or write it again"):
        load(DataOptions(data=str(path)))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"Parquet needs the package pyarrow .*; run: pip install 'flow-fl\[data\]'"):
        load(DataOptions(data=str(path)))


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    write_table(path, made_up(1, 2000))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.csv\.gz': truncated gzip file, unreadable after line \d+; copy or compress"):
        load(DataOptions(data=str(path)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12", 12), ("1.5e3", 1500), (7, 7), ("2010-01-08 09:34:05 UTC", 1262943245),
        ("2010-01-08T09:34:05.25Z", 1262943245.25),
        ("2010-01-08T10:34:05+01:00", 1262943245), ("2010-01-08", 1262908800), (datetime(2010, 1, 8), 1262908800),
    ],
)  # fmt: skip
def test_times(value: object, expected: float) -> None:
    assert seconds(value) == expected


def test_a_package_brings_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tales-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tales\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[flow.data]\ntales = tales_of:SOURCE\n")
    (tmp_path / "tales_of.py").write_text(
        "from flow.data.source import Content, Source\n"
        "from flow.data.streams import Part, Stream\n"
        "def stream(options):\n"
        "    return Stream('tales', 'made up', lambda: iter([Part('ann', ['once', 'upon'], held_out=False)]))\n"
        "SOURCE = Source('tales', lambda data: Content('tales', '1'), stream=stream, tokenizer='words')\n"
        "OTHER = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._brought.cache_clear()
    try:
        assert [client.id for client in load(DataOptions(data="tales")).clients] == ["ann"]
        for line, message in (
            (
                "tales = gone_of:SOURCE",
                r"the package tales brings the data source 'tales' \(gone_of:SOURCE\), which cannot be",
            ),
            (
                "tales = tales_of:OTHER",
                r"which is a int and not a flow\.data\.source\.Source; correct the package, or run: pip",
            ),
            ("a = tales_of:SOURCE\nb = tales_of:SOURCE", r"there is another source of the name 'tales'"),
        ):
            (folder / "entry_points.txt").write_text(f"[flow.data]\n{line}\n")
            registry._brought.cache_clear()
            with pytest.raises(UserError, match=message):
                load(DataOptions(data="tales"))
    finally:
        registry._brought.cache_clear()
