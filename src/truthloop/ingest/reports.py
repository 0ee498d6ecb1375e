"""What a load answers: counts for each file, with some of everything that is worth a look named."""

from dataclasses import dataclass

from pydantic import Field, computed_field

from truthloop.answers import Answer

# How many are named in a report; the files of rejects and of notes have all.
NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """How far a load has come; given to the caller after each batch."""

    file: str
    file_number: int  # from 1
    files: int
    read: int  # documents of this file so far
    bytes_read: int  # of this file; compressed, where it is
    bytes_total: int  # 0 where it isn't known
    checking: bool = False  # the first of the two passes of a strict load


class Named(Answer):
    """How many there are, and the first few of them."""

    count: int = 0
    examples: tuple[str, ...] = ()


class Counts(Answer):
    """What became of the documents that were read. The marks below are of documents that can be stored."""

    read: int = Field(default=0, description="Documents read, refused ones included.")
    new: int = Field(default=0, description="Stored by this load; with dry_run, that would be.")
    already_there: int = Field(default=0, description="Skipped, since the same document is stored already.")
    replaced: int = Field(default=0, description="Took the place of another content under the same key.")
    refused: int = Field(default=0, description="Not stored, for a fault of their own.")
    conflicts: int = Field(default=0, description="Not stored, since their key has another content.")


class FileReport(Counts):
    """What became of one file."""

    file: str
    collection: str
    error: str | None = Field(default=None, description="Why the file was not read to its end, if it wasn't.")
    refusals: tuple[str, ...] = Field(default=(), description="The first refusals and conflicts.")
    nulls: Named = Field(default=Named(), description="Annotations of no face; by image id, as those below.")
    swapped: Named = Field(default=Named(), description="Documents with a box of swapped corners or no area.")
    outside: Named = Field(default=Named(), description="Documents with a box that reaches beyond the image.")
    unknown_images: Named = Field(default=Named(), description="Image ids that are not in metadata.")
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all of it is stored."""
        return not (self.refused or self.conflicts or self.error)


class LoadReport(Answer):
    """What became of a load: a report for each file, in the order of loading."""

    items: tuple[FileReport, ...]
    rejects: str | None = Field(default=None, description="The file that holds all refusals, if there are any.")
    notes: str | None = Field(
        default=None, description="The file that names all that is stored and worth a look, if there is any."
    )
    dry_run: bool = Field(default=False, description="Nothing was to be stored.")
    stopped: bool = Field(default=False, description="Nothing was stored: strict, and something is refused.")
    seconds: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether everything is stored; the exit status of the command is 1 otherwise."""
        return all(item.ok for item in self.items)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def totals(self) -> Counts:
        """The sums over all files."""
        return Counts(**{name: sum(getattr(item, name) for item in self.items) for name in Counts.model_fields})


class InterruptedLoad(Answer):
    """A load that was cut short and not made good since."""

    file: str = Field(description="Where it lies; of made-up documents the command that makes them.")
    collection: str
    command: str = Field(description="What loads it again, and so makes it good.")
