"""The toy data folder of the tasks' tests."""

from tests.tasks.conftest import toy, toy_master

__all__ = ["toy", "toy_master"]
