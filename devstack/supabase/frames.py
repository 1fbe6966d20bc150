"""Realtime's frames: JSON objects (vsn 1.0.0), JSON arrays (2.0.0), binary broadcasts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

BROADCAST_PUSH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One message; `raw` is a payload that is JSON text already."""

    topic: str
    event: str
    payload: dict[str, object] = field(default_factory=dict)
    ref: str | None = None
    join_ref: str | None = None
    raw: str | None = None

    def encode(self, version: str) -> str:
        payload = self.raw if self.raw is not None else json.dumps(self.payload)
        topic, event, ref = json.dumps(self.topic), json.dumps(self.event), json.dumps(self.ref)
        if version.startswith("2"):
            return f"[{json.dumps(self.join_ref)}, {ref}, {topic}, {event}, {payload}]"
        return f'{{"event": {event}, "payload": {payload}, "ref": {ref}, "topic": {topic}}}'


def decode(data: str | bytes, version: str) -> Frame:
    """Parse a client's frame; raise ValueError if it is invalid."""
    if isinstance(data, bytes):
        return _decode_broadcast(data)
    message = json.loads(data)
    if version.startswith("2"):
        if not (isinstance(message, list) and len(message) == 5):
            raise ValueError("a frame of version 2 is an array of five")
        join_ref, ref, topic, event, payload = message
    elif isinstance(message, dict):
        join_ref, ref = message.get("join_ref"), message.get("ref")
        topic, event, payload = message.get("topic"), message.get("event"), message.get("payload")
    else:
        raise ValueError("a frame of version 1 is an object")
    return Frame(
        topic=str(topic),
        event=str(event),
        payload=payload if isinstance(payload, dict) else {},
        ref=ref,
        join_ref=join_ref,
    )


def _decode_broadcast(data: bytes) -> Frame:
    kind, *lengths, encoding = data[:7]
    if kind != BROADCAST_PUSH or encoding != 1:
        raise ValueError("binary frames may contain only JSON broadcasts here")
    parts, at = [], 7
    for length in lengths:
        parts.append(data[at : at + length].decode())
        at += length
    join_ref, ref, topic, event, _ = parts
    payload = {"type": "broadcast", "event": event, "payload": json.loads(data[at:])}
    return Frame(
        topic=topic, event="broadcast", payload=payload, ref=ref or None, join_ref=join_ref or None
    )
