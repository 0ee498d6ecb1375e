from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from api.given_jobs import FACES
from api.service import BEARER, TOKEN, served
from predict.given import on_a_thread
from truthloop.api.app import create_app
from truthloop.settings import Settings
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """With a blob store of its own."""
    return settings.model_copy(update={"blobs": f"file://{tmp_path}/blobs"})


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


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """A photograph of one face, from Matplotlib's sample data."""
    return (resources.files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg").read_bytes()


@pytest.fixture
def worker(workspace: Workspace) -> Iterator[None]:
    """A worker on a thread, for the model that needs no file."""
    with on_a_thread(workspace.run_worker, models=[FACES]):
        yield
