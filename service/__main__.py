"""`python -m service`: reads the settings, and serves; every failure by design is one line on stderr."""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from hintwise.errors import HintwiseError, PluginUnusable
from hintwise.quick_imports import uncollected
from service import logs
from service.settings import Settings


def main() -> int:
    """Returns the process's exit status: 0 stopped as asked, 1 could not start, 2 a wrong setting.

    Reads the settings before importing anything slow, so that --help and a typo are answered at once.
    """
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for fault in error.errors():
            setting = "-".join(str(part) for part in fault["loc"]).replace("_", "-")
            _complain(f"{f'--{setting}: ' if setting else ''}{fault['msg'].removeprefix('Value error, ')}")
        return 2
    except PluginUnusable as error:  # met while looking for the describer of a setting
        _complain(str(error))
        return 1
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would take the model's core
    logs.configure(log_format=settings.log_format, log_level=settings.log_level, log_texts=settings.log_texts)
    try:
        with uncollected():
            from service.server import serve

        serve(settings)
    except HintwiseError as error:
        _complain(str(error))
        return 1
    return 0


def _complain(message: str) -> None:
    print(f"python -m service: {message}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
