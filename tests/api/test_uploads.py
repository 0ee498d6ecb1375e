"""Images over HTTP: sent, given out, and refused in bounded memory whatever comes."""

import hashlib
import http.client
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from api.service import BEARER, SERVICE, TOKEN, served
from hostile import ALL, ENDLESS, GIGABYTE, encoded, picture, send
from truthloop.api.app import create_app
from truthloop.api.receiving import Receiving
from truthloop.errors import TruthloopError

JPEG = {"Content-Type": "image/jpeg"}
# Above what the service needs by itself: two bodies of the greatest size in pieces and whole, and what it decodes.
MAX_GROWTH_BYTES = 256 * 1024 * 1024


def blobs(tmp_path: Path) -> list[Path]:
    return [*(tmp_path / "blobs").glob("??/??/*")]


def test_an_image_is_sent_as_it_is_and_found_where_the_answer_says(client):
    data = encoded("JPEG", picture(64, 48))
    sent = client.post("/api/v1/images?name=cat.jpg", content=data, headers=JPEG)

    image_id = hashlib.sha256(data).hexdigest()
    assert sent.status_code == 201
    assert sent.headers["location"] == f"/api/v1/images/{image_id}"
    assert sent.json() == {
        "image_id": image_id,
        "state": "new",
        "width": 64,
        "height": 48,
        "media_type": "image/jpeg",
        "capture_timestamp": None,
        "source": "cat.jpg",
    }
    found = client.get(sent.headers["location"]).json()
    assert found == {name: value for name, value in sent.json().items() if name != "state"}


def test_the_same_image_once_more_is_200_and_no_second_one(client, workspace):
    data = encoded("PNG")
    statuses = [client.post("/api/v1/images", content=data, headers=JPEG).status_code for _ in range(2)]

    assert statuses == [201, 200]
    assert workspace.store["metadata"].count_documents({}) == 1


def test_an_image_may_come_in_a_form_with_its_name(client):
    data = encoded("WEBP")
    sent = client.post("/api/v1/images", files={"image": ("cat.webp", data)})

    assert (sent.status_code, sent.json()["source"]) == (201, "cat.webp")
    assert client.get(f"{sent.headers['location']}/file").content == data


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_form_is_read_the_same_however_it_is_cut_into_pieces(client, cut):
    data = encoded("PNG", picture(40, 40)) + b"\r\n--edg\r\n"  # what almost ends the form, within the file
    body = (
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + data + b"\r\n--edge--\r\nepilogue"
    )
    pieces = (body[at : at + cut] for at in range(0, len(body), cut))
    sent = client.post(
        "/api/v1/images", content=pieces, headers={"Content-Type": "multipart/form-data; boundary=edge"}
    )

    assert sent.status_code == 201, sent.text
    assert sent.json()["image_id"] == hashlib.sha256(data).hexdigest()


FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + encoded("PNG") + b"\r\n"


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (b'Content-Disposition: form-data; name="image"\r\n\r\na text\r\n', "send the file: -F image=@PATH"),
        (b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n', "field image"),
        (b'Content-Disposition: form-data; name="other"\r\n\r\na text\r\n', "missing"),
        (FILE + b"--edge\r\n" + FILE, "there twice"),
        (b'Content-Disposition: form-data; name="x"\r\n\r\n' + b"x" * 5000 + b"\r\n", "more than 4,096 bytes"),
        (b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n\r\n", "can't be read"),
        (b"X: y\r\n" * 100 + b"\r\n\r\n", "can't be read"),
        (
            b"".join(b'Content-Disposition: form-data; name="%d"\r\n\r\n\r\n--edge\r\n' % n for n in range(30)),
            "more than 16 fields",
        ),
        (b"no headers at all", "can't be read"),
    ],
)
def test_a_form_without_the_file_is_422_and_says_how_to_send_it(client, tmp_path, form, says):
    sent = client.post(
        "/api/v1/images",
        content=b"--edge\r\n" + form + b"--edge--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=edge"},
    )

    assert sent.status_code == 422, sent.text
    assert says in sent.json()["detail"]
    assert "-F image=@PATH" in sent.json()["detail"]
    assert blobs(tmp_path) == []


def test_a_form_that_is_cut_off_is_refused(client, tmp_path):
    sent = client.post(
        "/api/v1/images",
        content=b"--edge\r\n" + FILE,
        headers={"Content-Type": "multipart/form-data; boundary=edge"},
    )

    assert (sent.status_code, blobs(tmp_path)) == (422, [])
    assert "cut off" in sent.json()["detail"]


@pytest.mark.parametrize("kind", ["multipart/form-data", f"multipart/form-data; boundary={'x' * 1000}"])
def test_a_form_whose_edge_is_missing_or_too_long_is_refused(client, kind):
    sent = client.post("/api/v1/images", content=b"x", headers={"Content-Type": kind})

    assert (sent.status_code, sent.json()["title"]) == (422, "Input refused")


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/x-www-form-urlencoded", ""])
def test_a_body_that_says_it_is_no_image_is_415_and_told_what_would_be_taken(client, kind):
    sent = client.post("/api/v1/images", content=encoded("PNG"), headers={"Content-Type": kind})

    assert sent.status_code == 415
    assert "image/jpeg" in sent.json()["detail"]


def test_a_stranger_can_neither_send_nor_see(stranger, client):
    place = client.post("/api/v1/images", content=encoded("PNG"), headers=JPEG).headers["location"]

    assert stranger.post("/api/v1/images", content=encoded("PNG"), headers=JPEG).status_code == 401
    for path in (place, f"{place}/file", f"{place}/thumbnail"):
        assert stranger.get(path).status_code == 401


def test_an_image_may_be_larger_than_any_other_body(client):
    noise = Image.frombytes("RGB", (1000, 700), os.urandom(2_100_000))
    data = encoded("BMP", noise)

    assert len(data) > 2_000_000
    assert client.post("/api/v1/images", content=data, headers=JPEG).status_code == 201
    assert client.post("/api/v1/status", content=data, headers=JPEG).status_code == 413


def test_a_field_that_nobody_reads_is_refused_by_name(client):
    sent = client.post("/api/v1/images", files={"nonsense": (None, "x"), "image": ("a.png", encoded("PNG"))})

    assert sent.status_code == 422
    assert sent.json()["errors"] == {"nonsense": "not a field of this form"}


def test_a_body_that_comes_too_slowly_is_given_up(client, app):
    app.state.receiving = Receiving(patience_seconds=0.2)
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=60)
    connection.putrequest("POST", "/api/v1/images")
    for name, value in {**BEARER, **JPEG, "Content-Length": "1000"}.items():
        connection.putheader(name, value)
    connection.endheaders(b"\xff\xd8\xff")  # and nothing more
    answer = connection.getresponse()

    assert (answer.status, json.loads(answer.read())["title"]) == (408, "Request Timeout")
    connection.close()


# -- giving out


def test_a_file_is_given_out_with_its_true_type_and_may_be_kept(client):
    data = encoded("PNG")
    place = client.post("/api/v1/images", content=data, headers=JPEG).headers["location"]
    file = client.get(f"{place}/file")

    assert file.content == data
    assert file.headers["content-type"] == "image/png"
    assert file.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in file.headers["cache-control"]
    assert "private" in file.headers["cache-control"]
    again = client.get(f"{place}/file", headers={"If-None-Match": f'"other", W/{file.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"{place}/file", headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_upright_file_is_given_out_and_the_original_where_it_is_asked_for(client):
    exif = Image.Exif()
    exif[274] = 6
    data = encoded("JPEG", picture(64, 48), exif=exif)
    place = client.post("/api/v1/images", content=data, headers=JPEG).headers["location"]

    assert Image.open(io.BytesIO(client.get(f"{place}/file").content)).size == (48, 64)
    assert client.get(f"{place}/file?original=true").content == data


def test_a_thumbnail_has_the_size_asked_for_and_its_own_etag(client):
    place = client.post("/api/v1/images", content=encoded("PNG", picture(600, 300)), headers=JPEG).headers[
        "location"
    ]
    small, large = (client.get(f"{place}/thumbnail", params={"size": size}) for size in (128, 512))

    assert Image.open(io.BytesIO(small.content)).size == (128, 64)
    assert small.headers["content-type"] == "image/webp"
    assert small.headers["etag"] != large.headers["etag"]
    assert client.get(f"{place}/thumbnail?size=100").status_code == 422


@pytest.mark.parametrize("what", ["", "/file", "/thumbnail"])
@pytest.mark.parametrize("image_id", ["nobody", "a" * 64, "..%2f..%2fetc%2fpasswd", "%7B%22%24gt%22:1%7D"])
def test_what_there_is_not_is_404(client, image_id, what):
    answer = client.get(f"/api/v1/images/{image_id}{what}")

    assert (answer.status_code, answer.json()["title"]) == (404, "Not found")


def test_an_image_whose_documents_alone_were_loaded_has_no_file(client, workspace):
    workspace.store["metadata"].insert_one({"image_id": "a/b"})

    for what in ("", "/file", "/thumbnail"):
        answer = client.get(f"/api/v1/images/a/b{what}")
        assert answer.status_code == 404
        assert "no pixels here" in answer.json()["detail"]


def test_a_file_that_came_with_a_job_is_told_from_one_that_nobody_sent(client):
    data = encoded("PNG", picture())
    job = client.post("/api/v1/inference/jobs", data={"model": "opencv_faces"}, files={"image": data}).json()

    for what in ("", "/file", "/thumbnail"):
        answer = client.get(f"/api/v1/images/{job['image_id']}{what}")
        assert answer.status_code == 404
        assert "came with an inference job and is no image of the workspace" in answer.json()["detail"]
    assert "came with" not in client.get(f"/api/v1/images/{'a' * 64}").json()["detail"]
    sent = client.post("/api/v1/images", content=data, headers={"Content-Type": "image/png"}).json()
    read = client.get(f"/api/v1/images/{job['image_id']}").json()
    assert sent == read | {"state": "new"}
    assert "state" not in read


# -- hostile


@pytest.fixture(scope="module")
def service(server_home, tmp_path_factory) -> Iterator[tuple[str, int, Path]]:
    """A service in a process of its own: its address, its process, its files."""
    files = tmp_path_factory.mktemp("files")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUTHLOOP_")} | {
        "TRUTHLOOP_HOME": str(server_home),
        "TRUTHLOOP_DATABASE": f"test-{os.getpid()}-hostile",
        "TRUTHLOOP_BLOBS": f"file://{files}/blobs",
    }
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, "0"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process.stdout.readline().strip(), process.pid, files
        finally:
            process.terminate()


def peak_bytes(process: int) -> int:
    """The most memory that a process has had since `forget_peak`."""
    (line,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


def forget_peak(process: int) -> None:
    Path(f"/proc/{process}/clear_refs").write_text("5")


@pytest.mark.parametrize("form", [False, True], ids=["body", "form"])
@pytest.mark.parametrize("kind", ALL, ids=str)
def test_what_is_hostile_gets_a_problem_of_4xx_in_bounded_memory_and_leaves_nothing(service, kind, form):
    address, process, files = service
    send(address, "/api/v1/images", ALL[0], headers=BEARER)  # everything is loaded
    forget_peak(process)
    before = peak_bytes(process)
    answer = send(address, "/api/v1/images", kind, headers=BEARER, form=form)

    problem = answer.problem()
    assert 400 <= problem["status"] < 500, problem
    assert TruthloopError.title != problem["title"]
    if kind in (ENDLESS, GIGABYTE):
        assert problem["status"] == 413
    assert peak_bytes(process) - before < MAX_GROWTH_BYTES
    assert blobs(files) == []
    assert httpx.get(f"{address}/healthz").status_code == 200


def test_a_small_limit_of_the_operator_s_is_the_limit(workspace, settings):
    small = workspace.settings.model_copy(update={"max_image_bytes": 2000})
    workspace.settings = workspace.store.settings = small
    with served(create_app(workspace, token=TOKEN, settings=small)) as address:
        for form in (False, True):
            data = {"files": {"image": encoded("BMP")}} if form else {"content": encoded("BMP"), "headers": JPEG}
            data["headers"] = data.get("headers", {}) | BEARER
            sent = httpx.post(f"{address}/api/v1/images", **data)
            assert (sent.status_code, "2,000" in sent.json()["detail"]) == (413, True)
