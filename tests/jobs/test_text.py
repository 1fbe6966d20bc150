"""Foreign text becomes harmless: no secrets, no escape sequences, no line breaks."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.jobs.change import Change, SubmissionChange
from worker.jobs.text import one_line, redact, visible, visible_values

# Pieces that steer terminals, mixed with ordinary text.
PIECES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["\x1b[31m", "\x1b[2J", "\x9b1;1H", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x1b",
         "\x9d", "\x1bP", "\r", "\n", "\r\n", "\x85", "\u2028", "\u2029", "\u202e", "\u2066",
         "\x08", "\x00", "\t", "\ufeff", "[31m", "a"]
    ),
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=20).map("".join)
TURNS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def dangerous(text: str) -> set[str]:
    """Return the characters that move a cursor, break a line or turn the text's direction."""
    return {
        sign for sign in text if unicodedata.category(sign) in ("Cc", "Zl", "Zp") or sign in TURNS
    }


@given(TEXTS)
@example("\x1b\x1b[31mred")
@example("\x9d\x9b\x1b]")
def test_nothing_of_any_text_steers_a_terminal(text: str) -> None:
    assert dangerous(visible(text)) == set()
    assert dangerous(visible(text, lines=True)) <= {"\n", "\t"}
    assert dangerous(one_line(text, limit=80)) == set()


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cf", "Zl", "Zp", "Cs"))))
def test_ordinary_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


VALUES = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_no_text_of_any_change_reaches_a_row_with_them(value: object) -> None:
    submission = SubmissionChange(attempt=1, values={"raw_error": value})
    change = Change(
        job_id="j", revision=1, states={}, job={"error_message": value}, submissions=(submission,)
    ).as_json()
    for written in (change["job"]["error_message"], change["submissions"][0]["set"]["raw_error"]):
        assert dangerous("".join(leaves(written))) == set()
        assert visible_values(written) == written


def leaves(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in leaves(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in leaves(inner)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mError\x1b[0m: CUDA", "Error: CUDA"),
        ("a\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("one\r\ntwo", "one two"),
        ("half \x1b]0;never ended, the rest is kept", "half 0;never ended, the rest is kept"),
    ],
)  # fmt: skip
def test_escape_sequences_leave_as_a_whole(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://w.example refuses our signature: it is of another secret.",
        "Invalid token: Token has expired",
        "wrong signature: the body was changed",
    ],
)
def test_a_sentence_about_a_secret_stays_readable(text: str) -> None:
    assert redact(text) == text


@given(
    st.sampled_from(["token", "secret", "api_key", "X-Amz-Signature", "credential", "password"]),
    st.sampled_from([": ", "=", ":", " = "]),
    st.text(st.sampled_from("abcXYZ019_-"), min_size=8).filter(
        lambda secret: any(sign.isdigit() for sign in secret)
    ),
    st.sampled_from(["", " is wrong", ", then"]),
)
def test_a_secret_behind_its_name_never_stays(name: str, sign: str, secret: str, rest: str) -> None:
    assert secret not in redact(f"{name}{sign}{secret}{rest}")


def test_a_secret_is_found_behind_an_escape_sequence() -> None:
    assert "hunter22" not in one_line("pass\x1b[0mword=hunter22", limit=80)
