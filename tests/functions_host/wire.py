"""The messages of the Functions host's protocol that its Python worker library works with, as plain values.

Field names are those of FunctionRpc.proto (Azure/azure-functions-language-worker-protobuf). The host and the worker's
outer shell exchange them over gRPC; the library behind, which indexes and calls functions, only reads and makes them.
"""

from __future__ import annotations

from typing import Any


class Message:
    """Any message: named fields, and a ``oneof`` called ``data``."""

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        self.__dict__.update(fields)
        self.fields = fields
        self.arguments = arguments

    def WhichOneof(self, group: str) -> str | None:
        """The field of the ``oneof`` that is set: an input's is always ``data``, a value's its only field."""
        return "data" if group == "rpc_data" else next(iter(self.fields), None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name[0].isupper():  # no field of the protocol is spelt so
            raise AttributeError(name)
        return None


class StatusResult(Message):
    Failure = 0
    Success = 1


class BindingInfo(Message):
    out = 1
    inout = 2
    undefined = 0


setattr(BindingInfo, "in", 0)


class Protos:
    """What the shell hands to the library: the protocol's message classes by name."""

    StatusResult = StatusResult
    BindingInfo = BindingInfo

    def __getattr__(self, name: str) -> Any:
        return Message


def request(**parts: Any) -> Message:
    """A request of the host with the properties that the shell adds."""
    return Message(request=Message(**parts), properties={"host": "127.0.0.1", "protos": Protos()})


def invocation(function_id: str, name: str, data: Message, metadata: dict[str, Message] | None = None) -> Message:
    """An invocation of a function with one input."""
    context = Message(trace_parent="", trace_state="", attributes={}, retry_context=Message())
    return request(
        invocation_request=Message(
            invocation_id="invocation-1",
            function_id=function_id,
            input_data=[Message(name=name, data=data)],
            trigger_metadata=metadata or {},
            trace_context=context,
            retry_context=Message(retry_count=0, max_retry_count=0, exception=None),
        )
    )
