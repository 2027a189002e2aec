"""An HTTP proxy on loopback that misbehaves on purpose, between a client of S3 and the real server.

Whether a request is spoilt, and how, is a hash of (seed, its number), so a schedule can be repeated. Requests pass
unchanged, their Host header included, since it is part of what an S3 client signs.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

READ_FAULTS = ("slow_down", "reset", "cut", "reset_in_body", "truncated", "flipped", "stall", "stall_in_body")
WRITE_FAULTS = ("slow_down", "reset", "cut_request", "refused")
STALL_S = 60.0  # longer than any client of a test waits
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Message(NamedTuple):
    """An HTTP request or reply: first line, header lines, body."""

    start: bytes
    headers: list[bytes]
    body: bytes

    def bytes(self) -> bytes:
        return b"\r\n".join([self.start, *self.headers, b"", self.body])

    def header(self, name: bytes) -> bytes | None:
        found = [line.partition(b":")[2].strip() for line in self.headers if line.lower().startswith(name + b":")]
        return found[0] if found else None


@dataclass
class Schedule:
    """Which requests are spoilt: `share` of them, each with one of `faults`."""

    faults: Sequence[str] = ()
    share: float = 0.05
    seed: int = 0
    only: Callable[[str], bool] = lambda target: True  # of the requests' paths
    number: int = field(default=0, init=False)

    def fault(self, method: str, target: str) -> str:
        """Of the next request; "" for none. Faults of bodies do not fit requests that have none in their reply."""
        possible = [name for name in self.faults if method == "GET" or name in WRITE_FAULTS]
        if not possible or not self.only(target):
            return ""
        self.number += 1
        draw = int.from_bytes(hashlib.sha256(f"{self.seed} {self.number}".encode()).digest()[:8], "big")
        if draw % 10_000 >= self.share * 10_000:
            return ""
        return possible[draw // 10_000 % len(possible)]


class FaultyProxy:
    """Use it as a context manager; `schedule` may be replaced at any time."""

    def __init__(self, server_port: int, schedule: Schedule | None = None) -> None:
        self.schedule = schedule or Schedule()
        self.requests: list[tuple[str, str]] = []  # (method, path with query), in the order of their arrival
        self.spoilt: list[tuple[str, str]] = []  # (fault, path with query)
        self.port = 0
        self._server_port = server_port
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def use(self, schedule: Schedule) -> None:
        """Follow another schedule, and count from nought."""
        self.schedule = schedule
        self.requests.clear()
        self.spoilt.clear()

    async def _listen(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, with a connection of its own to the server."""
        upstream = await asyncio.open_connection("127.0.0.1", self._server_port, limit=2**26)
        try:
            while True:
                request = await _read_message(reader, writer)
                method, target, _ = request.start.decode().split(" ", 2)
                self.requests.append((method, target))
                fault = self.schedule.fault(method, target)
                if fault:
                    self.spoilt.append((fault, target))
                if fault == "refused":
                    _reset(writer)
                    return
                if fault == "cut_request":
                    await self._cut(upstream[1], request)
                    _reset(writer)
                    return
                if fault == "slow_down":
                    await _send(writer, Message(b"HTTP/1.1 503 Slow Down", _length(SLOW_DOWN), SLOW_DOWN).bytes())
                    continue
                upstream[1].write(request.bytes())
                reply = await _read_message(upstream[0], None, is_for_head=method == "HEAD")
                await self._answer(writer, reply, fault)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or was sent away; or the proxy ends
        finally:
            upstream[1].close()
            writer.close()

    async def _cut(self, upstream: asyncio.StreamWriter, request: Message) -> None:
        """The server gets half of the body, and then a reset."""
        await _send(upstream, request.bytes()[: -(len(request.body) // 2) or None])
        _reset(upstream)

    async def _answer(self, writer: asyncio.StreamWriter, reply: Message, fault: str) -> None:
        data, body = reply.bytes(), reply.body
        half = len(data) - len(body) + len(body) // 2
        if fault == "reset":
            _reset(writer)
        elif fault == "cut":
            await _send(writer, data[:half])
            writer.close()
        elif fault == "reset_in_body":
            await _send(writer, data[:half])
            _reset(writer)
        elif fault in ("stall", "stall_in_body"):
            await _send(writer, data[:half] if fault == "stall_in_body" else b"")
            await asyncio.sleep(STALL_S)
        elif fault == "truncated" and body:
            kept = body[: len(body) - 1 - len(self.spoilt) * 7 % len(body)]  # never twice the same length
            others = [line for line in reply.headers if not line.lower().startswith(b"content-length:")]
            await _send(writer, Message(reply.start, [*others, *_length(kept)], kept).bytes())
        elif fault == "flipped" and body:
            place = len(self.spoilt) * 7919 % len(body)
            changed = body[:place] + bytes([body[place] ^ 0x10]) + body[place + 1 :]
            await _send(writer, reply._replace(body=changed).bytes())
        else:
            await _send(writer, data)
        if writer.is_closing():
            raise ConnectionError


async def _read_message(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, is_for_head: bool = False
) -> Message:
    """A whole request (with the writer, to say that its body may come) or reply."""
    start, *headers = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n").split(b"\r\n")
    message = Message(start, headers, b"")
    if writer and (message.header(b"expect") or b"").lower() == b"100-continue":
        await _send(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
        message = Message(start, [line for line in headers if not line.lower().startswith(b"expect:")], b"")
    if is_for_head:
        return message
    if (message.header(b"transfer-encoding") or b"").lower() == b"chunked":
        body = await _read_chunks(reader)
        others = [line for line in message.headers if not line.lower().startswith(b"transfer-encoding:")]
        return Message(start, [*others, *_length(body)], body)
    return message._replace(body=await reader.readexactly(int(message.header(b"content-length") or 0)))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _length(body: bytes) -> list[bytes]:
    return [b"Content-Length: %d" % len(body)]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset instead of a farewell."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


def main() -> None:
    """`python tests/faulty_proxy.py SERVER_PORT SHARE`: all faults, in a process of its own; prints its port."""
    with FaultyProxy(int(sys.argv[1]), Schedule(READ_FAULTS, float(sys.argv[2]))) as proxy:
        print(proxy.port, flush=True)
        sys.stdin.read()
        print(len(proxy.requests), len(proxy.spoilt), flush=True)


if __name__ == "__main__":
    main()
