"""Real photographs that ship inside packages of Python, so that the loop can be shown without a download."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from truthloop.errors import FileRefused


@dataclass(frozen=True, slots=True)
class Photograph:
    """One of them."""

    package: str
    member: str  # its path within the package
    shows: str
    licence: str


# scikit-image's own notes on each are in skimage/data/_fetchers.py. Its other photographs have no licence there.
PHOTOGRAPHS = (
    Photograph(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "Grace Hopper in uniform",
        "public domain, US Navy",
    ),
    Photograph("skimage", "data/astronaut.png", "Eileen Collins in a space suit", "public domain, NASA"),
    Photograph("skimage", "data/camera.png", "a man with a camera, grey", "CC0, Lav Varshney"),
    Photograph("skimage", "data/chelsea.png", "a cat", "CC0, Stefan van der Walt"),
    Photograph("skimage", "data/coffee.png", "a cup of coffee", "CC0, Rachel Michetti"),
    Photograph("skimage", "data/rocket.jpg", "a rocket at its launch", "public domain, SpaceX"),
)


def photographs() -> list[Path]:
    """Where the photographs lie.

    Raises:
        FileRefused: the extra `demo` isn't installed.
    """
    found = {photograph: _path(photograph) for photograph in PHOTOGRAPHS}
    missing = [photograph for photograph, path in found.items() if path is None]
    there = [path for path in found.values() if path is not None]
    if missing:
        alone = f" Without it there is one: truthloop ingest {there[0]}" if there else ""
        raise FileRefused(
            f"{len(missing)} of the {len(found)} photographs are in packages that aren't installed here. Install "
            f"them: pip install 'truthloop[demo]'.{alone}"
        )
    return there


def _path(photograph: Photograph) -> Path | None:
    # Found, not imported: scikit-image alone takes longer to import than all of this to run.
    spec = importlib.util.find_spec(photograph.package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / photograph.member
    return path if path.is_file() else None
