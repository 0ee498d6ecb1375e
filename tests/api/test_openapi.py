"""The OpenAPI document is complete, and the application does what it says."""

import io
import uuid
from collections.abc import Iterator
from contextlib import suppress

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import sampled_from
from PIL import Image
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from api.service import BEARER, TOKEN, served
from events.log import write
from truthloop.api.app import create_app

PROBLEM = "application/problem+json"


@pytest.fixture
def document(app) -> dict:
    return app.openapi()


def operations(document: dict) -> Iterator[tuple[str, dict]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def resolved(document: dict, schema: dict) -> dict:
    """The schema as one that jsonschema can read by itself."""
    return {**schema, "components": document["components"]}


def test_every_operation_and_parameter_says_what_it_is_and_has_an_example(document):
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (name, parameter["name"])
            assert parameter["schema"].get("examples") or parameter.get("examples"), (name, parameter["name"])


def test_every_field_is_described_or_named_by_its_type(document):
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), name


def test_every_answer_has_an_example_that_is_true_to_its_schema(document):
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                schema = resolved(document, content["schema"])
                examples = [content["example"]] if "example" in content else []
                examples += [example["value"] for example in content.get("examples", {}).values()]
                if not examples:  # every field of the answer brings its own
                    reference = content["schema"]["$ref"].rpartition("/")[2]
                    fields = document["components"]["schemas"][reference]["properties"]
                    examples = [{field: schema["examples"][0] for field, schema in fields.items()}]
                for example in examples:
                    jsonschema.validate(example, schema)
                assert (media_type == PROBLEM) == (int(status) >= 400), (name, status)


def test_examples_of_success_leave_out_no_field(document):
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/json", {})
            if int(status) < 300 and "example" in content:
                schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                assert content["example"].keys() == schema["properties"].keys(), name


def test_every_operation_but_the_two_of_health_needs_the_token_and_says_so(document):
    for name, operation in operations(document):
        is_open = name in ("GET /healthz", "GET /readyz")
        assert ("401" in operation["responses"]) != is_open, name
        assert ("security" in operation) != is_open, name


def test_fastapis_own_form_of_errors_is_nowhere_in_the_document(document):
    assert "HTTPValidationError" not in str(document)


def test_the_document_names_nothing_from_elsewhere(client):
    for page in ("/docs", "/", "/docs/errors"):
        text = client.get(page).text
        assert "cdn" not in text
        assert "https://" not in text
        assert "http://" not in text


# A stranger is turned away before anything is looked at, but for the few operations that are open.
@pytest.mark.parametrize(("signed_in", "examples"), [(True, 15), (False, 5)], ids=["signed in", "stranger"])
def test_whatever_is_asked_the_answer_is_one_that_the_document_promises(workspace, settings, signed_in, examples):
    """Schemathesis: generated requests, right and wrong ones, for every operation that ends."""
    write(workspace.store, "a")
    workspace.store["metadata"].insert_one({"image_id": "a", "capture_timestamp": 1})
    workspace.status(catch_up=True)
    # Nobody follows in this test: what is asked catches up by itself.
    status, images = workspace.status, workspace.images
    workspace.status = lambda **request: status(**request | {"catch_up": True})
    workspace.images = lambda state, **request: images(state, **request | {"catch_up": True})
    # What can't be told from a schema: that an image has to be one.
    schemathesis.openapi.format("binary", sampled_from([picture("PNG"), picture("JPEG")]))
    tried = set()
    with served(create_app(workspace, token=TOKEN, settings=settings)) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        for result in schema.exclude(path="/api/v1/events/stream").get_all_operations():
            operation = result.ok()
            tried.add(operation.path)
            for mode in schemathesis.GenerationMode:
                with suppress(Unsatisfiable):  # an operation without parameters takes nothing wrong
                    ask(
                        operation.as_strategy(generation_mode=mode),
                        BEARER if signed_in else {},
                        excluded=EXCLUDED.get(operation.label, []),
                        examples=examples,
                    )
    assert tried == {
        "/api/v1/status",
        "/api/v1/images",
        "/api/v1/images/{image_id}/failures",
        "/api/v1/images/{image_id}/why",
        "/api/v1/datasets",
        "/api/v1/datasets/{version}",
        "/api/v1/events",
        "/api/v1/images/{image_id}",
        "/api/v1/images/{image_id}/file",
        "/api/v1/images/{image_id}/thumbnail",
        "/api/v1/inference/jobs",
        "/api/v1/inference/jobs/{job_id}",
        "/api/v1/inference/jobs/{job_id}/cancel",
        "/api/v1/inference/jobs/{job_id}/result",
        "/api/v1/inference/jobs/{job_id}/picture",
        "/api/v1/inference/batches",
        "/api/v1/inference/batches/{batch_id}",
        "/api/v1/inference/batches/{batch_id}/results",
        "/api/v1/inference/batches/{batch_id}/cancel",
        "/api/v1/inference/batches/{batch_id}/resume",
        "/api/v1/models",
        "/api/v1/models/{name}",
        "/image/outline/objects",
        "/outline/objects/check/{task_id}",
        "/healthz",
        "/readyz",
    }


def picture(kind: str) -> bytes:
    """A small image's file."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "white").save(file, kind)
    return file.getvalue()


# What the schema can't tell, or Schemathesis can't see.
EXCLUDED = {
    "POST /api/v1/images": [negative_data_rejection],  # any text is a name
    "GET /api/v1/images/{image_id}/failures": [positive_data_acceptance],  # some filters exclude each other
    "POST /image/outline/objects": [positive_data_acceptance],  # the same
    "POST /api/v1/inference/jobs": [positive_data_acceptance],  # which models there are is not in the document
    "POST /api/v1/inference/batches": [positive_data_acceptance],
    # A foreign ETag gets 412 (RFC 9110).
    "PATCH /api/v1/inference/jobs/{job_id}": [negative_data_rejection, positive_data_acceptance],
}


def ask(cases, headers: dict[str, str], excluded: list, examples: int) -> None:
    """Sends some of the cases; each answer must be as the document says."""

    @hypothesis_settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def check(case) -> None:
        # What isn't HTTP at all is refused by the server before it comes to us.
        assume("content-length" not in {name.lower() for name in case.headers or ()})
        if (
            "Idempotency-Key" in (case.headers or ())
            and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE
        ):
            case.headers["Idempotency-Key"] = uuid.uuid4().hex  # one that came before is refused, and rightly so
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    check()
