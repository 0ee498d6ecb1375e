"""Every command in the pages runs, and prints what the page says; generated pages are as the code has them."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


generate = load(ROOT / "docs" / "generate.py")
WRITTEN = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("name", generate.HAND_WRITTEN)
def test_a_page_s_commands_print_what_it_shows(name: str, face_slice: Path) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    with generate.working_folder(face_slice) as (folder, environment):
        for block in generate.blocks(page):
            for command, shown in block.commands():
                output = generate.run(command, folder, environment)
                if shown is not None:
                    assert generate.normal(output) == generate.normal(shown), f"{command}: run `make docs`"


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_as_the_code_has_it(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run `make docs`"


def test_every_page_with_commands_is_run() -> None:
    with_blocks = {
        str(path.relative_to(ROOT)) for path in WRITTEN if generate.blocks(path.read_text(encoding="utf-8"))
    }

    assert with_blocks <= set(generate.HAND_WRITTEN)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    targets: Iterable[str] = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))

    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []


@pytest.mark.parametrize("target", ["up", "photographs", "test", "check", "bench", "down", "lock", "docs"])
def test_make_knows_its_targets_and_a_dry_run_does_nothing(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A recipe that names $(MAKE) is run by a dry run, too, and starts a service.
    monkeypatch.setenv("TRUTHLOOP_HOME", str(tmp_path / "home"))
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)

    assert list(tmp_path.iterdir()) == []
