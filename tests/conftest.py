"""What every test starts from: an environment without our settings, and hypothesis' profiles."""

import os
import re
import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.postgres"]

OURS = re.compile(
    r"(ALLOW|DECODER|FLY|FRAME|GPU|HISTORY|IMAGE|INPUT|LOG|MAX|MEDIA|RUNPOD|SUPABASE)_.+"
    r"|(WEBHOOK|WORKFLOW)_.+"
    r"|(JOB|UPLOAD)_KEEP_DAYS|PASS_ORIGINALS"
    r"|.+_SECONDS|SECONDS_PER_.+|AUDIO_FIT|ENDPOINT_.+|OVERLONG_AUDIO|SIZE_POLICY"
    r"|DATABASE_URL|HOST|PORT|PUBLIC_URL|PG(DATABASE|HOST|PASSWORD|PORT|USER)"
    r"|(ALL|HTTPS?|NO)_PROXY|(all|https?|no)_proxy|(FORCE|NO)_COLOR|COLUMNS"
)

settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def ours() -> list[str]:
    """The variables in the environment that could change how the worker behaves."""
    return [name for name in os.environ if OURS.fullmatch(name)]


# A shell that starts us in the background makes us, and all that we start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test reads a developer's .env; OURS leaves this name alone.
os.environ["ENV_FILE"] = "none"

# Fixtures of wider scope start before any fixture of a single test: clean the process once too.
for _name in ours():
    del os.environ[_name]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ours():
        monkeypatch.delenv(name)
