"""Ways to damage a file: bytes of any kind, and containers whose checksums and lengths still fit,
so that the damage reaches what is inside. All randomness comes from the `Random` passed in."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

INTEGERS = (
    0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
    0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF,
)  # fmt: skip
# As text, where a file writes its numbers so.
NUMERALS = (
    b"0", b"-1", b"1", b"2", b"3", b"16", b"17", b"255", b"65536", b"2147483648", b"4294967296",
    b"9223372036854775808", b"99999999999999999999999999", b"1e308", b"1e309", b"-1e39", b"1e-320",
    b"nan", b"NaN", b"inf", b"-Infinity", b"0.5", b"0x10", b"1_000", b"\xc2\xb2", b"",
)  # fmt: skip
FLOATS = (0.0, -0.0, 1e-45, 1e-30, 80.5, -81.0, 1e8, 3.4e38, -3.4e38, float("inf"), float("nan"))
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 512, 1 << 31, 1 << 53, 1 << 64, 10**400, 0.0, 0.5, -1.5,
    1e-320, 1e20, 1e308, "", "fp16", "x" * 70, "\x00\x1b[31m", "\ud800", [], {}, [[]], [0, 1, 2],
)  # fmt: skip


def anything(data: bytes, rng: Random) -> bytes:
    """One to four wounds, of sizes from a bit to half the file, half of them near its start."""
    wounded = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        _wound(wounded, rng)
    return bytes(wounded)


def near_start(size: int) -> Mutation:
    """Damage within the first `size` bytes alone: headers without a length of their own."""

    def mutate(data: bytes, rng: Random) -> bytes:
        return anything(data[:size], rng) + data[size:]

    return mutate


def numerals(data: bytes, rng: Random) -> bytes:
    """Replaces some numbers of a text."""
    found = [match.span() for match in re.finditer(rb"-?\d+(\.\d+)?", data[:20_000])]
    for start, stop in sorted(rng.sample(found, min(len(found), rng.randint(1, 3))), reverse=True):
        data = data[:start] + rng.choice(NUMERALS) + data[stop:]
    return data


def lines(data: bytes, rng: Random) -> bytes:
    """Drops, doubles, swaps or joins lines of a text."""
    parts = data.split(b"\n")
    for _ in range(rng.randint(1, 3)):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        kind = rng.randrange(4)
        if kind == 0 and len(parts) > 1:
            del parts[at]
        elif kind == 1:
            parts.insert(other, parts[at])
        elif kind == 2:
            parts[at], parts[other] = parts[other], parts[at]
        else:
            parts[at] += parts[other]
    return b"\n".join(parts)


def floats(data: bytes, rng: Random) -> bytes:
    """Replaces a few aligned float32 values, or many."""
    wounded = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 50))):
        at = 4 * rng.randrange(len(data) // 4)
        value = rng.choice(FLOATS) if rng.random() < 0.5 else rng.uniform(-100, 100)
        struct.pack_into("<f", wounded, at, value)
    return bytes(wounded)


def tree(value: Any, rng: Random) -> Any:
    """A JSON value with one to three of its parts replaced, removed, doubled or renamed."""
    root = [value]
    for _ in range(rng.randint(1, 3)):
        places = list(_places(root))
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0 and holder is not root:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice((f"{key}2", "", "version", "\x1b", 'a"b'))] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder.insert(key, rng.choice(places)[1])
        else:
            holder[key] = rng.choice(VALUES)
    return root[0]


def json_text(data: bytes, rng: Random) -> bytes:
    return json.dumps(tree(json.loads(data), rng)).encode("utf-8", "surrogatepass")


def safetensors(data: bytes, rng: Random) -> bytes:
    """Another header, or another manifest inside it, with its length right."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header["__metadata__"]
    kind = rng.randrange(10)
    if kind < 5:
        manifest = tree(json.loads(metadata["gt_avatar"]), rng)
        metadata["gt_avatar"] = json.dumps(manifest)
    elif kind < 6:
        text = metadata["gt_avatar"].encode()
        metadata["gt_avatar"] = anything(text, rng).decode("latin-1")
    elif kind < 8:
        names = [name for name in header if name != "__metadata__"]
        one, other = rng.choice(names), rng.choice(names)
        if rng.random() < 0.5:
            header[one], header[other] = header[other], header[one]
        else:
            header[one] = tree(header[one], rng)
    else:
        header = tree(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def zipped(data: bytes, rng: Random) -> bytes:
    """One entry of a zip damaged, with the archive's sizes and checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(entries))
    if rng.random() < 0.5:  # the pickle is the smallest part, and the one that is interpreted
        at = next(i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
    kind = rng.randrange(10)
    name, content = entries[at]
    if kind == 0:
        del entries[at]
    elif kind == 1:
        entries[at] = (rng.choice((f"{name}x", "../x", "data.pkl", entries[-1][0])), content)
    else:
        entries[at] = (name, (anything if kind < 8 else numerals)(content, rng))
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def png(data: bytes, rng: Random) -> bytes:
    """Chunks of a PNG damaged, doubled or dropped; lengths and checksums right."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(chunks))
        kind, content = chunks[at]
        choice = rng.randrange(8)
        if choice == 0:
            del chunks[at]
        elif choice == 1:
            chunks.insert(rng.randrange(len(chunks)), chunks[at])
        elif choice < 5:
            header = bytearray(chunks[0][1])
            if len(header) == 13:
                field = rng.choice((0, 4))
                if rng.random() < 0.7:
                    struct.pack_into(">I", header, field, rng.choice(INTEGERS) & 0xFFFFFFFF)
                else:
                    header[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
                chunks[0] = (chunks[0][0], bytes(header))
        else:
            chunks[at] = (kind, anything(content, rng))
        if not chunks:
            break
    body = b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return data[:8] + body


def _wound(data: bytearray, rng: Random) -> None:
    size = len(data)
    if size == 0:
        data += rng.randbytes(rng.randint(0, 16))
        return
    at = rng.randrange(min(size, 256) if rng.random() < 0.5 else size)
    length = 1 + min(size - at - 1, int(rng.expovariate(1 / rng.choice((2, 16, size / 4)))))
    kind = rng.randrange(10)
    if kind < 2:
        data[at] ^= 1 << rng.randrange(8)
    elif kind < 3:
        data[at : at + length] = rng.randbytes(length)
    elif kind < 5:
        width = rng.choice((1, 2, 4, 8))
        value = rng.choice(INTEGERS) & ((1 << 8 * width) - 1)
        data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    elif kind < 6:
        del data[at:]
    elif kind < 7:
        del data[at : at + length]
    elif kind < 8:
        data[at:at] = data[at : at + length]
    elif kind < 9:
        other = rng.randrange(size)
        data[at : at + length] = data[other : other + length]
    else:
        data[at : at + length] = bytes((rng.choice((0, 0xFF, 0x20, 0x28, 0x5B)),)) * length


def _places(node: Any) -> Any:
    """Every (holder, key) below a JSON value."""
    if isinstance(node, dict):
        items = list(node.items())
    elif isinstance(node, list):
        items = list(enumerate(node))
    else:
        return
    for key, child in items:
        yield node, key
        yield from _places(child)
