"""Logging: JSON lines in services, readable on a terminal, and never a secret.

Everything goes through the standard library's logging, so that uvicorn's and PyMongo's lines look like ours and
a notebook or a program that embeds Truthloop keeps its own set-up: `get_logger` alone configures nothing.
"""

import logging
import re
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "***"
_SECRET_NAMES = re.compile(r"token|password|secret|authorization|cookie", re.IGNORECASE)
_SECRETS = (
    # The user and password of a MongoDB address, also where someone forgot to escape a slash in it.
    (re.compile(r"(mongodb(?:\+srv)?://)\S*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (re.compile(r"([?&]token=)[^&\s\"']+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(\bBearer\s+)[^\s\"',]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)
# uvicorn sends each message a second time, with colours.
_UVICORNS_COPY = "color_message"
# What a structlog logger does itself; the rest happens in the handler, for everybody's lines alike.
_TO_STANDARD_LIBRARY = [structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes fields: `log.info("event_stream_open", listeners=3)`."""
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=_TO_STANDARD_LIBRARY,
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast(structlog.stdlib.BoundLogger, logger)


def configure(level: str, *, json: bool | None = None, stream: TextIO | None = None) -> None:
    """Sets up the logging of this process; called once, by what starts it.

    Args:
        level: the least severity that is logged: debug, info, warning or error.
        json: one JSON object a line, else readable lines. Default: JSON unless the stream is a terminal.
        stream: where to; default standard error.
    """
    stream = stream or sys.stderr
    as_json = json if json is not None else not stream.isatty()
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Formatted here, so that what hides secrets sees the traceback as well.
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, hide_secrets, renderer],
        )
    )
    structlog.configure(
        processors=_TO_STANDARD_LIBRARY,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # Its lines carry whole addresses, with the token in them; the API logs its requests itself.
    logging.getLogger("uvicorn.access").disabled = True
    # At debug these tell of every heartbeat and command.
    for name in ("pymongo", "asyncio", "matplotlib", "PIL"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def hide_secrets(logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:  # noqa: ARG001
    """A structlog processor: passwords and tokens become `***`, by their field's name or by their form."""
    return {name: _hidden(name, value) for name, value in fields.items() if name != _UVICORNS_COPY}


def _hidden(name: str, value: Any) -> Any:
    if _SECRET_NAMES.search(name) and value is not None:
        return HIDDEN
    if isinstance(value, str):
        for pattern, replacement in _SECRETS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {key: _hidden(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden("", item) for item in value]
    return value
