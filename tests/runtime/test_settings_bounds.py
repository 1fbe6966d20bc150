"""Numbers and addresses that would lose videos or end the process later stop the start instead."""

import pytest

from worker.jobs.errors import SettingsInvalid
from worker.settings import load_settings

RIGHT = {
    "SUPABASE_URL": "https://p.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
    "RUNPOD_API_KEY": "rpa_x",
    "RUNPOD_ENDPOINT_ID": "abc",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLL_SECONDS", "3600"),
        ("SWEEP_SECONDS", "3600"),
        ("POLL_SECONDS", "inf"),
        ("LEASE_SECONDS", "inf"),
        ("QUEUE_DEADLINE_SECONDS", "inf"),
        ("SECONDS_PER_WINDOW", "1e300"),
        ("MAX_IN_FLIGHT", "99999999999"),
        ("MAX_SUBMISSIONS_PER_USER_PER_DAY", "99999999999"),
        ("HISTORY_KEEP_DAYS", "99999999999"),
        ("MEDIA_RETENTION_HOURS", "1e12"),
        ("PUBLIC_URL", "https://h.example/?x=1"),
        ("PUBLIC_URL", "https://h.example/#x"),
        ("SUPABASE_URL", "https://me:hidden@p.supabase.co"),
    ],
)
def test_a_value_beyond_reason_stops_the_start_and_is_not_repeated(name: str, value: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(RIGHT | {name: value})
    (problem,) = refused.value.problems
    assert problem.startswith(f"{name}: ")
    assert value not in problem


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://h.example/worker/", "https://h.example/worker"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_public_address_may_have_a_path_and_be_ipv6(given: str, used: str) -> None:
    assert load_settings(RIGHT | {"PUBLIC_URL": given}).public_url == used
