"""A tf.train.Example, as TensorFlow Federated stores one example, read by the package protobuf without TensorFlow.

The schema is that of tensorflow/core/example/{example,feature}.proto: Example.features (1) is a message Features, whose map
feature (1) holds by name a Feature, which is one of bytes_list (1), float_list (2) and int64_list (3), each a message with a
repeated field value (1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from flow.data.readers import needs


@cache
def message(where: str, why: str) -> Any:
    """The class of the message, whose FromString and SerializeToString read and write one.

    Raises:
        UserError: protobuf is not installed; ``where`` and ``why`` start the message.
    """
    pb = needs.package("google.protobuf.descriptor_pb2", "data", where, why)
    pool_module = needs.package("google.protobuf.descriptor_pool", "data", where, why)
    factory = needs.package("google.protobuf.message_factory", "data", where, why)
    kinds, labels = pb.FieldDescriptorProto, pb.FieldDescriptorProto
    package = "tensorflow"
    file = pb.FileDescriptorProto(name="flow/example.proto", package=package, syntax="proto3")

    def field(of: Any, name: str, number: int, kind: int, message: str = "", many: bool = False, **more: Any) -> None:
        label = labels.LABEL_REPEATED if many else labels.LABEL_OPTIONAL
        type_name = f".{package}.{message}" if message else None
        of.field.add(name=name, number=number, type=kind, label=label, type_name=type_name, **more)

    values = {"bytes_list": kinds.TYPE_BYTES, "float_list": kinds.TYPE_FLOAT, "int64_list": kinds.TYPE_INT64}
    lists = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}
    for name, kind in values.items():
        field(file.message_type.add(name=lists[name]), "value", 1, kind, many=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(values, 1):
        field(feature, name, number, kinds.TYPE_MESSAGE, lists[name], oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    field(entry, "key", 1, kinds.TYPE_STRING)
    field(entry, "value", 2, kinds.TYPE_MESSAGE, "Feature")
    field(features, "feature", 1, kinds.TYPE_MESSAGE, "Features.FeatureEntry", many=True)
    field(file.message_type.add(name="Example"), "features", 1, kinds.TYPE_MESSAGE, "Features")
    pool = pool_module.DescriptorPool()
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Example"))


def features(where: str, why: str) -> Callable[[object], Any]:
    """A function from the bytes of an Example to its features by name, a map of protobuf.

    The function raises ValueError for what is no Example.

    Raises:
        UserError: protobuf is not installed.
    """
    parse = message(where, why).FromString
    damaged = needs.package("google.protobuf.message", "data", where, why).DecodeError

    def read(blob: object) -> Any:
        if not isinstance(blob, bytes):
            raise ValueError(_no_bytes(blob))
        try:
            return parse(blob).features.feature
        except damaged as error:
            raise ValueError(f"no tf.train.Example ({error})") from error

    return read


def reader(where: str, why: str, *names: str) -> Callable[[object], list[bytes | None]]:
    """A function from the bytes of an Example to the single values of some of its bytes features; None for one that is missing.

    The function raises ValueError for bytes that are no Example, and for a feature that is not one value of bytes.

    Raises:
        UserError: protobuf is not installed.
    """
    parse = message(where, why).FromString
    damaged = needs.package("google.protobuf.message", "data", where, why).DecodeError

    def read(blob: object) -> list[bytes | None]:
        if not isinstance(blob, bytes):
            raise ValueError(_no_bytes(blob))
        try:
            get = parse(blob).features.feature.get
        except damaged as error:
            raise ValueError(f"no tf.train.Example ({error})") from error
        values: list[bytes | None] = []
        for name in names:
            feature = get(name)
            if feature is None:
                values.append(None)
                continue
            of_name = feature.bytes_list.value
            if len(of_name) != 1:
                raise ValueError(f"the feature {name!r} is not one value of bytes")
            values.append(of_name[0])
        return values

    return read


def _no_bytes(blob: object) -> str:
    return f"no tf.train.Example (a {type(blob).__name__} and not bytes)"
