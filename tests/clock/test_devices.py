"""Profiles and spreads of devices: times by hand, windows over midnight, who can be reached when, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from flow import UserError
from flow.clock.devices import DAY, Devices, windows
from flow.clock.profiles import devices, placed, read
from flow.clock.spread import DOWNLOAD, SPEED, drawn

IDS = ("ann", "bob", "cy, the third")
HEAD = "client,class,share,speed,download,upload,hours\n"


def table(folder: Path, text: str) -> str:
    (folder / "profiles.csv").write_text(text, encoding="utf-8")
    return str(folder / "profiles.csv")


def made(folder: Path, text: str, ids: tuple[str, ...] = IDS, seed: int = 0) -> Devices:
    return devices(table(folder, text), len(ids), lambda: ids, seed)


def test_a_clients_time_is_download_work_and_upload(tmp_path: Path) -> None:
    own = made(tmp_path, HEAD + 'ann,,,4,8,2,\nbob,,,2,16,1,\n"cy, the third",,,1,8,8,\n')
    rows = np.array([1, 0])
    seconds = own.seconds(rows, np.array([4e6, 1e6]), np.array([6.0, 10.0]), np.array([0.5e6, 0.25e6]))
    np.testing.assert_allclose(seconds, [4 / 2 + 6 / 2 + 0.5 / 0.125, 1 / 1 + 10 / 4 + 0.25 / 0.25])
    assert own.available(5e6).all() and own.opening(7.0, np.ones(3, np.bool_), 3) == 7.0
    assert own.opening(7.0, np.ones(3, np.bool_), 4) is None


def test_a_row_of_a_client_goes_before_its_class(tmp_path: Path) -> None:
    many = tuple(f"client {n:04d}" for n in range(2000))
    text = HEAD + "client 0007,,,9,1,1,\n,slow,0.25,1,1,1,\n,fast,0.75,5,1,1,\n"
    own, other = made(tmp_path, text, many), made(tmp_path, text, many, seed=1)
    assert own.speed[7] == other.speed[7] == 9 and set(own.speed) == {1.0, 5.0, 9.0}
    assert abs((own.speed == 1).mean() - 0.25) < 0.04 and (own.speed != other.speed).any()
    assert own.digest() == made(tmp_path, text, many).digest() != other.digest()


def test_windows_go_on_past_midnight_and_are_waited_for(tmp_path: Path) -> None:
    own = made(tmp_path, HEAD + 'ann,,,1,1,1,22-6\nbob,,,1,1,1,1-5 12-13.5\n"cy, the third",,,1,1,1,\n')
    hour, everyone = 3600.0, np.ones(3, np.bool_)
    assert [own.available(h * hour).tolist() for h in (0, 4.5, 5, 13.49, 13.5, 22, 46, 25)] == [
        [True, False, True], [True, True, True], [True, False, True], [False, True, True],
        [False, False, True], [True, False, True], [True, False, True], [True, True, True],
    ]  # fmt: skip
    assert own.opening(0.0, everyone, 3) == 1 * hour and own.opening(6.5 * hour, everyone, 2) == 12 * hour
    assert own.opening(6.5 * hour, everyone, 3) == 25 * hour and own.opening(30.5 * hour + 0.1, everyone, 3) == 49 * hour
    assert own.opening(6.5 * hour, np.array([True, True, False]), 2) == 25 * hour
    assert own.opening(2 * hour, np.array([True, False, False]), 2) is None


def test_openings_are_those_of_a_search_second_by_second() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(12):
        edges = np.sort(rng.choice(DAY // 600, 4, replace=False)) * 600
        rows.append([(int(edges[0]), int(edges[1])), (int(edges[2]), int(edges[3]))][: rng.integers(1, 3)])
    own = Devices(np.ones(12), np.ones(12), np.ones(12), *windows(rows))
    for now in rng.random(40) * 3 * DAY:
        among, count = rng.random(12) < 0.7, int(rng.integers(1, 5))
        later = [now, *(600.0 * n for n in range(int(now // 600) + 1, int(now // 600) + 290))]
        expected = next((time for time in later if (own.available(time) & among).sum() >= count), None)
        assert own.opening(now, among, count) == expected


def test_the_built_in_spreads_have_the_order_that_their_page_says() -> None:
    spread, nights = drawn(4000, 3, False), drawn(4000, 3, True)
    assert abs(np.median(spread.speed) / SPEED - 1) < 0.1 and abs(np.median(spread.download) / DOWNLOAD - 1) < 0.1
    low, high = np.quantile(spread.speed, [0.1, 0.9])
    assert 8 < high / low < 12
    assert (spread.speed == nights.speed).all() and spread.available(0).all()
    shares = [float(nights.available(hour * 3600).mean()) for hour in (1, 14)]
    assert shares[0] > 0.8 and shares[1] < 0.02
    assert (drawn(4000, 4, False).speed != spread.speed).all()
    assert placed("spread") == "spread" and placed("") == "" and Path(placed("x.csv")).is_absolute()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no column speed, download, upload, client or class in its first line; add it"),
        ("client,speed,download,upload,color\n", "column 'color' is unknown or there twice; the columns are client, class"),
        ("class,speed,download,upload\n", "has no column share in its first line"),
        (HEAD, "has no row below its header"),
        (HEAD + "ann,,,1,1,0,\n", "line 2: upload must be a number above 0 and at most 1e12, got '0'"),
        (HEAD + "ann,,,fast,1,1,\n", "line 2: speed must be a number above 0 and at most 1e12, got 'fast'"),
        (HEAD + "ann,slow,0.5,1,1,1,\n", "line 2 must name a client or a class, got client='ann', class='slow'"),
        (HEAD + ",,,1,1,1,\n", "line 2 must name a client or a class"),
        (HEAD + "ann,,0.5,1,1,1,\n", "line 2: share='0.5' belongs to a class"),
        (HEAD + ",slow,0.5,1,1,1,\n", "the shares of its classes add up to 0.5 and must add up to 1"),
        (HEAD + "ann,,,1,1,1,22-30\n", "line 2: hours must be windows such as '22-6' or '1-5 12-13.5'"),
        (HEAD + "ann,,,1,1,1,1-5 4-6\n", "line 2: the windows of hours='1-5 4-6' overlap; join them"),
        (HEAD + "ann,,,1,1,1,\nann,,,2,1,1,\n", "line 3 is of client 'ann', as line 2 is; give every client one row"),
        (HEAD + "ann,,,1,1\n", "line 2 has not as many cells as the first line"),
        (HEAD + "ann,,,1,1,1,\n", "has no row for client 'bob'; add one, or rows of classes with shares"),
    ],
)
def test_tables_that_are_none_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        made(tmp_path, text)
    assert str(caught.value).startswith(f"clock='{tmp_path / 'profiles.csv'}'") and message in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"clock='.*none\.csv': there is no such file; give the path of a CSV file of device"):
        read(str(tmp_path / "none.csv"))
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"clock='.*bytes.csv' is no CSV file in UTF-8"):
        read(str(tmp_path / "bytes.csv"))
