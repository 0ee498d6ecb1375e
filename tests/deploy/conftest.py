"""The compose file, read once."""

import pytest

from deploy import compose


@pytest.fixture(scope="session")
def project() -> compose.Document:
    """The compose file as Compose reads it, with a token in its environment."""
    return compose.project(TRUTHLOOP_TOKEN=compose.TOKEN)
