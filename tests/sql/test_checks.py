"""What can never be right is refused at the insert, by a constraint whose name says why."""

import json
import random
import string

import psycopg
import pytest

from tests.postgres import Database
from tests.sql.worker import Worker, alter
from worker.plan.plan import _MAX_WARNING_BYTES

SIZE = "must_be_even_and_between_480_and_1920"
REFUSED: list[tuple[dict[str, object], str]] = [
    ({"width": 478, "height": 480}, f"width_{SIZE}"),
    ({"width": 1922, "height": 480}, f"width_{SIZE}"),
    ({"width": 721, "height": 480}, f"width_{SIZE}"),
    ({"width": 480, "height": 0}, f"height_{SIZE}"),
    ({"width": 480, "height": 1921}, f"height_{SIZE}"),
    ({"width": 720}, "give_both_width_and_height_or_neither"),
    ({"height": 720}, "give_both_width_and_height_or_neither"),
    ({"quality": "4k"}, "quality_must_be_sd_hd_or_fullhd"),
    ({"seed": -1}, "seed_must_be_between_0_and_999999"),
    ({"seed": 1_000_000}, "seed_must_be_between_0_and_999999"),
    ({"steps": 3}, "steps_must_be_4_5_or_6"),
    ({"steps": 7}, "steps_must_be_4_5_or_6"),
    ({"image_url": "u" * 2049}, "image_url_is_longer_than_2048_characters"),
    ({"audio_url": "u" * 2049}, "audio_url_is_longer_than_2048_characters"),
    ({"prompt": "p" * 1001}, "prompt_is_longer_than_1000_characters"),
    ({"negative_prompt": "p" * 1001}, "negative_prompt_is_longer_than_1000_characters"),
    ({"idempotency_key": ""}, "idempotency_key_must_have_1_to_200_characters"),
    ({"idempotency_key": "k" * 201}, "idempotency_key_must_have_1_to_200_characters"),
    ({"metadata": "[]"}, "metadata_must_be_a_json_object"),
    ({"metadata": {"note": "n" * 1000}}, "metadata_is_longer_than_1000_bytes"),
    (
        {"image_url": "u" * 2048, "audio_url": "u" * 1960},
        "urls_prompts_and_metadata_together_exceed_4000_bytes",
    ),
    (
        {"image_url": "u" * 2048, "audio_url": "u" * 1760, "idempotency_key": "k" * 200},
        "urls_prompts_and_metadata_together_exceed_4000_bytes",
    ),
    (
        {"prompt": "人" * 1000, "negative_prompt": "人" * 400},
        "urls_prompts_and_metadata_together_exceed_4000_bytes",
    ),
]
ACCEPTED: list[dict[str, object]] = [
    {"width": 480, "height": 1920},
    {"quality": "sd", "seed": 0, "steps": 4},
    {"quality": "fullhd", "seed": 999_999, "steps": 6},
    {"image_url": "u" * 2048, "audio_url": None},
    {"prompt": "人" * 1000, "idempotency_key": "k" * 200},
]


@pytest.mark.parametrize(("columns", "name"), REFUSED)
def test_nonsense_is_refused_with_a_name_that_says_why(
    database: Database, columns: dict[str, object], name: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as refusal:
        database.insert(**columns)
    assert refusal.value.diag.constraint_name == name


def test_the_edges_of_what_is_right_are_accepted(database: Database) -> None:
    for columns in ACCEPTED:
        assert database.insert(**columns)["status"] == "queued"


@pytest.mark.parametrize("missing", ["quality", "idempotency_key", "metadata", "cancel_requested"])
def test_columns_with_a_default_take_no_null(database: Database, missing: str) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        database.insert(**{missing: None})


@pytest.mark.parametrize(
    ("assignment", "name"),
    [
        ("status = 'completed'", "completed_needs_a_video_url"),
        ("status = 'failed'", "failed_needs_an_error_code"),
        ("phase = 'thinking'", "phase_is_not_one_of_ours"),
        ("progress = 101", "progress_must_be_between_0_and_100"),
        ("progress_source = 'guessed'", "progress_source_is_not_one_of_ours"),
        ("video_url = repeat('u', 2049)", "worker_texts_are_too_long"),
    ],
)
def test_even_the_worker_writes_no_nonsense(
    database: Database, worker: Worker, assignment: str, name: str
) -> None:
    database.insert()
    job = worker.claim_one()
    with pytest.raises(psycopg.errors.CheckViolation) as refusal:
        alter(database, job["id"], assignment)
    assert refusal.value.diag.constraint_name == name


def test_a_result_is_not_refused_because_its_texts_are_long(
    database: Database, worker: Worker
) -> None:
    """Latin letters keep 1000 characters; a text in another alphabet is cut to its bytes."""
    database.insert()
    job = worker.claim_one()
    alter(
        database,
        job["id"],
        "phase_detail = repeat('d', 9000), error_message = repeat('e', 9000),"
        " ending_message = repeat('人', 9000)",
    )
    row = database.job(job["id"])
    lengths = {name: len(row[name]) for name in ("phase_detail", "error_message", "ending_message")}
    assert lengths == {"phase_detail": 300, "error_message": 1000, "ending_message": 375}


@pytest.mark.parametrize("final", ["completed", "failed"])
def test_no_column_ever_leaves_its_row(database: Database, worker: Worker, final: str) -> None:
    """Realtime omits unchanged columns that are kept outside; the fullest row must stay whole."""
    noise = random.Random(7)

    def text(length: int) -> str:
        return "".join(noise.choices(string.ascii_letters + string.digits, k=length))

    metadata = {text(4): n for n in range(60)}
    left = 4000 - 200 - len(json.dumps(metadata)) - 600
    database.insert(
        user_id="11111111-1111-1111-1111-111111111111",
        image_url=text(left // 2),
        audio_url=text(left // 2),
        prompt=text(300),
        negative_prompt=text(300),
        idempotency_key=text(200),
        metadata=metadata,
    )
    job = worker.claim_one()
    warnings = json.dumps([{"code": text(20), "message": text(1500)}])
    values = "phase_detail = %s, runpod_job_id = %s, cost_usd = 1.23456, warnings = %s, status = %s"
    values += (
        ", video_url = %s" if final == "completed" else ", error_code = %s, error_message = %s"
    )
    end = [text(2048)] if final == "completed" else [text(30), text(1000)]
    with database.connection.transaction():
        database.sql("select set_config('video_jobs.writer', 'worker', true)")
        database.sql(
            f"update public.video_jobs set {values} where id = %s",
            *[text(300) if final == "failed" else None, text(40), warnings, final, *end, job["id"]],
        )
    with database.connect(superuser=True) as connection:
        toast = connection.execute(
            "select reltoastrelid::regclass::text as name from pg_class"
            " where oid = 'public.video_jobs'::regclass"
        ).fetchone()
        assert toast is not None
        chunks = connection.execute(
            f"select count(*) as n from {toast['name']}".encode()
        ).fetchone()
    assert chunks == {"n": 0}


def test_the_plan_keeps_its_warnings_within_the_column(database: Database) -> None:
    check = database.row(
        "select pg_get_constraintdef(oid) as text from pg_constraint"
        " where conname = 'worker_texts_are_too_long'"
    )["text"]
    assert f"<= {_MAX_WARNING_BYTES + 100}" in check


def test_one_idempotency_key_of_one_user_is_one_row(database: Database) -> None:
    """Rows without a user share one space of keys; two users never meet."""
    one, two = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
    for user in (one, two, None):
        database.insert(user_id=user, idempotency_key="order 7")
        with pytest.raises(psycopg.errors.UniqueViolation) as refusal:
            database.insert(user_id=user, idempotency_key="order 7")
        assert refusal.value.diag.constraint_name == "one_row_per_idempotency_key"
    keys = [database.insert()["idempotency_key"] for _ in range(2)]
    assert keys[0] != keys[1]


def test_progress_writes_no_index(database: Database, worker: Worker) -> None:
    """Rows are updated far more often than they move; no index holds what every update changes."""
    database.insert()
    job = worker.claim_one()
    with database.connection.transaction():
        database.sql("select set_config('video_jobs.writer', 'worker', true)")
        for progress in range(3):
            database.sql("update public.video_jobs set progress = %s, eta_at = now()", progress)
        hot = database.row(
            "select pg_stat_get_xact_tuples_hot_updated('public.video_jobs'::regclass) as n"
        )["n"]
    assert (hot, database.job(job["id"])["progress"]) == (3, 2)
