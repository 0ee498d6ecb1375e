"""What is sent to make, change and execute jobs: JSON, or an image."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Self, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from truthloop.api.bodies import checked, described, is_json, json_body, read_json, schema_of
from truthloop.api.multipart import Upload, received
from truthloop.api.uploads import IMAGE_BODY
from truthloop.predict.documents import JobOptions
from truthloop.predict.job_fields import MAX_DEADLINE_SECONDS
from truthloop.settings import Settings

T = TypeVar("T", bound=BaseModel)

IMAGE_ID = "60d8ee1fb21ac1d8a8d2b1d8d0e0a2c1e3c0ab9e7cbd7f0a5e9f8f3a5ee6a3c1"

ModelName = Annotated[
    str,
    Field(min_length=1, max_length=64, description="A model of `GET /api/v1/models`.", examples=["opencv_faces"]),
]
ImageId = Annotated[str, Field(min_length=1, max_length=1024)]
DeadlineSeconds = Annotated[float, Field(gt=0, le=MAX_DEADLINE_SECONDS, allow_inf_nan=False)]


class NewJob(BaseModel):
    """A job to be made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelName
    image_id: ImageId | None = Field(
        default=None,
        description="An image of the workspace. It may also come with the execution.",
        examples=[IMAGE_ID],
    )
    deadline_seconds: DeadlineSeconds | None = Field(
        default=None,
        description="How long the job may wait in the queue before it fails, at most 30 days.",
        examples=[600],
    )
    options: JobOptions = JobOptions()
    execute: bool = Field(
        default=False, description="Whether it is put into the queue at once; `image_id` is needed then."
    )


class JobChanges(BaseModel):
    """What is to be changed of a job that hasn't been executed yet; what is left out stays."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"minProperties": 1})

    # A factory, since there is no default to be shown: what wasn't sent is not changed.
    model: ModelName = Field(default_factory=str, description="Another model.", examples=["opencv_people"])
    image_id: ImageId | None = Field(
        default=None, description="Another image of the workspace; null for none.", examples=[IMAGE_ID]
    )
    deadline_seconds: DeadlineSeconds | None = Field(
        default=None, description="Another deadline; null for none.", examples=[600]
    )
    options: JobOptions | None = Field(
        default=None, description="Other options, all of them; null for the defaults."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one field")
        return self


class Execution(BaseModel):
    """What a job is to run on, where no image is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_id: ImageId | None = Field(
        default=None,
        description="An image of the workspace; without it the one that the job was made with.",
        examples=[IMAGE_ID],
    )


class ExecutionForm(BaseModel):
    """What may come with the image that a job is to run on: nothing more."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NewJobForm(BaseModel):
    """A job to be made and executed with the image of the form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelName
    # Factories: a form knows no null, so there is no default to be shown.
    deadline_seconds: DeadlineSeconds = Field(
        default_factory=float,
        description="How long the job may wait in the queue before it fails.",
        examples=[600],
    )
    tolerance: float = Field(
        default_factory=float,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="Segmentation only: how far an outline may stray from the true one, in pixels.",
        examples=[2.0],
    )


@dataclass(frozen=True, slots=True)
class Sent(Generic[T]):
    """The body of a request: its fields, and an image where one was sent."""

    fields: T
    image: bytes | None


async def _new_job(request: Request) -> AsyncIterator[Sent[NewJob]]:
    if is_json(request):
        yield Sent(await read_json(request, NewJob), None)
        return
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(
            415,
            "Send JSON, or a form with a model and an image: -F model=NAME -F image=@PATH. An image alone is for "
            "a job that is there: make it first, then post the image to it.",
        )
    async with _upload(request) as upload:
        form = checked(NewJobForm.model_validate, upload.fields).model_dump(exclude_unset=True)
        options = JobOptions(tolerance=form.pop("tolerance", None))
        fields = NewJob(**form, options=options, execute=True)
        yield Sent(fields, upload.data)


async def _execution(request: Request) -> AsyncIterator[Sent[Execution]]:
    if is_json(request):
        yield Sent(await read_json(request, Execution, empty=b"{}"), None)
        return
    async with _upload(request) as upload:
        checked(ExecutionForm.model_validate, upload.fields)
        yield Sent(Execution(), upload.data)


def _upload(request: Request) -> AbstractAsyncContextManager[Upload]:
    settings: Settings = request.app.state.settings
    return received(request, max_bytes=settings.max_image_bytes)


def _form(kind: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI entry of a form with these fields and the image."""
    schema = schema_of(kind)
    image = {"type": "string", "format": "binary", "description": "The image's file."}
    schema["properties"] = schema.get("properties", {}) | {"image": image}
    schema["required"] = [*schema.get("required", []), "image"]
    return {"schema": schema}


NEW_JOB_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": schema_of(NewJob), "example": {"model": "opencv_faces"}},
        "multipart/form-data": _form(NewJobForm),
    },
}
CHANGES_BODY = described(JobChanges, {"deadline_seconds": 600})["requestBody"]
EXECUTION_BODY = {
    "description": "The image's file as it is, a form with the file in its field `image`, or JSON.",
    "content": {
        "application/json": {"schema": schema_of(Execution), "example": {"image_id": IMAGE_ID}},
        **IMAGE_BODY["content"],
        "multipart/form-data": _form(ExecutionForm),
    },
}

NewJobDep = Annotated[Sent[NewJob], Depends(_new_job)]
ExecutionDep = Annotated[Sent[Execution], Depends(_execution)]
JobChangesDep = Annotated[JobChanges, Depends(json_body(JobChanges))]


def digest(image: bytes | None) -> str:
    """Stands for an image that was sent, or for none."""
    return "" if image is None else hashlib.sha256(image).hexdigest()
