"""What the daemon logs at its start: a normal setup warns about nothing."""

import pytest
from structlog.testing import capture_logs

from worker.app import _announce
from worker.policies import read_template
from worker.settings import load_settings

RIGHT = {
    "SUPABASE_URL": "https://p.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
    "RUNPOD_API_KEY": "rpa_x",
    "RUNPOD_ENDPOINT_ID": "abc",
}
SECRET = "0123456789abcdef"


@pytest.mark.parametrize(
    ("more", "warnings"),
    [
        ({}, []),  # no webhooks, as on a developer's machine
        ({"PUBLIC_URL": "https://w.example", "WEBHOOK_SECRET": SECRET}, []),
        ({"FLY_APP_NAME": "app", "WEBHOOK_SECRET": SECRET}, []),
        ({"FLY_APP_NAME": "app"}, ["app.polling_only"]),
        ({"WEBHOOK_SECRET": SECRET}, ["app.polling_only"]),
    ],
)
def test_only_a_half_made_setting_is_a_warning(more: dict[str, str], warnings: list[str]) -> None:
    settings = load_settings(RIGHT | more)
    with capture_logs() as logs:
        _announce(settings, read_template(settings), "owner")
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == warnings
