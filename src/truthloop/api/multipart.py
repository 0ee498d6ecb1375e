"""An image in a request's body: the body itself, or the field `image` of a form. Read once, in bounded memory.

FastAPI's own forms go through a temporary file, and take twice the time (bench/uploads.py).
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from truthloop.api.receiving import Receiving
from truthloop.errors import InputRefused

T = TypeVar("T")

FIELD = "image"
# A form needs these for its other fields; what is larger is no form that a person or a program fills in.
MAX_PARTS, MAX_HEADERS, MAX_HEADER_BYTES, MAX_FIELD_BYTES = 16, 8, 4096, 4096
# Images looked at and stored at a time. Others wait on the event loop, and leave the threads to those who read.
AT_ONCE = 16

SEND_FILE = "send the file: -F image=@PATH"


@dataclass(frozen=True, slots=True)
class Upload:
    """What came with a request."""

    data: bytes
    name: str | None = None  # the file's, where the client says it
    fields: dict[str, str] = field(default_factory=dict)  # the form's other fields, of a few characters each


@asynccontextmanager
async def received(request: Request, *, max_bytes: int) -> AsyncIterator[Upload]:
    """The image that a request carries, as its body or as the field `image` of a form.

    It is to be stored inside this context, at whose end its memory counts as free (`truthloop.api.receiving`).
    Nothing is looked at but its size: what it is, its content tells (`truthloop.ingest.image_file.check`).

    Args:
        request: its body is unread. `request.state.stranger` is the address of a caller who may send without a
            token, where it is one.
        max_bytes: the most that the image may have.

    Raises:
        HTTPException: 413 for a larger one, 415 for another type of body, 408 for one that comes too slowly, 503
            where too much is being sent at once.
        InputRefused: the form lacks the file, has another in its place, or is cut off.
        TooManyRequests: a stranger sends too many at once.
    """
    receiving: Receiving = request.app.state.receiving
    with receiving.place(getattr(request.state, "stranger", None)) as place:
        reader = _reader(request, max_bytes)
        try:
            async with aclosing(receiving.chunks(request)) as chunks:
                async for chunk in chunks:
                    reader.write(chunk)
                    place.hold(reader.size)
            upload = reader.upload()
        finally:
            reader.clear()
        yield upload


def _reader(request: Request, max_bytes: int) -> "_Body":
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        return _Form(options.get(b"boundary", b""), max_bytes)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        return _Body(max_bytes)
    raise HTTPException(
        415, f"The body must be an image (Content-Type: image/jpeg, image/png, ...) or a form; {SEND_FILE}."
    )


async def in_turn(request: Request, work: Callable[[], T]) -> T:
    """Runs what decodes or stores an image on a thread, a few at a time."""
    state = request.app.state
    if not hasattr(state, "image_work"):
        state.image_work = CapacityLimiter(AT_ONCE)
    return await to_thread.run_sync(work, limiter=state.image_work)


class _Body:
    """The body itself."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()  # in one piece, so that its memory goes back to the system
        self.size = 0  # of what is held of the image

    def write(self, chunk: bytes) -> None:
        self._keep(chunk)

    def upload(self) -> Upload:
        return Upload(bytes(self._data))

    def clear(self) -> None:
        """Lets go of the data at once: the form's parser and the form refer to each other."""
        self._data.clear()

    def _keep(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self._max_bytes:
            # The rest isn't read, so the connection can't be used again.
            text = f"The image file is too large: at most {self._max_bytes:,} bytes are taken."
            raise HTTPException(413, text, {"Connection": "close"})
        self._data += chunk


class _Form(_Body):
    """A form with the file in its field `image`."""

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._parts = 0
        self._header = b""
        self._value = b""
        self._name = ""
        self._is_file = self._has_image = self._ended = False
        self._file_name: str | None = None
        self._text: list[bytes] = []
        self._text_size = 0
        self._fields: dict[str, str] = {}
        if not boundary:
            raise InputRefused(f"The form has no boundary in its Content-Type; {SEND_FILE}.")
        callbacks: Any = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        with _form_errors():
            self._parser = MultipartParser(
                boundary, callbacks, max_header_count=MAX_HEADERS, max_header_size=MAX_HEADER_BYTES
            )

    def write(self, chunk: bytes) -> None:
        if self._ended:  # what follows the form is nobody's
            return
        with _form_errors():
            self._parser.write(chunk)

    def upload(self) -> Upload:
        if not self._ended:
            raise InputRefused("The form is cut off. Send it again.")
        if not self._has_image:
            raise _refused_field("missing")
        data = bytes(self._data)
        if self._file_name is None and _is_text(data):
            raise _refused_field("a text")
        return Upload(data, self._file_name, self._fields)

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InputRefused(f"The form has more than {MAX_PARTS} fields; {SEND_FILE}.")
        self._name, self._is_file = "", False
        self._text, self._text_size = [], 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        header, value = self._header.lower(), self._value
        self._header = self._value = b""
        if header == b"content-disposition":
            _, options = parse_options_header(value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            name = options.get(b"filename")
            if name is not None:
                self._is_file = True
                if self._name == FIELD:
                    self._file_name = name.decode("utf-8", "replace") or None
        elif header == b"content-type" and value.startswith((b"image/", b"application/octet-stream")):
            self._is_file = True

    def _on_headers_finished(self) -> None:
        if self._name == FIELD:
            if not self._is_file:
                raise _refused_field("a text")
            if self._has_image:
                raise _refused_field("there twice")
            self._has_image = True
        elif self._name in self._fields:
            name = self._name[:64]
            raise InputRefused(f"The form has the field {name} twice. Send it once.", errors={name: "there twice"})
        elif self._is_file:
            raise InputRefused(f"The file must be in the field {FIELD}; {SEND_FILE}.", errors={FIELD: "missing"})

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FIELD:
            self._keep(data[start:end])
            return
        self._text_size += end - start
        if self._text_size > MAX_FIELD_BYTES:
            raise InputRefused(f"A field of the form has more than {MAX_FIELD_BYTES:,} bytes; {SEND_FILE}.")
        self._text.append(data[start:end])

    def _on_part_end(self) -> None:
        if self._name and self._name != FIELD:
            self._fields[self._name] = b"".join(self._text).decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._ended = True


def _is_text(data: bytes) -> bool:
    """Whether it is a path, say, that was sent in place of the file: `-F 'image=PATH;type=image/jpeg'` does so."""
    try:
        return len(data) <= MAX_FIELD_BYTES and data.decode().isprintable()
    except UnicodeDecodeError:
        return False


@contextmanager
def _form_errors() -> Iterator[None]:
    """Turns the parser's errors into ours."""
    try:
        yield
    except FormParserError as error:
        raise InputRefused(f"The form can't be read ({error}); {SEND_FILE}.") from error


def _refused_field(what: str) -> InputRefused:
    return InputRefused(f"The field {FIELD} is {what}; {SEND_FILE}.", errors={FIELD: f"{what}; {SEND_FILE}"})
