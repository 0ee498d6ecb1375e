from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from api.service import BEARER, TOKEN, served
from truthloop.api.app import create_app
from truthloop.settings import Settings
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


@pytest.fixture
def workspace(store: Store, settings: Settings) -> Iterator[Workspace]:
    with Workspace.open(settings, create=True) as workspace:
        yield workspace


@pytest.fixture
def app(workspace: Workspace, settings: Settings) -> FastAPI:
    return create_app(workspace, token=TOKEN, settings=settings)


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    with served(app) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    """A client with the token. There is no TLS here, and to read its certificates takes longer than a request."""
    with httpx.Client(base_url=address, headers=BEARER, timeout=60, verify=False) as client:
        yield client


@pytest.fixture
def stranger(address: str) -> Iterator[httpx.Client]:
    """A client without it."""
    with httpx.Client(base_url=address, timeout=60, verify=False) as client:
        yield client
