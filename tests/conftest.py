"""What every test shares: hypothesis settings, and the flag that rewrites golden files."""

from __future__ import annotations

import os
import random
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings

from tests.browser import browser as browser

# Ray reads these when it is imported, in this process and in the ones it starts.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Where drivers say that they can be scraped: not where a Prometheus of this machine would look for them, and each
# process that runs tests has its own.
TARGETS = os.environ["DGBATCH_TARGETS"] = tempfile.mkdtemp(prefix="dgbatch-targets-")

# No deadline: a shared machine is noisy. Derandomised: a red run is red again.
settings.register_profile("dgbatch", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dgbatch")


# Of the random faults in tests/faults, which are others each day; the header of a run says which they were.
os.environ.setdefault("DGBATCH_SEED", str(random.SystemRandom().randrange(10**6)))


def pytest_report_header() -> str:
    return f"random faults: DGBATCH_SEED={os.environ['DGBATCH_SEED']}"


def pytest_unconfigure() -> None:
    shutil.rmtree(TARGETS, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing them")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
