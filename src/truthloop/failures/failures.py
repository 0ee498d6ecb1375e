"""Where the model was wrong: on the images that are asked for, or on all of them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from truthloop.datasets.rule import Document, verdict_on
from truthloop.errors import NotFound
from truthloop.failures.against import Image, Version, against
from truthloop.failures.documents import (
    EdgesAnswer,
    FailureItem,
    FailuresState,
    ImageFailures,
    UnjudgedPrediction,
    escaped,
)
from truthloop.failures.kinds import Edges, Item, Kind
from truthloop.failures.read import check_model_versions, read_audits, read_images
from truthloop.failures.selection import Selection, check_iou, check_selection, texts
from truthloop.monitor.read import is_image_id
from truthloop.monitor.recount import ranges
from truthloop.store.connection import Store

# Images compared at once: enough that a batch costs little more than its boxes, and few enough for a query.
BATCH = 10_000
# An error names so many ids at most.
_NAMED = 5
# The collections whose documents are read; a range has a bounded number of each.
_READ = (("metadata", "image_id"), ("bbox.model", "image_id"), ("bbox.human_annotation", "image_id"))
# What `all_failures` leaves out unless it is asked for: it is no failure.
FAILURES = frozenset(Kind) - {Kind.MATCH}


def failures(
    store: Store, image_ids: Iterable[str], *, selection: Selection | None = None, min_iou: float = 0.0
) -> list[ImageFailures]:
    """Each prediction of each model version against the annotations that the dataset's rule takes.

    Args:
        store: the workspace.
        image_ids: which images, in any order; one that is named twice is answered twice.
        selection: which items; all by default, matches too. If it names model versions, the answers are as if
            there were no others: an image that they haven't looked at isn't predicted.
        min_iou: in [0, 1]; boxes whose IoU is lower aren't paired at all.

    Returns:
        One answer an id, in the order given.

    Raises:
        NotFound: an id isn't in `metadata`.
        InputRefused: `min_iou` isn't in [0, 1], or an argument is of another type.
    """
    check_iou("min_iou", min_iou)
    check_selection(selection)
    chosen = selection or Selection()
    asked = texts("image_id", image_ids)
    wanted = list(dict.fromkeys(image_id for image_id in asked if _can_be_id(image_id)))
    answers: dict[str, ImageFailures] = {}
    for start in range(0, len(wanted), BATCH):
        documents = read_images(store, {"$in": wanted[start : start + BATCH]})
        images = against(documents, min_iou=min_iou, model_versions=chosen.model_versions)
        audits = read_audits(store, [image.image_id for image in images if image.unjudged])
        for image in images:
            answers[image.image_id] = answer(image, chosen, audits.get(image.image_id, ()))
    if unknown := [image_id for image_id in dict.fromkeys(asked) if image_id not in answers]:
        named = ", ".join(f'"{escaped(image_id[:100])}"' for image_id in unknown[:_NAMED])
        more = f" and {len(unknown) - _NAMED:,} more" if len(unknown) > _NAMED else ""
        raise NotFound(
            f"{named}{more}: no such image in metadata. `truthloop images --state processed` lists images."
        )
    return [answers[image_id] for image_id in asked]


def all_failures(
    store: Store,
    *,
    selection: Selection | None = None,
    min_iou: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ImageFailures]:
    """The failures of the whole workspace, image by image in the order of their ids; memory stays flat.

    Each image is read at one moment; a later one may be read at a later moment.

    Args:
        store: the workspace.
        selection: which items; all but matches, unless it names kinds.
        min_iou: in [0, 1]; boxes whose IoU is lower aren't paired at all.
        progress: called with the number of images looked at.

    Returns:
        The annotated images with such an item. If the selection names no kind, size or IoU, also those with a box
        or document that can't be compared, whatever their state.

    Raises:
        InputRefused: `min_iou` isn't in [0, 1], there is no prediction of a model version that is named, or an
            argument is of another type.
    """
    check_iou("min_iou", min_iou)
    check_selection(selection)
    asked = selection or Selection()
    check_model_versions(store, asked.model_versions)
    chosen = asked if asked.kinds else _with_kinds(asked)
    return _all(store, asked, chosen, min_iou, progress)


def _all(
    store: Store,
    asked: Selection,
    chosen: Selection,
    min_iou: float,
    progress: Callable[[int], None] | None,
) -> Iterator[ImageFailures]:
    images = all_images(store, min_iou=min_iou, model_versions=asked.model_versions, progress=progress)
    for image in images:
        has_invalid = asked.takes_all and bool(image.invalid)
        if not has_invalid and not any(_chosen(image, chosen)):
            continue
        # Few images: those whose annotation or prediction can't be used.
        audits = read_audits(store, [image.image_id])[image.image_id] if image.unjudged else ()
        yield answer(image, chosen, audits)


def _with_kinds(selection: Selection) -> Selection:
    return Selection(
        model_versions=selection.model_versions,
        kinds=FAILURES,
        sizes=selection.sizes,
        iou_at_least=selection.iou_at_least,
        iou_below=selection.iou_below,
    )


def all_images(
    store: Store,
    *,
    min_iou: float = 0.0,
    model_versions: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Iterator[Image]:
    """Every image of `metadata`, compared, in the order of their ids."""
    seen = 0
    with store.errors():
        for which in ranges(store, _READ):
            documents = read_images(store, which)
            for start in range(0, len(documents), BATCH):
                yield from against(
                    documents[start : start + BATCH], min_iou=min_iou, model_versions=model_versions
                )
            seen += len(documents)
            if progress is not None:
                progress(seen)


def answer(image: Image, selection: Selection, audits: Sequence[Document] = ()) -> ImageFailures:
    """What is said of an image, with the items that are wanted.

    Args:
        image: of the model versions that are wanted.
        selection: which of its items.
        audits: the image's, for the verdicts on predictions that nothing is compared with.
    """
    items = [_item(item, version, image.task_version or "") for version, item in _chosen(image, selection)]
    return ImageFailures(
        image_id=image.image_id,
        state=image.state,
        # Left to its default, the field isn't there as JSON.
        **({"items": items} if image.state is FailuresState.ANNOTATED else {}),
        predictions=[
            UnjudgedPrediction(
                model_version=each.model_version,
                verdict=verdict_on(each.model_version, audits),
                boxes=[EdgesAnswer(**edges.document()) for edges in each.boxes],
            )
            for each in image.unjudged
        ],
        invalid=list(image.invalid),
    )


def _chosen(image: Image, selection: Selection) -> Iterator[tuple[Version, Item]]:
    for version in image.versions:
        for item in version.compared.items:
            if selection.takes(item):
                yield version, item


def _item(item: Item, version: Version, task_version: str) -> FailureItem:
    return FailureItem(
        image_id=item.image_id,
        predicted=_edges(item.predicted),
        annotated=_edges(item.annotated),
        delta=_edges(item.delta),
        model_version=version.model_version,
        task_version=task_version,
        iou=item.iou,
        kind=item.kind,
    )


def _edges(edges: Edges | None) -> EdgesAnswer | None:
    return None if edges is None else EdgesAnswer(**edges.document())


def _can_be_id(text: str) -> bool:
    try:
        return is_image_id(text)
    except UnicodeEncodeError:  # bytes of a command line that are no text
        return False
