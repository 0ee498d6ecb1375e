"""`truthloop settings`."""

from typing import TYPE_CHECKING, Any

from truthloop.cli.options import Debug, Json

if TYPE_CHECKING:
    from truthloop.settings import Settings


def show_settings(as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Show every setting: its value, where it came from and what it is for.

    Starts no database. Secrets are hidden.
    """
    from truthloop.cli.screen import console, write_json
    from truthloop.settings import load_settings

    settings = load_settings()
    rows = list_settings(settings)
    if as_json:
        write_json({"items": rows, "next": None})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Setting", no_wrap=True)
    table.add_column("Value", overflow="fold", style="bold")
    table.add_column("From", overflow="fold")
    for row in rows:
        table.add_row(row["name"], _shown(row["value"]), row["origin"])
    console().print(table)
    console().print("\nWhat each is for: `truthloop settings --json`.", style="dim")


def list_settings(settings: "Settings") -> list[dict[str, Any]]:
    """Each setting with its value (a secret's is `(hidden)`), its origin and its purpose."""
    from truthloop.settings import PREFIX, Settings, origin

    values = settings.model_dump(mode="json")
    return [
        {
            "name": PREFIX + name.upper(),
            "value": "(hidden)" if _is_secret(getattr(settings, name)) else values[name],
            "origin": origin(name, settings),
            "description": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]


def _is_secret(value: object) -> bool:
    from pydantic import SecretStr

    return isinstance(value, SecretStr)


def _shown(value: object) -> str:
    if value is None:
        return "(not set)"
    return f"{value:g}" if isinstance(value, float) else str(value)
