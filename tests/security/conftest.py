"""The Ray of tests/local_ray.py, for the jobs that run from end to end; the jobs of tests/runner for the others."""

from tests.local_ray import local_ray
from tests.runner.conftest import make_job, some_rows

__all__ = ["local_ray", "make_job", "some_rows"]
