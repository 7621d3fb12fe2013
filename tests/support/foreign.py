"""Files of published formats, made with the libraries of these formats, exactly in the published form."""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DATE = "20{:02}-0{}-1{} 09:34:0{} UTC"


def example_class() -> Any:
    """tf.train.Example out of its .proto, by hand: independent of the reader's own schema."""
    file = descriptor_pb2.FileDescriptorProto()
    file.name, file.package, file.syntax = "test_example.proto", "tf", "proto3"
    kinds = {"BytesList": 12, "FloatList": 2, "Int64List": 3}
    for name, kind in kinds.items():
        field = file.message_type.add(name=name).field.add(name="value", number=1, label=3, type=kind)
        assert field.label == 3
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, values) in enumerate(zip(("bytes_list", "float_list", "int64_list"), kinds, strict=True), 1):
        feature.field.add(name=name, number=number, label=1, type=11, type_name=f".tf.{values}", oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".tf.Feature")
    features.field.add(name="feature", number=1, label=3, type=11, type_name=".tf.Features.FeatureEntry")
    file.message_type.add(name="Example").field.add(name="features", number=1, label=1, type=11, type_name=".tf.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


Example = example_class()


def example(**features: str | bytes | int) -> bytes:
    """The bytes of an Example; str and bytes become bytes features, int becomes int64."""
    message = Example()
    for name, value in features.items():
        if isinstance(value, int):
            message.features.feature[name].int64_list.value.append(value)
        else:
            message.features.feature[name].bytes_list.value.append(value.encode() if isinstance(value, str) else value)
    content: bytes = message.SerializeToString()
    return content


def sentence(tokens: str, date: str) -> dict[str, Any]:
    """The six features of a StackOverflow example."""
    return {
        "creation_date": date, "score": -3, "tags": "sql|median", "title": "how do i compute a median ?", "tokens": tokens,
        "type": "answer",
    }  # fmt: skip


Row = tuple[str, str, bytes | dict[str, Any]]


def tff_sqlite(
    path: Path, rows: Iterable[Row], metadata: Mapping[tuple[str, str], int] | None = None, index: bool = False
) -> Path:
    """A database of TensorFlow Federated: rows of (split, client, features)."""
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, serialized_example_proto BLOB)")
    base.execute("CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)")
    counts: dict[tuple[str, str], int] = {}
    for split, client, features in rows:
        blob = features if isinstance(features, bytes) else example(**features)
        base.execute("INSERT INTO examples VALUES (?, ?, ?)", (split, client, blob))
        counts[client, split] = counts.get((client, split), 0) + 1
    for (client, split), count in (metadata or counts).items():
        base.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", (client, split, count))
    if index:
        base.execute("CREATE INDEX idx_examples_client_id_split ON examples (split_name, client_id)")
    base.commit()
    base.close()
    return path


def tff_h5(path: Path, clients: Mapping[str, Mapping[str, Any]]) -> Path:
    """An HDF5 file of TensorFlow Federated: {client: {field: [values]}}."""
    with h5py.File(path, "w") as file:
        for client, fields in clients.items():
            for field, values in fields.items():
                if field == "score":
                    file[f"examples/{client}/{field}"] = np.array(values, dtype=np.int64)
                else:
                    kind = h5py.string_dtype()
                    file.create_dataset(f"examples/{client}/{field}", data=np.array(values, dtype=object), dtype=kind)
    return path


def pfl_h5(
    path: Path, words: Sequence[str], parts: Mapping[str, Mapping[str, list[list[str]]]], length: int, with_length: bool = True
) -> Path:
    """pfl-research's file, as its download_preprocess.py writes it: parts {"train": {user: [[token, ..], ..]}}."""
    names = ["PAD", *words, "UNK", "BOS", "EOS"]
    ids = {name: number for number, name in enumerate(names)}
    with h5py.File(path, "w") as file:
        file["/metadata/vocabulary_size"] = len(names)
        file["/metadata/unk_symbol"] = ids["UNK"]
        file["/metadata/pad_symbol"] = ids["PAD"]
        if with_length:
            file["/metadata/max_sequence_length"] = length
        for name, number in ids.items():
            file.create_dataset(f'/metadata/vocabulary/"{name}"', data=number, dtype="int32")
        for part, users in parts.items():
            for user, rows in users.items():
                cut = [[ids.get(token, ids["UNK"]) for token in row][: length + 1] for row in rows]
                padded = np.array([row + [0] * (length + 1 - len(row)) for row in cut], dtype=np.int32)
                file.create_dataset(f"/{part}/{user}/inputs", data=padded[:, :-1])
                file.create_dataset(f"/{part}/{user}/targets", data=padded[:, 1:])
            file[f"/metadata/num_tokens/{part}"] = json.dumps({user: 1 for user in users})
    return path


def fedjax_packed(fields: Mapping[str, Sequence[Any]]) -> bytes:
    """A client's data as fedjax's serialization writes it."""

    def packed(value: Sequence[Any]) -> msgpack.ExtType:
        array = np.array(value)
        if array.dtype.kind in "SUO":
            content = [text.encode() if isinstance(text, str) else text for text in value]
            return msgpack.ExtType(4, msgpack.packb([[len(content)], content]))
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes("C")), use_bin_type=True))

    return zlib.compress(msgpack.packb({name: packed(value) for name, value in fields.items()}))


def fedjax_sqlite(path: Path, clients: Mapping[str, bytes | Mapping[str, Any]]) -> Path:
    """fedjax's database: {client: {field: [values]}, or bytes}."""
    base = sqlite3.connect(path)
    base.execute(
        "CREATE TABLE federated_data (client_id BLOB NOT NULL PRIMARY KEY, data BLOB NOT NULL, num_examples INTEGER NOT NULL)"
    )
    for client, fields in clients.items():
        content = fields if isinstance(fields, bytes) else fedjax_packed(fields)
        count = 1 if isinstance(fields, bytes) else len(next(iter(fields.values())))
        base.execute("INSERT INTO federated_data VALUES (?, ?, ?)", (client.encode(), content, count))
    base.commit()
    base.close()
    return path


def other_form(file: Path, table: str, *statements: str) -> Path:
    """The database with its table in another form, which the statements make; the table as it was is called `old`."""
    base = sqlite3.connect(file)
    base.execute(f"ALTER TABLE {table} RENAME TO old")
    for statement in statements:
        base.execute(statement)
    base.commit()
    base.close()
    return file
