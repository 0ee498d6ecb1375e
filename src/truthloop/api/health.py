"""Whether the service lives, and whether it can work. Open to all."""

from typing import Literal

import pymongo
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from truthloop.api.problems import documented
from truthloop.api.waiting import WorkspaceDep
from truthloop.errors import DatabaseUnavailable, Unavailable

# A probe asks again soon; it must not wait for a server that is gone.
PING_SECONDS = 2.0

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The answer of a service that is well."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ok"] = Field(default="ok", description="Always `ok`.", examples=["ok"])


@router.get("/healthz", summary="Is the process alive?")
async def get_healthz() -> Health:
    """Answers as long as the process does; doesn't ask the database."""
    return Health()


@router.get("/readyz", summary="Can it work?", responses=documented(DatabaseUnavailable))
def get_readyz(workspace: WorkspaceDep) -> Health:
    """Answers `ok` if MongoDB does."""
    try:
        with workspace.store.errors(), pymongo.timeout(PING_SECONDS):
            workspace.store.client.admin.command("ping")
    except Unavailable as error:
        # Open to all, so without the address that the error's own text names.
        raise DatabaseUnavailable("MongoDB doesn't answer. `truthloop doctor` says what is wrong.") from error
    return Health()
