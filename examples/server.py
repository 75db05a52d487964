"""A server of speaking heads for asyncio: sound in and frames out over TCP, one session a client.

    python examples/server.py                               serves on 127.0.0.1:8765
    python examples/server.py --send examples/hello.wav     a client of it

All clients share one renderer. Frames leave when they are due, so that one client's long speech
does not take the cores from the others, and an interruption is felt at once. Little-endian:

    to the server:  kind [1 byte], size [u32], payload
                    "S" sound, int16 at 16 kHz, mono; "E" end of the speech; "I" drop all that waits
    from it:        width [u16], height [u16], then for each frame
                    index [u32], pts [f64], image size [u32], sound size [u32], RGB pixels, int16

An interruption is read after the sound sent before it: a client stays less than 10 s ahead.
It is a skeleton: no encryption, no names, and raw pixels, which only a local network carries.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import gt_infer
from gt_infer.audio import stream_mono16k

MESSAGE = struct.Struct("<cI")
HELLO = struct.Struct("<HH")
FRAME = struct.Struct("<IdII")
MAX_CLIENTS = 16
MAX_PAYLOAD = 1 << 20  # bytes: 32 s of sound
BACKLOG = 250  # frames that may wait; beyond, the client is not read from, and TCP slows it down


class Client:
    """One connection: `listen` takes sound in, `send` gives frames out."""

    def __init__(
        self,
        renderer: gt_infer.Renderer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._session = renderer.session(max_unread=BACKLOG + MAX_PAYLOAD // 1280 + 1)
        self._pacer = gt_infer.Pacer()
        self._has_sound = asyncio.Event()
        self._is_ended = False

    async def listen(self) -> None:
        """Until the client goes away."""
        while True:
            kind, size = MESSAGE.unpack(await self._reader.readexactly(MESSAGE.size))
            if kind not in b"SEI" or size > MAX_PAYLOAD or size % 2:
                raise ValueError(f"not a message: {kind!r} of {size} bytes")
            payload = await self._reader.readexactly(size)
            if kind == b"S":
                await self._room(0 if self._is_ended else BACKLOG)
                self._is_ended = False
                self._session.push(np.frombuffer(payload, "<i2"))
                self._has_sound.set()
            elif kind == b"E":
                self._session.flush()
                self._is_ended = True
            else:
                self._session.interrupt()
                self._pacer.restart()
                self._is_ended = False

    async def _room(self, frames: int) -> None:
        """Waits until at most so many frames wait to be sent."""
        while self._session.unread > frames:
            await asyncio.sleep(0.02)

    async def send(self) -> None:
        while True:
            await self._has_sound.wait()
            self._has_sound.clear()
            self._pacer.restart()  # after a silence
            async for frame in self._session:  # to the end of a speech
                await self._pacer.wait_async(frame.pts)
                image, sound = frame.image.data.cast("B"), frame.sound.data.cast("B")
                self._writer.write(FRAME.pack(frame.index, frame.pts, len(image), len(sound)))
                self._writer.write(image)
                self._writer.write(sound)
                await self._writer.drain()


class Server:
    """Handles clients; `asyncio.start_server(Server(renderer).handle, ...)`."""

    def __init__(self, renderer: gt_infer.Renderer) -> None:
        self._renderer = renderer
        self._clients = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= MAX_CLIENTS:
            writer.close()
            return
        self._clients += 1
        try:
            writer.write(HELLO.pack(self._renderer.width, self._renderer.height))
            client = Client(self._renderer, reader, writer)
            tasks = [asyncio.create_task(client.listen()), asyncio.create_task(client.send())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for task in tasks:
                    task.cancel()
            for task in done:
                error = task.exception()
                if not isinstance(error, asyncio.IncompleteReadError | ConnectionError):
                    print(f"a client was sent away: {error}")
        except asyncio.CancelledError:
            pass  # the server ends, and this task with it
        finally:
            self._clients -= 1
            writer.close()


async def serve(avatar: str, host: str, port: int) -> None:
    with gt_infer.Renderer(avatar) as renderer:
        server = await asyncio.start_server(Server(renderer).handle, host, port)
        port = server.sockets[0].getsockname()[1]  # 0: any that is free
        print(f"serving {renderer.avatar.name} on {host}:{port}", flush=True)
        async with server:
            await server.serve_forever()


# The client.


async def receive(
    reader: asyncio.StreamReader,
) -> AsyncIterator[tuple[int, float, npt.NDArray[np.uint8], npt.NDArray[np.int16]]]:
    """Frames: index, pts, image [H, W, 3], sound."""
    width, height = HELLO.unpack(await reader.readexactly(HELLO.size))
    while True:
        index, pts, image_size, sound_size = FRAME.unpack(await reader.readexactly(FRAME.size))
        image = np.frombuffer(await reader.readexactly(image_size), np.uint8)
        sound = np.frombuffer(await reader.readexactly(sound_size), "<i2")
        yield index, pts, image.reshape(height, width, 3), sound


async def send_file(path: Path, host: str, port: int) -> int:
    """Speaks a file and gives the number of frames that came back. An app would show each when its
    sound is heard, and keep a few in hand against the network's jitter."""
    reader, writer = await asyncio.open_connection(host, port)
    frames = samples = 0
    for block in stream_mono16k(path):
        payload = (np.clip(block, -1, 1) * 32767).astype("<i2").tobytes()
        writer.write(MESSAGE.pack(b"S", len(payload)) + payload)
        samples += len(block)
    writer.write(MESSAGE.pack(b"E", 0))
    async for _index, _pts, _image, _sound in receive(reader):
        frames += 1
        if frames == -(-samples // 640):
            break
    writer.close()
    print(f"{frames} frames of {samples / 16_000:.2f} s of sound")
    return frames


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--avatar", default="demo")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--send", type=Path, metavar="SOUND", help="be a client that says this")
    arguments = parser.parse_args(argv)
    try:
        if arguments.send:
            asyncio.run(send_file(arguments.send, arguments.host, arguments.port))
        else:
            asyncio.run(serve(arguments.avatar, arguments.host, arguments.port))
    except KeyboardInterrupt:
        pass
    except asyncio.IncompleteReadError:
        raise SystemExit("error: the server hung up") from None
    except (gt_infer.GtError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
