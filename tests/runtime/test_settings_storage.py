"""Inputs are prepared unless the operator chooses otherwise, plainly."""

from typing import Literal

import pytest

from tests.runtime.test_settings_bounds import RIGHT
from worker.jobs.errors import SettingsInvalid
from worker.policies import input_policy, retention
from worker.settings import load_settings


def test_without_any_setting_inputs_are_prepared_and_fits_work() -> None:
    settings = load_settings(RIGHT)
    assert input_policy(settings).media_bucket == "video-prepared"
    assert settings.plan_policy.prepared


def test_originals_are_passed_on_only_where_a_setting_says_so() -> None:
    settings = load_settings(RIGHT | {"PASS_ORIGINALS": "true"})
    assert input_policy(settings).media_bucket is None
    assert not settings.plan_policy.prepared
    # What was prepared before is still removed.
    assert retention(settings).media_bucket == "video-prepared"


def test_two_settings_that_contradict_each_other_stop_the_start() -> None:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(RIGHT | {"PASS_ORIGINALS": "true", "MEDIA_BUCKET": "video-prepared"})
    (problem,) = refused.value.problems
    assert problem.startswith("PASS_ORIGINALS: is true, but MEDIA_BUCKET")
    kept = load_settings(RIGHT | {"PASS_ORIGINALS": "false", "MEDIA_BUCKET": "mine"})
    assert kept.prepared_bucket == "mine"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", {"video-images", "video-audio", "inputs"}),
        ("none", set()),
        ("inputs, portraits", {"inputs", "portraits"}),
    ],
)
def test_uploads_work_out_of_the_box_and_can_be_closed(given: str, used: set[str]) -> None:
    assert input_policy(load_settings(RIGHT | {"INPUT_BUCKETS": given})).input_buckets == used


def test_uploads_go_after_days_and_jobs_stay_unless_a_setting_says_otherwise() -> None:
    kept = retention(load_settings(RIGHT))
    assert (kept.upload_days, kept.job_days) == (7, 0)
    changed = retention(load_settings(RIGHT | {"UPLOAD_KEEP_DAYS": "0", "JOB_KEEP_DAYS": "30"}))
    assert (changed.upload_days, changed.job_days) == (0, 30)


@pytest.mark.parametrize(
    ("buckets", "expected"),
    [
        ("", {"image": "video-images", "audio": "video-audio"}),
        ("inputs", {"image": "inputs", "audio": "inputs"}),
        ("inputs,video-audio", {"image": "inputs", "audio": "video-audio"}),
        ("video-audio", {"image": None, "audio": "video-audio"}),
        ("none", {"image": None, "audio": None}),
    ],
)
def test_each_kind_of_file_has_a_bucket_that_takes_it(
    buckets: str, expected: dict[Literal["image", "audio"], str | None]
) -> None:
    """The buckets of the migrations accept one kind each."""
    settings = load_settings(RIGHT | {"INPUT_BUCKETS": buckets})
    assert {kind: settings.upload_bucket(kind) for kind in expected} == expected
