"""Puts, gets, reads ranges and deletes, with nothing but grpcio and the repository's .proto files.

Usage: client.py REPOSITORY HOST:PORT. Exits with 0 if every answer is what it must be.
"""

import os
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc


def compile_protos(repository, out):
    """Generates the Python side of the public interface."""
    proto = pathlib.Path(repository) / "proto"
    files = [str(path) for path in sorted((proto / "rangedb" / "v1").glob("*.proto"))]
    arguments = ["protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(arguments + files) != 0:
        sys.exit("the .proto files do not compile")
    sys.path.insert(0, out)


def main(repository, address):
    generated = tempfile.TemporaryDirectory()
    compile_protos(repository, generated.name)
    from rangedb.v1 import errors_pb2, key_value_pb2, key_value_pb2_grpc

    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(timeout=30)
    service = key_value_pb2_grpc.KeyValueStub(channel)
    prefix = f"python/{os.getpid()}/".encode()
    keys = [prefix + b"%02d" % number for number in range(20)]

    versions = []
    for key in keys:
        put = key_value_pb2.PutRequest(key=key, value=b"value of " + key)
        versions.append(service.Put(put, timeout=10).version)
    assert versions == sorted(set(versions)), "versions grow"

    got = service.Get(key_value_pb2.GetRequest(key=keys[3]), timeout=10)
    assert got.found and got.value == b"value of " + keys[3] and got.version == versions[3], got
    absent = service.Get(key_value_pb2.GetRequest(key=prefix + b"absent"), timeout=10)
    assert not absent.found, absent

    end = prefix[:-1] + b"0"
    read = key_value_pb2.RangeRequest(start=prefix, end=end)
    entries = [entry for page in service.Range(read, timeout=10) for entry in page.entries]
    assert [entry.key for entry in entries] == keys, entries
    backwards = key_value_pb2.RangeRequest(start=prefix, end=end, reverse=True, limit=5)
    entries = [entry for page in service.Range(backwards, timeout=10) for entry in page.entries]
    assert [entry.key for entry in entries] == keys[:-6:-1], entries

    condition = key_value_pb2.Condition(absent=key_value_pb2.Condition.Absent())
    taken = key_value_pb2.PutRequest(key=keys[0], value=b"x", condition=condition)
    try:
        service.Put(taken, timeout=10)
        sys.exit("a condition that does not hold was ignored")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert errors_pb2.ErrorDetail.DESCRIPTOR.full_name.encode() in details, "a typed detail"

    for key in keys:
        service.Delete(key_value_pb2.DeleteRequest(key=key), timeout=10)
    entries = [entry for page in service.Range(read, timeout=10) for entry in page.entries]
    assert not entries, entries
    print(f"python: put, get, range, conditions and delete work at {address}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
