"""Descriptions of stored objects: one object, and one folder of a bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

Row = Mapping[str, object]


def object_info(row: Row) -> dict[str, object]:
    """Return an object in the form that clients read."""
    metadata = row["metadata"] if isinstance(row["metadata"], dict) else {}
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "bucket_id": row["bucket_id"],
        "owner": str(row["owner"]) if row["owner"] else None,
        "version": row["version"],
        "size": metadata.get("size"),
        "content_type": metadata.get("mimetype"),
        "cache_control": metadata.get("cacheControl"),
        "etag": metadata.get("eTag"),
        "last_modified": metadata.get("lastModified"),
        "metadata": row["user_metadata"] or {},
        "created_at": _instant(row["created_at"]),
        "updated_at": _instant(row["updated_at"]),
        "last_accessed_at": _instant(row["last_accessed_at"]),
    }


def list_folder(rows: Sequence[Row], body: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the files and folders directly below a prefix, as requested by the body."""
    prefix = str(body.get("prefix") or "").strip("/")
    start = f"{prefix}/" if prefix else ""
    wanted = str(body.get("search") or "").lower()
    entries: dict[str, dict[str, object]] = {}
    for row in rows:
        name = str(row["name"])
        if not name.startswith(start):
            continue
        head, slash, _ = name[len(start) :].partition("/")
        if wanted not in head.lower():
            continue
        entries[head] = _folder(head) if slash else _file(head, row)
    sort = body.get("sortBy")
    column = str(sort.get("column", "name")) if isinstance(sort, dict) else "name"
    reverse = isinstance(sort, dict) and sort.get("order") == "desc"
    ordered = sorted(entries.values(), key=lambda e: str(e.get(column) or ""), reverse=reverse)
    offset, limit = int(str(body.get("offset") or 0)), int(str(body.get("limit") or 100))
    return ordered[offset : offset + limit]


def _folder(name: str) -> dict[str, object]:
    empty = ("id", "updated_at", "created_at", "last_accessed_at", "metadata")
    return {"name": name, **dict.fromkeys(empty)}


def _file(name: str, row: Row) -> dict[str, object]:
    return {
        "name": name,
        "id": str(row["id"]),
        "updated_at": _instant(row["updated_at"]),
        "created_at": _instant(row["created_at"]),
        "last_accessed_at": _instant(row["last_accessed_at"]),
        "metadata": row["metadata"],
    }


def _instant(value: object) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else None
