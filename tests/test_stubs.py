"""The committed code of gRPC is what the compiler makes, and the .proto agrees with the standard."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

import stubs

# In a process of its own: one process cannot import two modules that define the same messages.
PRINT_THEIRS = """
import sys
from tritonclient.grpc import service_pb2
sys.stdout.buffer.write(service_pb2.DESCRIPTOR.serialized_pb)
"""


@pytest.mark.parametrize("name", stubs.STUBS)
def test_the_committed_code_is_what_the_compiler_makes_of_the_proto(name, tmp_path):
    stubs.generate(tmp_path)
    committed = stubs.PROTO.with_name(name).read_text(encoding="utf-8")
    assert committed == (tmp_path / name).read_text(encoding="utf-8"), "run `python tests/stubs.py`"


def test_a_proto_that_the_compiler_refuses_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "broken.proto").write_text("this is no proto")
    monkeypatch.setattr(stubs, "PROTO", tmp_path / "broken.proto")
    with pytest.raises(RuntimeError, match="the compiler has refused the .proto"):
        stubs.generate(tmp_path)


def test_every_method_and_every_field_is_as_a_client_of_the_standard_knows_it(tmp_path):
    described = tmp_path / "described"
    arguments = ["protoc", f"--proto_path={stubs.PROTO.parent}", f"--descriptor_set_out={described}", stubs.PROTO.name]
    assert protoc.main(arguments) == 0
    (ours,) = FileDescriptorSet.FromString(described.read_bytes()).file
    printed = subprocess.run([sys.executable, "-c", PRINT_THEIRS], stdout=subprocess.PIPE, check=True, timeout=120)
    theirs = FileDescriptorProto.FromString(printed.stdout)

    assert (ours.package, ours.service[0].name) == (theirs.package, theirs.service[0].name)
    assert {"ServerLive", "ModelInfer"} < {name for name, *_ in methods(ours)}
    assert set(methods(ours)) <= set(methods(theirs))
    messages = {message.name for message in ours.message_type}
    assert set(fields(ours.message_type)) == set(
        fields(message for message in theirs.message_type if message.name in messages)
    )


def methods(file: FileDescriptorProto) -> Iterator[tuple]:
    for method in file.service[0].method:
        yield method.name, method.input_type, method.output_type, method.server_streaming


def fields(messages: list[DescriptorProto], inside: str = "") -> Iterator[tuple]:
    for message in messages:
        path = f"{inside}.{message.name}"
        for field in message.field:
            yield (
                path,
                field.name,
                field.number,
                field.type,
                field.type_name,
                field.label,
                field.HasField("oneof_index"),
            )
        yield from fields(message.nested_type, path)
