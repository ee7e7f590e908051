"""Turns flags, HINTWISE_ variables and a TOML file into a configuration.

    flag  >  HINTWISE_TOTAL_STEPS  >  --config FILE (total_steps = ...)  >  default

A name that no setting has is an error, with the nearest one that exists.
"""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from worker.algorithms.hyperparameters import defaults_of
from worker.errors import UsageError

ENV_PREFIX = "HINTWISE_"
METAVARS: Mapping[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH", dict: "JSON"}

Config = TypeVar("Config", bound=BaseModel)
Values = dict[str, Any]


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, raised."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def read_config(config: type[Config], arguments: Sequence[str], *, prog: str, environ: Mapping[str, str]) -> Config:
    """Returns the settings of one verb.

    Args:
        config: The model whose fields are the settings.
        arguments: What follows the verb on the command line.
        prog: The command, for help and messages.
        environ: Environment variables; only those of the model's fields are read.

    Raises:
        UsageError: Something is unknown, missing or out of bounds; the message says what and where.
    """
    parser = build_parser(config, prog)
    known, unknown = parser.parse_known_intermixed_args(arguments)  # a list may stand before flags and after
    if unknown:
        flags = [flag(name) for name in config.model_fields]
        raise UsageError(f"unknown argument {unknown[0]}{nearest(unknown[0], flags)}; see {prog} --help")
    flagged = vars(known)
    file = flagged.pop("config", None)
    named = {variable(name): name for name, field in config.model_fields.items() if not _is_list(field)}
    from_environ = {name: environ[key] for key, name in named.items() if environ.get(key)}
    from_file = _read_file(file, config) if file else {}
    try:
        return config.model_validate(from_file | from_environ | flagged)
    except ValidationError as error:
        origins = _origins(flagged, from_environ, from_file, file)
        raise UsageError("; ".join(_complaints(error, origins, config))) from error


def build_parser(config: type[BaseModel], prog: str) -> Parser:
    """Returns a parser with one flag per field, grouped by the class that declares it."""
    positional = [_metavar(name, field) for name, field in config.model_fields.items() if _is_positional(field)]
    parser = Parser(
        prog=prog,
        usage=" ".join([prog, *positional, "[options]"]),
        description=config.__doc__,
        epilog=f"A flag wins over {ENV_PREFIX}<NAME> in the environment, which wins over the file given to --config.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for owner, names in _by_owner(config):
        group = parser if owner is config else parser.add_argument_group((owner.__doc__ or "").strip())
        for name in names:
            field = config.model_fields[name]
            group.add_argument(_argument(name, field), **_options(name, field))
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these settings, by name.")
    return parser


def _by_owner(config: type[BaseModel]) -> Iterator[tuple[type[BaseModel], list[str]]]:
    """Yields each class of the configuration that declares fields, with their names."""
    seen: set[str] = set()
    for owner in config.__mro__:
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            own = [name for name in owner.__annotations__ if name in config.model_fields and name not in seen]
            seen.update(own)
            if own:
                yield owner, own


def _is_positional(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("positional"))


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def variable(name: str) -> str:
    """Returns the environment variable of a setting."""
    return f"{ENV_PREFIX}{name.upper()}"


def _metavar(name: str, field: FieldInfo) -> str:
    return f"{name.upper().removesuffix('S')}..." if _is_list(field) else name.upper()


def flag(name: str) -> str:
    """Returns the flag of a setting."""
    return f"--{name.replace('_', '-')}"


def _argument(name: str, field: FieldInfo) -> str:
    return name if _is_positional(field) else flag(name)


def _options(name: str, field: FieldInfo) -> dict[str, Any]:
    kinds = _kinds(field.annotation)
    note = "(required)" if field.is_required() else f"(default: {_default_text(field)})"
    help_text = f"{field.description} {'' if _is_positional(field) else note}".strip().replace("%", "%%")
    if field.annotation is bool:
        return {"action": argparse.BooleanOptionalAction, "help": help_text}
    if all(isinstance(kind, str) for kind in kinds):  # what a Literal allows
        return {"metavar": "|".join(map(str, kinds)), "help": help_text}
    if _is_positional(field):
        # "?": it may come from the environment; "*": what is missing is told in our own words
        return {"metavar": _metavar(name, field), "nargs": "*" if _is_list(field) else "?", "help": help_text}
    return {"metavar": "|".join(METAVARS.get(kind, str(kind)) for kind in kinds), "help": help_text}


def _default_text(field: FieldInfo) -> str:
    """Returns a default as help shows it, with those of algorithms that have another."""
    plain = "none" if field.default is None else str(field.default)
    return ", ".join([plain, *(f"{algorithm} {value}" for algorithm, value in defaults_of(field).items())])


def _kinds(annotation: Any) -> list[Any]:
    """Returns what an annotation allows besides None: `Annotated[float, ...] | None` is [float]."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return [dict]
    if get_args(annotation):
        return [kind for part in get_args(annotation) if part is not type(None) for kind in _kinds(part)]
    return [annotation]


def _read_file(file: str, config: type[BaseModel]) -> Values:
    try:
        with Path(file).open("rb") as opened:
            values = tomllib.load(opened)
    except OSError as error:
        raise UsageError(f"--config {file}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {file} is not TOML: {error}") from error
    for key in values:
        if key not in config.model_fields:
            raise UsageError(f"--config {file}: unknown setting {key}{nearest(key, config.model_fields)}")
    return values


def nearest(word: str, choices: Iterable[str]) -> str:
    """Returns `; did you mean ...?` with the choice that looks most like `word`, or nothing."""
    found = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _origins(flagged: Values, from_environ: Values, from_file: Values, file: str | None) -> dict[str, str]:
    """Returns where each given setting came from, in the user's own words."""
    origins = {name: f"{name} = {value!r} in {file}" for name, value in from_file.items()}
    origins |= {name: f"{variable(name)}={value}" for name, value in from_environ.items()}
    return origins | {name: f"{flag(name)} {value}" for name, value in flagged.items()}


def _complaints(error: ValidationError, origins: Mapping[str, str], config: type[BaseModel]) -> Iterator[str]:
    for offence in error.errors(include_url=False):
        message = offence["msg"].removeprefix("Value error, ")
        if not offence["loc"]:  # about several settings at once; the message names them
            yield message
            continue
        name = str(offence["loc"][0])
        wanted = _argument(name, config.model_fields[name])
        if offence["type"] == "missing":
            yield f"{wanted.upper() if wanted == name else wanted} is missing"
        else:
            yield f"{origins.get(name, name)}: {message[0].lower()}{message[1:]}"
