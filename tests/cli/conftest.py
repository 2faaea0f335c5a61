"""The Ray of tests/local_ray.py, for the commands that run a job inside the test's process."""

from tests.local_ray import local_ray

__all__ = ["local_ray"]
