"""Run by etcd3's own Python: tells how etcd3 describes etcd's API, or works on a real etcd beside us.

etcd3_client.py describe             the description as JSON
etcd3_client.py increment PORT       adds one to a number a hundred times, comparing with what it read
etcd3_client.py tell PORT PREFIX     writes, replaces and removes keys, and says what lies under the prefix
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

TIMES = 100
COUNTER = "/counted/number"


def describe(files: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Return the messages, enumerations and calls of descriptors of *files*, by names without their package."""
    told: dict[str, dict[str, Any]] = {"messages": {}, "enums": {}, "calls": {}}
    for file in files:
        proto = _proto(file)
        _add_enums(told, proto.enum_type, "")
        _add_messages(told, proto.message_type, "")
        for service in proto.service:
            for call in service.method:
                told["calls"][f"/{proto.package}.{service.name}/{call.name}"] = [
                    _bare(call.input_type),
                    _bare(call.output_type),
                    call.client_streaming,
                    call.server_streaming,
                ]
    return told


def _proto(file: Any) -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


def _add_messages(told: dict[str, dict[str, Any]], messages: Iterable[Any], outside: str) -> None:
    for message in messages:
        name = outside + message.name
        told["messages"][name] = {
            field.name: {
                "number": field.number,
                "type": field.type,
                "of": _bare(field.type_name),
                "label": field.label,
                "one of": message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
            }
            for field in message.field
        }
        _add_enums(told, message.enum_type, f"{name}.")
        _add_messages(told, message.nested_type, f"{name}.")


def _add_enums(told: dict[str, dict[str, Any]], enums: Iterable[Any], outside: str) -> None:
    for enum in enums:
        told["enums"][outside + enum.name] = {value.name: value.number for value in enum.value}


def _bare(name: str) -> str:
    """Return a full name without its package; the names of packages begin small."""
    return ".".join(part for part in name.split(".") if part[:1].isupper())


def increment(client: Any) -> int:
    """Add one to the number so many times, and return how often somebody else was faster."""
    lost = 0
    for _ in range(TIMES):
        while True:
            value, _meta = client.get(COUNTER)
            if client.replace(COUNTER, value, str(int(value) + 1)):
                break
            lost += 1
    return lost


def tell(client: Any, prefix: str) -> dict[str, Any]:
    """Make, replace and remove keys as a user of etcd3 does, and return what was there before and is there now."""
    before = {meta.key.decode(): [value.decode(), meta.mod_revision] for value, meta in client.get_prefix(prefix)}
    made = [client.put_if_not_exists(f"{prefix}new", "made by etcd3"), client.put_if_not_exists(f"{prefix}ours", "")]
    client.put(f"{prefix}theirs", "changed by etcd3")
    client.delete(f"{prefix}gone")
    after = {meta.key.decode(): [value.decode(), meta.mod_revision] for value, meta in client.get_prefix(prefix)}
    return {"before": before, "made": made, "after": after}


def main() -> None:
    """Do what the command line says, and print it as JSON."""
    import etcd3
    from etcd3.etcdrpc import auth_pb2, kv_pb2, rpc_pb2

    verb, *arguments = sys.argv[1:]
    if verb == "describe":
        print(json.dumps(describe(module.DESCRIPTOR for module in (auth_pb2, kv_pb2, rpc_pb2))))
        return
    client = etcd3.client(host="127.0.0.1", port=int(arguments[0]))
    print(json.dumps(increment(client) if verb == "increment" else tell(client, arguments[1])))


if __name__ == "__main__":
    main()
