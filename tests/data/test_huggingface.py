"""Data sets of the library datasets, saved by it; by name with the library's own loader in place of the Hub."""

import datetime
import sys
import tracemalloc

import datasets
import pytest

from flow.data import DataOptions, load, located, registry
from flow.data.streams import Part
from flow.errors import UserError

datasets.disable_progress_bars()
FEATURES = datasets.Features(
    {
        "user": datasets.Value("int64"), "body": datasets.Value("string"), "when": datasets.Value("timestamp[s]"),
        "label": datasets.ClassLabel(names=["neg", "pos"]), "score": datasets.Value("float32"),
    }
)  # fmt: skip
CHOSEN = {"time_column": "when"}


def rows(count=10):
    return {
        "user": [n // 3 for n in range(count)],
        "body": [f"Text {n}, zoë." for n in range(count)],
        "when": [datetime.datetime(2020, 1, 1) + datetime.timedelta(seconds=count - n) for n in range(count)],
        "label": [n % 3 // 2 for n in range(count)],
        "score": [0.5] * count,
    }


@pytest.fixture
def made():
    return datasets.Dataset.from_dict(rows(), features=FEATURES)


def stream_of(data, **options):
    given = DataOptions(data=str(data), **options)
    source = registry.source_of(given.data)
    assert source.name == "huggingface"
    return source.opened(given)


def plain(part: Part):
    return part._replace(place="", position=0)


def test_a_saved_data_set(tmp_path, made, capsys):
    made.save_to_disk(tmp_path / "saved")
    midnight = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).timestamp()
    wanted = []
    for client in range(4):
        for label in range(2):
            own = [n for n in range(10) if n // 3 == client and n % 3 // 2 == label]
            texts, times = [f"Text {n}, zoë." for n in own], [midnight + 10 - n for n in own]
            if own:
                wanted.append(Part(str(client), texts, times, ["neg", "pos"][label]))
    for data in (tmp_path / "saved", f"hf:{tmp_path / 'saved'}"):
        assert [plain(part) for part in stream_of(data, **CHOSEN).parts()] == wanted
    assert "columns by their names, client: 'user', text: 'body', group: 'label'" in capsys.readouterr().err


def test_splits_and_columns(tmp_path, made, capsys):
    more = made.rename_column("body", "said")
    datasets.DatasetDict(train=made, test=made.select(range(3))).save_to_disk(tmp_path / "two")
    assert sum(len(part.texts) for part in stream_of(tmp_path / "two", **CHOSEN).parts()) == 10
    assert "the split train is taken, of test, train" in capsys.readouterr().err
    assert sum(len(part.texts) for part in stream_of(f"hf:{tmp_path / 'two'}:test", **CHOSEN).parts()) == 3
    with pytest.raises(UserError, match=r"there is no split 'dev', only test, train; give one of these, as in hf:NAME:SPLIT"):
        stream_of(f"hf:{tmp_path / 'two'}:dev")
    more.save_to_disk(tmp_path / "more")
    with pytest.raises(UserError, match=r"no column has a usual name for the text of the columns .*; give --text-column NAME"):
        stream_of(tmp_path / "more")
    found = list(stream_of(tmp_path / "more", text_column="said", client_column="label", group_column="").parts())
    assert {part.client for part in found} == {"neg", "pos"} and {part.group for part in found} == {""}
    with pytest.raises(UserError, match=r"there are no splits, and so no 'train'; leave it out"):
        stream_of(f"hf:{tmp_path / 'more'}:train")


def test_a_population_and_its_name_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    datasets.Dataset.from_dict(rows(90), features=FEATURES).save_to_disk(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    assert located("saved") == str(tmp_path / "saved") and located("hf:saved") == f"hf:{tmp_path / 'saved'}"
    assert located("hf:owner/name:test") == "hf:owner/name:test"
    population = load(DataOptions(data=located("saved")))
    assert len(population.clients) == 30 and population.name == "saved"


def test_by_name(made, monkeypatch):
    asked = []

    def load_dataset(name):
        asked.append(name)
        return datasets.DatasetDict(validation=made)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    one, other = (stream_of(data, **CHOSEN) for data in ("hf:owner/name", "hf:owner/name:validation"))
    assert [plain(part) for part in one.parts()] == [plain(part) for part in other.parts()]
    assert asked == ["owner/name"] * 2 and one.name == "owner-name"
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made.select([]))
    with pytest.raises(UserError, match=r"there is no row; give a data set with one text a row"):
        stream_of("hf:owner/name", **CHOSEN)


def test_by_name_without_network(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"data='hf:owner/none' cannot be had by name \(ConnectionError: .*; download it where"):
        stream_of("hf:owner/none")
    with pytest.raises(UserError, match=r"data='hf:' names no data set; give hf:NAME"):
        stream_of("hf:")


def test_folders_and_files_that_are_no_data_set(tmp_path, made):
    with pytest.raises(
        UserError, match=r"the folder has neither dataset_dict\.json nor state\.json .*; give a folder that save_to"
    ):
        stream_of(f"hf:{tmp_path}")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file' is a file; give a folder that save_to_disk"):
        stream_of(f"hf:{tmp_path / 'file'}")
    made.save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    whole = arrow.read_bytes()
    for content in (b"", whole[:100], b"x" * 200, whole[: len(whole) - 500]):
        arrow.write_bytes(content)
        with pytest.raises(
            UserError, match=r"saved'.*(is damaged or incomplete|the rows cannot be read).*; save (it|them) again"
        ):
            list(stream_of(tmp_path / "saved", **CHOSEN).parts())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["a", None], "text": ["x", "y"]}, r"row 2: nothing in the column 'user'"),
        ({"user": ["a", "a"], "text": ["x", None]}, r"row 2: None in the column 'text' must be text"),
        ({"user": ["a"], "text": [["x"]]}, r"row 1: \['x'\] in the column 'text' must be text; give --text-column"),
        ({"user": [["a"]], "text": ["x"]}, r"row 1: \['a'\] is no client or group"),
        ({"user": ["a"], "text": ["x"], "time": ["soon"]}, r"row 1: 'soon' in the column 'time' is no time"),
    ],
)
def test_faulty_rows_are_named(tmp_path, columns, message):
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=message):
        list(stream_of(tmp_path / "saved").parts())


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets .*; run: pip install 'flow-fl\[hf\]'"):
        stream_of("hf:owner/name")


def test_few_rows_are_in_memory(tmp_path):
    def many():
        for n in range(20_000):
            yield {"user": str(n // 100), "text": "word " * 200}

    datasets.Dataset.from_generator(many, cache_dir=str(tmp_path / "cache")).save_to_disk(tmp_path / "saved")
    stream = stream_of(tmp_path / "saved")
    tracemalloc.start()
    texts = sum(len(part.texts) for part in stream.parts())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == 20_000 and peak < 6_000_000
