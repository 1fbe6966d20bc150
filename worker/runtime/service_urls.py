"""Says what is wrong with an address that was copied from the wrong page."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_PROJECT = re.compile(r"(?:db\.)?([a-z0-9]+)\.supabase\.co")
_IN_DASHBOARD = re.compile(r"/(?:dashboard/)?project/([a-z0-9]+)")
_NO_HOST = re.compile(r"[\s<>\"'{}|\\^`\x00-\x1f\x7f]")
_RUNPOD_API = re.compile(r"/v2/[A-Za-z0-9_-]+/*")
_LAST = re.compile(r".*/(?:endpoints?|v[12])/([A-Za-z0-9_-]+)")


def without_host(url: str) -> str | None:
    """Return what is wrong with a URL that names no host; None if it names one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be a full URL like https://host"
    if found := _NO_HOST.search(parts.netloc):
        return f"has {found.group()!r} in its host: replace the placeholder, or copy it again"
    return None


def not_a_project(url: str) -> str | None:
    """Return what is wrong with SUPABASE_URL; None for any host that may be a project."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("supabase.com", "www.supabase.com", "app.supabase.com", "app.supabase.io"):
        ref = _IN_DASHBOARD.search(parts.path)
        return f"is a page of the dashboard; use https://{ref[1] if ref else '<ref>'}.supabase.co"
    if host.endswith(".pooler.supabase.com"):
        return "is the address of the database; use https://<ref>.supabase.co"
    project = _PROJECT.fullmatch(host)
    if project is None:
        return None
    right = f"https://{project[1]}.supabase.co"
    if host.startswith("db."):
        return f"is the address of the database; use {right}"
    if parts.scheme != "https" or parts.path.strip("/"):
        return f"must be {right}, without a path"
    return None


def not_an_endpoint(url: str) -> str | None:
    """Return what is wrong with RUNPOD_ENDPOINT_URL, without its action; None if it may be right.

    Only RunPod's own hosts are judged: a proxy may have any address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not f".{host}".endswith((".runpod.io", ".runpod.ai")):
        return None
    if host == "api.runpod.ai" and parts.scheme == "https" and _RUNPOD_API.fullmatch(parts.path):
        return None
    name = _LAST.search(parts.path)
    return f"must be https://api.runpod.ai/v2/{name[1] if name else '<id>'}"
