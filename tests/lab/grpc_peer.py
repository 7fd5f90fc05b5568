"""A gRPC service of bytes without generated code: `server PORT KEY CERT`, or `client TARGET CA` that tries it.

Run with the interpreter that has grpcio. The client writes what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

UNARY, BIDI, FAIL, SLOW = (f"/lab.Lab/{name}" for name in ("Unary", "Bidi", "Fail", "Slow"))


class Service(grpc.GenericRpcHandler):
    def service(self, call: Any) -> Any:
        if call.method == UNARY:
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if call.method == BIDI:
            return grpc.stream_stream_rpc_method_handler(self.bidi)
        if call.method == FAIL:
            return grpc.unary_unary_rpc_method_handler(self.fail)
        if call.method == SLOW:
            return grpc.unary_stream_rpc_method_handler(self.slow)
        return None

    def unary(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-trailing", "yes"),))
        return request[::-1]

    def bidi(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield b"re: " + request

    def fail(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        return b""

    def slow(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        while context.is_active():
            time.sleep(0.02)


def serve(port: str, key: str, cert: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((Service(),))
    pair = Path(key).read_bytes(), Path(cert).read_bytes()
    server.add_secure_port(f"[::]:{port}", grpc.ssl_server_credentials((pair,)))
    server.start()
    server.wait_for_termination()


def try_it(target: str, ca: str) -> dict[str, object]:
    seen: dict[str, object] = {}
    credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    with grpc.secure_channel(target, credentials, (("grpc.enable_http_proxy", 0),)) as channel:
        answer, call = channel.unary_unary(UNARY).with_call(b"abc" * 1000, timeout=10)
        seen["unary"] = answer == b"cba" * 1000
        seen["trailing"] = dict(call.trailing_metadata()).get("x-trailing")

        turn = threading.Semaphore(1)  # the next message goes only when the last was answered

        def asked() -> Iterator[bytes]:
            for n in range(20):
                turn.acquire()
                yield b"%d" % n

        answers = []
        for answer in channel.stream_stream(BIDI)(asked(), timeout=10):
            answers.append(answer.decode())
            turn.release()
        seen["bidi"] = answers == [f"re: {n}" for n in range(20)]

        try:
            channel.unary_unary(FAIL)(b"", timeout=10)
        except grpc.RpcError as e:
            seen["fail"] = [e.code().name, e.details()]
        slow = channel.unary_stream(SLOW)(b"", timeout=10)
        seen["slow"] = next(slow).decode()
        slow.cancel()
        try:
            for _ in channel.unary_stream(SLOW)(b"", timeout=0.5):
                pass
        except grpc.RpcError as e:
            seen["deadline"] = e.code().name
        calls = [channel.unary_unary(UNARY).future(b"%d" % n, timeout=10) for n in range(50)]
        seen["many"] = all(call.result() == str(n).encode()[::-1] for n, call in enumerate(calls))
    return seen


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(*sys.argv[2:5])
    else:
        print(json.dumps(try_it(*sys.argv[2:4])))
