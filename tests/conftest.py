"""What holds for all tests."""

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("joulebench", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("joulebench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest first: of several workers, one would else run it alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_gpu_acceptance.py")
