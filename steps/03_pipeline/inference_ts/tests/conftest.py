import pytest

from typescript import installed_service


@pytest.fixture(scope="session")
def installed():
    """Node, and a copy of the service that it can run."""
    with installed_service() as found:
        yield found
