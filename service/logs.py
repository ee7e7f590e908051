"""Log lines on stderr, for people or for machines: one event is one line, whatever it quotes.

No observation and no hint text is ever logged unless `log_texts` asks for it, so a trace shows
where a failure was and of what kind, but not its message: Python's messages quote their values.
"""

from __future__ import annotations

import logging
import sys
import traceback
from functools import partial
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, WrappedLogger


def configure(*, log_format: str, log_level: str, log_texts: bool = False) -> None:
    """Makes structlog and the standard library's loggers write one shape of line to stderr."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    trace = partial(_trace, with_messages=log_texts)
    renderer: structlog.types.Processor
    if log_format == "json":
        shared.append(structlog.processors.ExceptionRenderer(trace))
        renderer = structlog.processors.JSONRenderer()  # which escapes whatever is not ASCII
    else:

        def write_trace(stream: TextIO, exc_info: ExcInfo) -> None:
            stream.write("\n" + trace(exc_info))

        shared.append(_escape)
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=write_trace)
    level = getattr(logging, log_level.upper())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _trace(exc_info: ExcInfo, *, with_messages: bool) -> str:
    """Returns the frames and kinds of an error and what caused it, indented, so that no line passes for an event."""
    lines: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None:
        told = with_messages or isinstance(error, OSError)  # the machine's words: a full disk, a missing file
        message = f": {error}" if told else " (--log-texts shows its message)"
        frames = "".join(traceback.format_tb(error.__traceback__)).splitlines()
        lines = [*frames, f"{type(error).__qualname__}{message}", *(["which led to", *lines] if lines else [])]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(f"    {_printable(line)}" for line in lines)


def _escape(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Escapes control characters: a path or a tensor's name can hold a line break, or commands to a terminal."""
    return {key: _printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
