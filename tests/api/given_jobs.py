"""What the tests of jobs over HTTP are given: the requests that make and execute one, and its events."""

import io

import httpx
import numpy as np
from PIL import Image

JOBS = "/api/v1/inference/jobs"
FACES = "opencv_faces"


def made(client: httpx.Client, **fields) -> httpx.Response:
    answer = client.post(JOBS, json={"model": FACES} | fields)
    assert answer.status_code == 201, answer.text
    return answer


def sent(client: httpx.Client, image: bytes, **more) -> httpx.Response:
    return client.post(JOBS, data={"model": FACES}, files={"image": ("face.jpg", image)}, **more)


def execute(client: httpx.Client, job: httpx.Response, image: bytes, media_type: str = "image/jpeg"):
    return client.post(job.headers["location"], content=image, headers={"Content-Type": media_type})


def encoded(kind: str, size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size[::-1], 3), 200, np.uint8)).save(file, kind)
    return file.getvalue()


def verbs_of(workspace, job_id: str) -> list[tuple[int, str]]:
    found = workspace.store["truthloop.events"].find({"subject": job_id}).sort("sequence", 1)
    return [(event["sequence"], event["type"].rpartition(".")[2]) for event in found]
