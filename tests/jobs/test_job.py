"""Rows as PostgREST sends them become jobs, submissions and cases."""

from decimal import Decimal

from worker.jobs.job import Case, Job, JobStatus, Submission, SubmissionState

ROW = {
    "id": "j", "user_id": None, "status": "running", "phase": "generating", "attempt": 2,
    "try_number": 1, "submissions": 1, "revision": 9, "cost_usd": 0.25, "some_new_column": 1,
    "created_at": "2026-01-01T00:00:00+00:00", "updated_at": "2026-01-01T00:00:02.5+00:00",
}  # fmt: skip
SUB = {
    "job_id": "j", "attempt": 2, "try_number": 1, "endpoint_id": "e", "state": "running",
    "runpod_job_id": "r", "plan": {"expected_seconds": 90}, "input_objects": ["b/a"],
    "cost_usd": "0.1", "age": 3.5, "template_hash": "t",
}  # fmt: skip


def test_a_row_becomes_a_job_and_other_columns_are_left_alone() -> None:
    job = Job.from_row(ROW)
    assert job.status is JobStatus.RUNNING
    assert job.cost_usd == Decimal("0.25")
    assert job.waited == 2.5


def test_a_job_without_times_has_not_waited() -> None:
    assert Job.from_row(ROW | {"created_at": None}).waited is None
    assert Job.from_row(ROW | {"updated_at": None}).waited is None


def test_three_statuses_are_terminal() -> None:
    ended = {status for status in JobStatus if status.terminal}
    assert ended == {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}


def test_a_submission_may_cost_money_until_it_has_ended() -> None:
    live = {state for state in SubmissionState if state.live}
    assert live == {SubmissionState.QUEUED, SubmissionState.RUNNING}
    maybe = {state for state in SubmissionState if state.open} - live
    assert maybe == {SubmissionState.SUBMITTING, SubmissionState.UNKNOWN}


def test_a_row_becomes_a_submission() -> None:
    sub = Submission.from_row(SUB)
    assert sub.input_objects == ("b/a",)
    assert sub.expected_seconds == 90.0
    assert sub.cost_usd == Decimal("0.1")


def test_a_plan_may_be_missing_or_say_nothing() -> None:
    assert Submission.from_row(SUB | {"plan": None}).expected_seconds is None
    assert Submission.from_row(SUB | {"plan": {"expected_seconds": "9"}}).expected_seconds is None
    assert Submission.from_row(SUB | {"plan": {"expected_seconds": 0}}).expected_seconds is None
    assert Submission.from_row(SUB | {"input_objects": None}).input_objects == ()


def test_a_case_finds_its_submissions() -> None:
    case = Case.from_json("j", {"job": ROW, "submissions": [SUB, SUB | {"attempt": 1}]})
    second = case.submission(2)
    assert second is not None
    assert second.attempt == 2
    assert case.submission(3) is None
    assert case.states == {"1": "running", "2": "running"}


def test_the_present_try_leaves_out_older_ones() -> None:
    old = SUB | {"attempt": 1, "try_number": 0}
    case = Case.from_json("j", {"job": ROW, "submissions": [old, SUB]})
    assert [one.attempt for one in case.present] == [2]


def test_a_deleted_row_leaves_only_submissions() -> None:
    case = Case.from_json("j", {"job": None, "submissions": [SUB]})
    assert case.job is None
    assert case.present == ()
    assert Case.from_json("j", {"job": None, "submissions": None}).submissions == ()
