"""Seeded damage to bytes and to nested values."""

import copy
import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import yaml

DEEP = "@deep@"  # becomes thousands of nested lists in the text
HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.5, 1e-300, 1e300, math.nan, math.inf,
    "", "x", "none", "0", "-1", "nan", "../..", "/etc/passwd", "é\u202e", "a" * 5000, "{}", "[", "!!python/none",
    [], [[]], [None], [1, 2, 3], ["x"], {}, {"x": 1}, {"class_path": "os.system"}, {"": None},
]  # fmt: skip


def damage(rng: Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes with one to four damages: flipped bits, cuts, gaps, doubled, moved or foreign parts."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(data)
        start = rng.randrange(min(size, 64) if rng.random() < 0.3 else size) if size else 0
        stop = min(size, start + rng.choice((1, 2, 4, 16, 64, max(1, size // 4))))
        kind = rng.randrange(10)
        if kind <= 2 and size:
            for _ in range(rng.choice((1, 1, 8, 64))):
                data[rng.randrange(size)] ^= 1 << rng.randrange(8)
        elif kind == 3:
            del data[start:]
        elif kind == 4:
            del data[start:stop]
        elif kind == 5:
            data[start:start] = data[start:stop]
        elif kind == 6:
            data[start:stop] = bytes([rng.choice((0, 0xFF, 0x80, 0x7F))]) * (stop - start)
        elif kind == 7:
            data[start:stop] = rng.randbytes(stop - start)
        elif kind == 8 and others:
            other = rng.choice(others)
            data[start:] = other[rng.randrange(len(other) + 1) :]
        else:
            number = rng.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
            data[start : start + 4] = number.to_bytes(4, rng.choice(("big", "little")))
    return bytes(data)


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG file as (type, data)."""
    found, at = [], 8
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_file(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG file of chunks, with right checksums, so that damage gets past them."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def damage_value(rng: Random, value: Any) -> Any:
    """Return a copy of nested mappings and lists with one to three entries replaced, removed, renamed or doubled."""
    root = {"": copy.deepcopy(value)}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(root, []) or [[""]]
        root.setdefault("", None)
        # Half of the time near the top, where fewer entries are.
        depth = min(len(path) for path in places) + rng.randrange(4)
        path = rng.choice([path for path in places if len(path) <= depth] or places)
        parent = root
        for key in path[:-1]:
            parent = parent[key]
        _change(rng, parent, path[-1])
    return root.get("", rng.choice(HOSTILE))


def _places(value: Any, path: list[Any]) -> list[list[Any]]:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [path] if path else []
    for key in list(keys)[:200]:
        found += _places(value[key], [*path, key])
    return found


def _change(rng: Random, parent: Any, key: Any) -> None:
    kind = rng.randrange(12)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = [parent[key]]
    elif kind == 2:
        parent[key] = {str(rng.randrange(3)): parent[key]}
    elif kind == 3:
        parent[key] = str(parent[key])
    elif kind == 4 and isinstance(parent, dict):
        parent[rng.choice((f"{key}x", "", "__class__", 7))] = parent.pop(key)
    elif kind == 5 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == 6 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        change: Callable[[float], Any] = rng.choice((lambda v: -v, lambda v: v * 1000, lambda v: v + 0.5, str, bool))
        parent[key] = change(parent[key])
    elif kind == 7 and rng.random() < 0.2:
        parent[key] = DEEP
    else:
        parent[key] = rng.choice(HOSTILE)


def as_json(value: Any) -> str:
    """Return a value as JSON, with its deep parts."""
    return json.dumps(value, default=str).replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000)


def as_yaml(value: Any) -> str:
    """Return a value as YAML, with its deep parts."""
    return yaml.safe_dump(value, sort_keys=False).replace(f"'{DEEP}'", "[" * 5000 + "]" * 5000)
