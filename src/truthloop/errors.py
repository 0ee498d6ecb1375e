"""Every error that Truthloop raises on purpose.

    TruthloopError                    what the user can do is in the text
    ├── InputRefused            422   what was sent can't be taken
    │   ├── SettingRefused            a setting has a value that isn't allowed
    │   ├── FileRefused               a file as a whole can't be read
    │   ├── CursorRefused             a page's cursor isn't one of ours
    │   ├── ImageRefused              an image can't be taken as it is
    │   └── ModelRefused              a model's file or catalogue entry can't be used
    ├── NotFound                404   what was named isn't there
    │   └── WorkspaceNotFound         no workspace here, and this command makes none
    ├── Conflict                409   it clashes with what is there
    │   ├── AlreadyRunning            another process holds the place
    │   ├── LeaseLost                 another process has taken the place over
    │   └── RevisionMismatch    412   it has changed since it was read
    ├── NotSignedIn             401   no token, or a wrong one
    ├── NotAllowed              403   known, but not permitted
    └── Unavailable             503   a service that we stand on doesn't answer
        ├── DatabaseUnavailable       MongoDB can't be reached, or went away
        ├── DatabaseRefused           MongoDB answers, but can't be used as it is
        ├── EmbeddedServerFailed      the embedded MongoDB can't start or stay up
        ├── DiskFull                  no room left for the data
        ├── KafkaUnavailable          Kafka can't be reached, or refuses us
        ├── FiguresBehind             the figures are being brought up to date
        ├── StorageUnavailable        the blob store can't be reached, read or written
        ├── ModelUnavailable          a model's file isn't there and can't be fetched
        ├── QueueFull           429   too many jobs wait already
        └── TooManyRequests     429   a caller without a token asks too often

One class for each thing that a caller would do differently. `status` is the HTTP status of its problem
document, `title` the problem's short name; the text says what is wrong and what to do. Each class has its
heading in docs/errors.md.
"""

from typing import ClassVar


class TruthloopError(Exception):
    """The root: its text is one that a user can act on."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Truthloop failed"


class InputRefused(TruthloopError):
    """What was sent can't be taken as it is.

    `errors` maps the place of each fault (`limit`, `[3].bboxes[0].left`) to its reason.
    """

    status = 422
    title = "Input refused"

    def __init__(self, text: str, *, errors: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.errors = errors or {}


class SettingRefused(InputRefused):
    """A setting has a value that isn't allowed; the text names the variable, the value and what is."""

    title = "Setting refused"


class FileRefused(InputRefused):
    """A file can't be read as what it should be."""

    title = "File refused"


class CursorRefused(InputRefused):
    """A cursor that no earlier page gave out."""

    title = "Cursor refused"


class ImageRefused(InputRefused):
    """An image can't be taken as it is: the text says what is wrong and what is allowed."""

    title = "Image refused"


class ModelRefused(InputRefused):
    """A model's file or catalogue entry can't be used as it is."""

    title = "Model refused"


class NotFound(TruthloopError):
    """What was named isn't there."""

    status = 404
    title = "Not found"


class WorkspaceNotFound(NotFound):
    """There is no workspace, and this command doesn't make one."""

    title = "No workspace"


class Conflict(TruthloopError):
    """It clashes with what is there already."""

    status = 409
    title = "Conflict"


class AlreadyRunning(Conflict):
    """Another process holds the place that this one needs."""

    title = "Already running"


class LeaseLost(Conflict):
    """Another process has taken the place over, since this one didn't renew its lease in time."""

    title = "Lease lost"


class RevisionMismatch(Conflict):
    """It has changed since it was read: read it again, then repeat the change if it still holds."""

    status = 412
    title = "Changed meanwhile"


class NotSignedIn(TruthloopError):
    """No token came with the request, or a wrong one."""

    status = 401
    title = "Not signed in"


class NotAllowed(TruthloopError):
    """The request is understood and not permitted."""

    status = 403
    title = "Not allowed"


class Unavailable(TruthloopError):
    """Something that Truthloop stands on doesn't answer; trying again may help."""

    status = 503
    title = "Unavailable"


class DatabaseUnavailable(Unavailable):
    """MongoDB can't be reached, or went away in the middle."""

    title = "MongoDB unavailable"


class DatabaseRefused(Unavailable):
    """MongoDB answers, but can't be used as it is: a standalone, too old, or wrong credentials."""

    title = "MongoDB not usable"


class EmbeddedServerFailed(Unavailable):
    """The embedded MongoDB can't start or stay up; the text shows the last lines of its log."""

    title = "Embedded MongoDB failed"


class DiskFull(Unavailable):
    """No room is left on the disk that holds the data."""

    status = 507
    title = "Disk full"


class KafkaUnavailable(Unavailable):
    """Kafka can't be reached, or refuses what we ask; the text shows what it says."""

    title = "Kafka unavailable"


class FiguresBehind(Unavailable):
    """The status figures are being brought up to date and will take longer than a request may wait."""

    title = "Figures are catching up"


class StorageUnavailable(Unavailable):
    """The blob store can't be reached, read or written."""

    title = "Storage unavailable"


class ModelUnavailable(Unavailable):
    """A model's file isn't there and can't be fetched; the text names the folder where it may be put."""

    title = "Model unavailable"


class QueueFull(Unavailable):
    """Too many jobs wait already; send it again later."""

    status = 429
    title = "Queue full"


class TooManyRequests(Unavailable):
    """Too many requests without a token came from one address; wait a moment, or send a token."""

    status = 429
    title = "Too many requests"
