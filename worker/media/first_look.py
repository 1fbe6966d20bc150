"""What the two kinds of input are called, and the first check of a file's bytes."""

from __future__ import annotations

from typing import BinaryIO, Literal

from worker.jobs.errors import JobFailed

Kind = Literal["image", "audio"]


def refuse_text(file: BinaryIO, *, kind: Kind) -> None:
    """Raise JobFailed for an empty file, a web page or other text; rewind the file."""
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    if not head:
        raise JobFailed(f"{kind}_unreadable", f"The {kind} file is empty.")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        raise JobFailed(
            f"{kind}_unreadable",
            f"The {kind} link points to a web page; use a direct download link.",
        )
    if start.startswith((b"<?xml", b"<error", b"{", b"[playlist]", b"#extm3u")):
        raise JobFailed(
            f"{kind}_unreadable",
            f"The {kind} file contains text, such as an error page or a playlist.",
        )
