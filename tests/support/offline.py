"""A W&B run that was written offline, read back from its file.

The file is a LevelDB log: behind a header of 7 bytes, blocks of 32 KiB with pieces of records. A piece has a checksum
(4 bytes), its length (2) and its kind (1: a record whole, or the first, a middle or the last part of one).
"""

import json
import struct
import time

_BLOCK, _HEADER = 32768, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(folder, timeout=60.0):
    """Every record of the one run below a folder, once it is there whole: ``wandb.finish()`` does not wait for it."""
    (file,) = folder.rglob("run-*.wandb")
    started = time.monotonic()
    while True:
        found = _parsed(file.read_bytes())
        if found and any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() - started < timeout, f"{file} was not ended"
        time.sleep(0.1)


def _parsed(data):
    """The records that a file holds so far."""
    from wandb.proto import wandb_internal_pb2

    assert data[:4] in (b"", b":W&B")
    found, parts, place = [], b"", _HEADER
    while place + _HEADER <= len(data):
        room = _BLOCK - place % _BLOCK
        if room < _HEADER:
            place += room  # filled up
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + _HEADER])
        if place + _HEADER + length > len(data):
            break  # still being written
        assert kind in (_WHOLE, _FIRST, _MIDDLE, _LAST)
        parts += data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (_WHOLE, _LAST):
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def rows(records):
    """What was logged, one dictionary a call."""
    logged = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    return [{_name(item): json.loads(item.value_json) for item in row.item} for row in logged]


def history(records):
    """Every value that was logged, under its key; the last of each."""
    return {name: value for row in rows(records) for name, value in row.items()}


def config(records):
    """The run's config."""
    kinds = [record.run.config if record.WhichOneof("record_type") == "run" else record.config for record in records]
    return {_name(item): json.loads(item.value_json) for kind in kinds for item in kind.update}


def artifacts(records):
    """Every artifact as (type, name, paths of its files)."""
    found = [record.request.log_artifact.artifact for record in records if record.request.HasField("log_artifact")]
    found += [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    return [(a.type, a.name, [entry.path for entry in a.manifest.contents]) for a in found]


def _name(item):
    return item.key or "/".join(item.nested_key)
