from pathlib import Path

import pytest

from truthloop.errors import SettingRefused
from truthloop.settings import Settings, find_home, load_settings, origin


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TRUTHLOOP_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".truthloop"
    folder.mkdir()
    return folder


def test_the_nearest_parent_folder_with_a_workspace_is_found_as_git_finds_its_own(home: Path):
    deep = home.parent / "a" / "b"
    deep.mkdir(parents=True)

    assert find_home(deep) == home


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    (home / "truthloop.toml").write_text('port = 9000\ndatabase = "faces"\n')
    monkeypatch.setenv("TRUTHLOOP_PORT", "9001")

    settings = load_settings()

    assert (settings.port, settings.database, settings.host) == (9001, "faces", "127.0.0.1")
    assert origin("port", settings) == "TRUTHLOOP_PORT"
    assert origin("database", settings) == str(home / "truthloop.toml")
    assert origin("host", settings) == "default"


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name != "home"])
def test_an_empty_variable_is_as_good_as_none(home: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    # Compose passes one on for a line `TRUTHLOOP_LOG_LEVEL=` in its .env.
    default = load_settings()
    monkeypatch.setenv(f"TRUTHLOOP_{name.upper()}", "")

    settings = load_settings()

    assert settings == default
    assert origin(name, settings) == "default"


def test_an_empty_variable_leaves_the_value_in_the_file(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "truthloop.toml").write_text('log_level = "debug"\n')
    monkeypatch.setenv("TRUTHLOOP_LOG_LEVEL", "")

    settings = load_settings()

    assert settings.log_level == "debug"
    assert origin("log_level", settings) == str(home / "truthloop.toml")


def test_an_error_in_the_file_isnt_blamed_on_an_empty_variable(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "truthloop.toml").write_text("port = 0\n")
    monkeypatch.setenv("TRUTHLOOP_PORT", "")

    with pytest.raises(SettingRefused, match=r"port in .*truthloop\.toml is 0"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PORT", "99999", "TRUTHLOOP_PORT is '99999': input should be less than or equal to 65535"),
        ("TOKEN", "short", "TRUTHLOOP_TOKEN is (hidden): must have 32 characters or more"),
        ("MONGODB_URI", "http://host", "TRUTHLOOP_MONGODB_URI is (hidden): must begin with mongodb://"),
        (
            "PUBLIC_URL",
            "example.com",
            "TRUTHLOOP_PUBLIC_URL is 'example.com': must be an http:// or https:// address",
        ),
        ("DATABASE", "a b", "TRUTHLOOP_DATABASE is 'a b'"),
    ],
)
def test_a_bad_value_names_its_variable_and_what_is_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
):
    monkeypatch.setenv(f"TRUTHLOOP_{variable}", value)

    with pytest.raises(SettingRefused) as caught:
        load_settings()

    assert said in str(caught.value)


def test_an_unknown_name_in_the_file_is_refused(home: Path):
    (home / "truthloop.toml").write_text("prot = 1\n")

    with pytest.raises(SettingRefused, match="has prot, which is no setting"):
        load_settings()


def test_a_file_that_is_no_toml_is_refused(home: Path):
    (home / "truthloop.toml").write_text("port: 1\n")

    with pytest.raises(SettingRefused, match="not valid TOML"):
        load_settings()


def test_the_file_cannot_move_the_folder_that_it_lies_in(home: Path):
    (home / "truthloop.toml").write_text('home = "elsewhere"\n')

    with pytest.raises(SettingRefused, match="sets home"):
        load_settings()


def test_a_home_that_is_given_wins_over_the_variable(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRUTHLOOP_HOME", "relative")

    assert load_settings().home == tmp_path / "relative"
    assert load_settings(tmp_path / "given").home == tmp_path / "given"


def test_secrets_are_not_shown_when_settings_are_printed(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRUTHLOOP_TOKEN", "x" * 40)
    monkeypatch.setenv("TRUTHLOOP_MONGODB_URI", "mongodb://user:hunter2@host")

    shown = repr(load_settings())

    assert "x" * 40 not in shown
    assert "hunter2" not in shown


def test_a_misspelt_variable_is_refused_and_the_right_one_named(monkeypatch):
    monkeypatch.setenv("TRUTHLOOP_MONGO_URI", "mongodb://somewhere")

    with pytest.raises(SettingRefused, match="Is it TRUTHLOOP_MONGODB_URI that"):
        load_settings()


def test_a_variable_of_the_prefix_that_is_somebody_elses_is_left_alone(monkeypatch):
    monkeypatch.setenv("TRUTHLOOP_SERVICE_HOST", "10.0.0.1")

    load_settings()
