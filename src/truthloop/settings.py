"""Every setting, from the environment or the workspace's `truthloop.toml`, with its default."""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from truthloop.blob_address import blob_folder
from truthloop.errors import SettingRefused

PREFIX = "TRUTHLOOP_"
FILE_NAME = "truthloop.toml"
# Whose values no message shows.
_SECRET = ("token", "mongodb_uri", "kafka_sasl_password", "kafka_ssl_key_password")


class Settings(BaseSettings):
    """What a process of Truthloop is told from outside; built once by `load_settings` and passed in.

    The environment wins over the file; an empty variable is as good as none. In the file the names are in lower
    case, without the prefix: `TRUTHLOOP_MONGODB_URI` is `mongodb_uri`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    home: Path = Field(
        description="The workspace folder. Default: `.truthloop` in the current folder or in the nearest "
        "parent folder that has one."
    )
    mongodb_uri: SecretStr | None = Field(
        default=None,
        description="A MongoDB replica set or sharded cluster to use instead of the embedded one.",
    )
    database: str = Field(
        default="truthloop",
        min_length=1,
        max_length=38,  # MongoDB's own limit is 63 bytes on a sharded cluster and in Atlas 38
        pattern=r"^[A-Za-z0-9_-]+$",
        description="The name of the MongoDB database that is the workspace.",
    )
    mongod_idle_seconds: float = Field(
        default=60.0,
        ge=1.0,
        le=86_400.0,
        description="How long the embedded MongoDB stays up after its last user has gone.",
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address that `truthloop up` listens on; beyond loopback only with TRUTHLOOP_TOKEN.",
    )
    port: int = Field(default=8080, ge=1, le=65_535, description="The port that `truthloop up` listens on.")
    public_url: str | None = Field(
        default=None, description="The address by which people reach the service, used in links and as Host."
    )
    url: str | None = Field(
        default=None,
        description="Where the service is, for commands that speak HTTP (`truthloop simulate`). Default: the one "
        "that runs for this workspace.",
    )
    token: SecretStr | None = Field(
        default=None,
        description="The bearer token that requests must carry, 32 characters or more. Default: one that "
        "`truthloop up` makes and keeps in the workspace folder.",
    )
    blobs: str | None = Field(
        default=None,
        description="Where files are kept: a folder's whole path, or an address such as `s3://bucket/folder`, "
        "`gs://`, `az://`, `file:///folder`; keys and passwords stay in the environment, as the cloud's own tools "
        "have them. "
        "Default: the folder `blobs` of the workspace folder.",
    )
    models: Path | None = Field(
        default=None,
        description="A folder in which model files are looked for first. Default: only the cache of this user.",
    )
    max_image_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024, le=1024**3, description="The largest image file that is taken."
    )
    max_image_pixels: int = Field(
        default=100_000_000, ge=1024, le=1_000_000_000, description="The most pixels that an image may have."
    )
    max_queued_jobs: int = Field(
        default=10_000, ge=1, le=10_000_000, description="How many jobs may wait; beyond that new ones get 429."
    )
    job_lease_seconds: float = Field(
        default=30.0,
        ge=1.0,
        le=3_600.0,
        description="How long a worker holds a job without a sign of life before another may take it.",
    )
    outline_anonymous: bool = Field(
        default=False, description="Whether the two paths of the outline service are open without a token."
    )
    kafka_bootstrap_servers: str | None = Field(
        default=None,
        min_length=1,
        description="The Kafka brokers to begin with, `host:port`, several with commas. With it `truthloop relay` "
        "takes the events there; without it nothing needs Kafka.",
    )
    kafka_topic_partitions: int = Field(
        default=6,
        ge=1,
        le=10_000,
        description="How many partitions a topic gets when the relay makes it; one that exists stays as it is.",
    )
    kafka_security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        default="plaintext", description="How to speak to the Kafka brokers."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How to sign in at Kafka; needed with `sasl_plaintext` and `sasl_ssl`."
    )
    kafka_sasl_username: str | None = Field(default=None, description="The user at Kafka.")
    kafka_sasl_password: SecretStr | None = Field(default=None, description="That user's password.")
    kafka_ssl_ca_location: Path | None = Field(
        default=None,
        description="A file with the certificates of those who may vouch for the brokers. Default: the system's.",
    )
    kafka_ssl_certificate_location: Path | None = Field(
        default=None, description="Our own certificate for Kafka, a PEM file, where the brokers ask for one."
    )
    kafka_ssl_key_location: Path | None = Field(
        default=None, description="The key of that certificate, a PEM file."
    )
    kafka_ssl_key_password: SecretStr | None = Field(default=None, description="The password of that key.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severity that is logged."
    )

    @field_validator("token")
    @classmethod
    def _long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < 32:
            raise ValueError("must have 32 characters or more")
        return token

    @field_validator("mongodb_uri")
    @classmethod
    def _is_mongodb(cls, uri: SecretStr | None) -> SecretStr | None:
        if uri is not None and not uri.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return uri

    @field_validator("blobs")
    @classmethod
    def _is_blob_address(cls, address: str | None) -> str | None:
        if address is not None:
            blob_folder(address)  # raises ValueError
        return address

    @field_validator("public_url", "url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise ValueError("must be an http:// or https:// address")
        return url.rstrip("/") if url else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then what `load_settings` read from the file."""
        return env_settings, init_settings


def find_home(start: Path) -> Path:
    """The workspace folder for a process that works in `start`: found as git finds its own.

    `.truthloop` in `start` or in its nearest parent that has one, else the one that would be made in `start`.
    """
    for folder in (start, *start.parents):
        if (folder / ".truthloop").is_dir():
            return folder / ".truthloop"
    return start / ".truthloop"


def load_settings(home: Path | str | None = None) -> Settings:
    """Reads the settings of this process.

    Args:
        home: the workspace folder; wins over TRUTHLOOP_HOME.

    Raises:
        SettingRefused: a value isn't allowed, a name is unknown, or the file is no TOML.
    """
    chosen = home or os.environ.get(f"{PREFIX}HOME")
    folder = Path(chosen).expanduser().absolute() if chosen else find_home(Path.cwd())
    values = _read_file(folder / FILE_NAME)
    _refuse_misspelt()
    try:
        # TRUTHLOOP_HOME itself may be relative; `folder` is what it means.
        return Settings(**values, home=folder).model_copy(update={"home": folder})
    except ValidationError as error:
        raise SettingRefused(_explain(error, folder / FILE_NAME, values)) from None


def origin(name: str, settings: Settings) -> str:
    """Where a setting's value came from: its variable, the file, or `default`."""
    if os.environ.get(f"{PREFIX}{name.upper()}"):
        return f"{PREFIX}{name.upper()}"
    if name in _read_file(settings.home / FILE_NAME):
        return str(settings.home / FILE_NAME)
    return "default"


def _refuse_misspelt() -> None:
    """Refuses a variable that looks like a misspelt setting; others of the prefix may be somebody else's.

    (Kubernetes, say, gives each container the variables `TRUTHLOOP_SERVICE_HOST` and the like.)
    """
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            alike = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            if alike:
                raise SettingRefused(f"{name} is no setting. Is it {alike[0]} that you mean? Rename or unset it.")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingRefused(f"{path} is not valid TOML ({error}). Correct it, or remove the file.") from None
    except OSError as error:
        raise SettingRefused(f"{path} can't be read: {error.strerror}. Make it readable.") from None
    if "home" in values:
        raise SettingRefused(f"{path} sets home, which is the folder that it lies in. Remove that line.")
    return values


def _explain(error: ValidationError, path: Path, values: dict[str, Any]) -> str:
    lines = []
    for fault in error.errors():
        name = str(fault["loc"][0])
        variable = f"{PREFIX}{name.upper()}"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            lines.append(f"{path} has {name}, which is no setting. Remove it; `truthloop settings` lists all.")
        else:
            place = variable if os.environ.get(variable) else f"{name} in {path}" if name in values else variable
            # An address with an @ in it may hold a password.
            is_secret = name in _SECRET or (name == "blobs" and "@" in str(fault["input"]))
            shown = "(hidden)" if is_secret else repr(fault["input"])
            lines.append(f"{place} is {shown}: {message[0].lower()}{message[1:]}.")
    return " ".join(lines)
