"""The image: what it is built from, what is in it, and the services of the compose file from it."""

import json
from pathlib import Path

import pytest

from deploy import compose, image
from deploy.compose import Document
from deploy.image import Buildah, InImage
from deploy.stack import running, simulate

# What must not be in an image: a workspace with its token, the history, and how packages are reached here.
MUST_NOT = (".git", ".truthloop", ".env", "pip.conf")


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_the_image_is_built_and_its_services_work_together(project: Document) -> None:
    buildah = Buildah(image.store())
    buildah.build()
    config = json.loads(buildah.run("inspect", "--type", "image", image.NAME))["OCIv1"]["config"]
    assert config["Entrypoint"] == ["truthloop"]
    assert config["User"] == "truthloop"
    with image.container(buildah) as (container, root), running(project, InImage(buildah, container)) as stack:
        before = files(root)
        assert not [path for path in before if path.name in MUST_NOT and path.stat().st_size]
        assert not [path for path in before if path.name == "mongod"]

        stack.up()
        simulate(stack)
        codes = stack.down()

        assert [codes[name] for name in ("relay-1", "worker-1", "api-1")] == [0, 0, 0]
        # The file mounts the root read-only: all that was written went to the volumes and to /tmp.
        assert files(root) == before


def files(root: Path) -> set[Path]:
    """The files of a container's root, without what is mounted over."""
    return {path for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


def test_a_build_gets_nothing_but_what_the_package_needs() -> None:
    lines = (compose.ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert allowed == {"LICENSE", "README.md", "pyproject.toml", "requirements.lock", "src"}
