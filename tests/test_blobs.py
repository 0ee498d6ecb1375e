"""What every blob store does: a folder, and obstore's own store in memory, which stands for the object stores."""

import hashlib
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from obstore.store import MemoryStore

from truthloop.blob_address import blob_folder
from truthloop.blobs import Blobs, is_key
from truthloop.errors import NotFound, SettingRefused, StorageUnavailable
from truthloop.settings import load_settings

DATA = b"the bytes of a file"
KEY = hashlib.sha256(DATA).hexdigest()
HOSTILE_KEYS = (
    "",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    KEY.upper(),
    KEY + "/..",
    KEY[:63] + "\n",
    KEY + "\n",
    "\x00" * 64,
    "aa/bb/" + KEY,
    "é" * 64,
)


class BlobStoreContract:
    """The tests; each store's class gives `blobs`, and `raw_keys`, which looks behind them."""

    @pytest.fixture
    def blobs(self) -> Blobs:
        raise NotImplementedError

    def raw_keys(self, blobs: Blobs) -> list[str]:
        return sorted(each["path"].rpartition("/")[2] for page in blobs._store.list() for each in page)

    def test_a_key_is_the_sha_256_of_its_bytes_which_come_back(self, blobs):
        assert blobs.put(DATA) == KEY
        assert blobs.get(KEY) == DATA
        assert type(blobs.get(KEY)) is bytes
        assert self.raw_keys(blobs) == [KEY]

    def test_no_bytes_are_a_blob_as_well(self, blobs):
        assert blobs.get(blobs.put(b"")) == b""

    def test_the_same_bytes_twice_are_one_blob(self, blobs):
        blobs.put(DATA)
        blobs.put(DATA)

        assert self.raw_keys(blobs) == [KEY]

    def test_eight_at_once_that_put_the_same_all_succeed(self, blobs):
        keys, start = [], threading.Barrier(8)

        def put() -> None:
            start.wait()
            keys.append(blobs.put(DATA * 100_000))

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(keys) == 8
        assert self.raw_keys(blobs) == [keys[0]]

    def test_has_tells_what_is_there(self, blobs):
        assert not blobs.has(KEY)
        blobs.put(DATA)
        assert blobs.has(KEY)

    def test_what_isn_t_there_is_not_found(self, blobs):
        with pytest.raises(NotFound, match=KEY):
            blobs.get(KEY)

    def test_what_is_deleted_is_gone_and_deleting_again_is_no_error(self, blobs):
        blobs.put(DATA)
        blobs.delete(KEY)
        blobs.delete(KEY)

        assert self.raw_keys(blobs) == []

    def listed(self, blobs: Blobs, *, aside: bool = False) -> list[str]:
        return [each.key for page in (blobs.files_aside() if aside else blobs.files()) for each in page]

    def test_what_is_set_aside_is_out_of_use_and_can_still_be_read(self, blobs):
        blobs.put(DATA)
        blobs.set_aside(KEY)
        blobs.set_aside(KEY)

        assert not blobs.has(KEY)
        assert blobs.get(KEY) == DATA
        assert (self.listed(blobs), self.listed(blobs, aside=True)) == ([], [KEY])

    def test_what_was_set_aside_is_put_back_or_forgotten(self, blobs):
        blobs.put(DATA)
        blobs.set_aside(KEY)
        blobs.put_back(KEY)
        blobs.put_back(KEY)
        assert (self.listed(blobs), self.listed(blobs, aside=True)) == ([KEY], [])

        blobs.set_aside(KEY)
        blobs.forget(KEY)
        blobs.forget(KEY)
        assert self.raw_keys(blobs) == []

    def test_what_is_stored_anew_beside_what_was_set_aside_stays_when_that_is_forgotten(self, blobs):
        blobs.put(DATA)
        blobs.set_aside(KEY)
        blobs.put(DATA)
        blobs.forget(KEY)

        assert self.listed(blobs) == [KEY]

    def test_a_file_s_time_is_when_it_was_stored_and_then_when_it_was_set_aside(self, blobs):
        before = blobs.mark()
        blobs.put(DATA)
        ((stored,),) = blobs.files()
        between = blobs.mark()
        blobs.set_aside(KEY)
        ((aside,),) = blobs.files_aside()

        assert before <= stored.modified <= between <= aside.modified <= blobs.mark()
        assert stored.size == aside.size == len(DATA)

    def test_more_files_than_a_page_holds_are_all_listed(self, blobs):
        keys = {blobs.put(b"%d" % number) for number in range(1200)}

        pages = [*blobs.files()]

        assert len(pages) > 1
        assert {each.key for page in pages for each in page} == keys

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_a_key_that_is_none_reaches_no_file(self, blobs, key):
        blobs.put(DATA)

        with pytest.raises(NotFound):
            blobs.get(key)
        assert not blobs.has(key)
        blobs.delete(key)
        for verb in (blobs.set_aside, blobs.put_back, blobs.forget):
            with pytest.raises(NotFound):
                verb(key)
        assert not is_key(key)
        assert self.raw_keys(blobs) == [KEY]


class TestFolder(BlobStoreContract):
    @pytest.fixture
    def blobs(self, settings, tmp_path) -> Blobs:
        return Blobs.open(settings.model_copy(update={"home": tmp_path}))

    def test_a_folder_that_can_t_be_made_is_told_with_its_name(self, settings, tmp_path):
        (tmp_path / "blobs").write_text("a file in its place")

        with pytest.raises(StorageUnavailable, match="blobs can't be made"):
            Blobs.open(settings.model_copy(update={"home": tmp_path}))

    def test_a_folder_that_was_taken_away_is_unavailable_and_not_a_traceback(self, blobs, tmp_path):
        (tmp_path / "blobs").rmdir()
        (tmp_path / "blobs").write_text("a file in its place")

        with pytest.raises(StorageUnavailable):
            blobs.put(DATA)


class TestFileAddress(TestFolder):
    @pytest.fixture
    def blobs(self, settings, tmp_path) -> Blobs:
        return Blobs.open(settings.model_copy(update={"blobs": f"file://{tmp_path}/blobs"}))


class TestMemory(BlobStoreContract):
    @pytest.fixture
    def blobs(self) -> Blobs:
        return Blobs(MemoryStore(), place="memory")


def test_by_default_files_lie_in_the_workspace_s_folder(settings, tmp_path: Path):
    Blobs.open(settings.model_copy(update={"home": tmp_path})).put(DATA)

    assert (tmp_path / "blobs" / KEY[:2] / KEY[2:4] / KEY).read_bytes() == DATA


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nonsense://x", "is of no kind that is known"),
        ("memory:///", "is of no kind that is known"),
        ("http://example.org/x", "is of no kind that is known"),
        ("file://relative/x", "must have three slashes"),
        ("relative/x", "is no whole path"),
        (" ", "is no whole path"),
        ("file:///a%00b", "is no whole path"),
        ("file:///a#b", "must have no \\? and no #"),
        ("s3://bucket?token=x", "must have no \\? and no #"),
        ("s3://", "names no bucket"),
        ("s3:///folder", "names no bucket"),
    ],
)
def test_an_address_that_can_t_be_used_is_refused_in_one_line_that_says_what_is_allowed(
    settings, monkeypatch, tmp_path, address, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUTHLOOP_BLOBS", address)

    with pytest.raises(SettingRefused, match=f"TRUTHLOOP_BLOBS is '.*': {told}.*s3://BUCKET") as raised:
        load_settings()
    with pytest.raises(SettingRefused, match=told):
        Blobs.open(settings.model_copy(update={"blobs": address}))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["s3://key:hunter2@bucket", "s3://hunter2@bucket", "abfss://c:hunter2@account"]
)
def test_an_address_with_a_password_is_refused_and_not_shown(settings, monkeypatch, address):
    monkeypatch.setenv("TRUTHLOOP_BLOBS", address)

    with pytest.raises(SettingRefused, match=r"TRUTHLOOP_BLOBS is \(hidden\): must hold no key") as raised:
        load_settings()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("address", ["{}", "file://{}", "FILE://{}", "file://localhost{}"])
def test_a_folder_may_be_given_as_it_is_or_as_an_address(settings, tmp_path, address):
    folder = tmp_path / "my blobs"
    path = str(folder) if address == "{}" else quote(str(folder))
    Blobs.open(settings.model_copy(update={"blobs": address.format(path)})).put(DATA)

    assert (folder / KEY[:2] / KEY[2:4] / KEY).read_bytes() == DATA


@pytest.mark.parametrize(
    "address", ["s3://bucket/a", "S3://bucket", "gs://bucket", "abfss://c@account.dfs.core.windows.net/a"]
)
def test_an_object_store_s_address_is_no_folder(address):
    assert blob_folder(address) is None


def test_an_object_store_that_lacks_something_is_told_in_one_line(settings, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)

    with pytest.raises(
        SettingRefused, match="TRUTHLOOP_BLOBS is 'az://container', which can't be used: "
    ) as raised:
        Blobs.open(settings.model_copy(update={"blobs": "az://container"}))
    assert "\n" not in str(raised.value)
    assert "Debug" not in str(raised.value)
