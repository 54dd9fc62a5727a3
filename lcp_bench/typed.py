"""Turn plain mappings into dataclasses, strictly, with messages that name the key.

Used instead of OmegaConf's structured configs because those accept keys added with `+` and cannot express `Literal`
choices or tuples; here every unknown key, wrong type and missing value is one `ConfigError` with the full key in it.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from lcp_bench.errors import ConfigError

T = TypeVar("T")


def closest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that `name` was probably meant to be, or None if nothing is near (difflib ratio below 0.5)."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[matches[0]] if matches else None


def suggestion(name: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` if a choice is near, else the empty string."""
    match = closest(name, choices)
    return f"; did you mean {match!r}?" if match else ""


def dotted_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Full names of all leaf keys of a dataclass, depth first."""
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        name = f"{prefix}{field.name}"
        if is_dataclass(hints[field.name]):
            yield from dotted_keys(hints[field.name], f"{name}.")
        else:
            yield name


def unknown_key(path: str, key: str, siblings: Sequence[str], everywhere: Sequence[str] = ()) -> ConfigError:
    """The error for a key that the schema does not have.

    Args:
        path: Dotted name of the mapping that holds the key, empty at the top.
        key: The unknown key.
        siblings: Keys that the mapping may have.
        everywhere: Dotted names of all keys; one that ends in `key` is suggested if the user left out its section.
    """
    full = f"{path}.{key}" if path else key
    prefix = f"{path}." if path else ""
    moved = [repr(name) for name in everywhere if name.rpartition(".")[2] == key]
    match = closest(key, siblings)
    meant = " or ".join(moved) or (repr(prefix + match) if match else "")
    hint = f"; did you mean {meant}?" if meant else "."
    what, where = ("key", f"keys of {path}") if path else ("group or key", "groups and keys")
    return ConfigError(f"unknown {what} {full!r}{hint} The {where}: {', '.join(sorted(siblings)) or 'none'}")


def require(condition: bool, key: str, expected: str, value: object) -> None:
    """Raise `ConfigError` "KEY must be EXPECTED, got VALUE" unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key} must be {expected}, got {value!r}")


def require_range(key: str, value: float | None, low: float, high: float) -> None:
    """Raise `ConfigError` unless the value is absent or in `low..high`."""
    if value is not None:
        require(low <= value <= high, key, f"in {low}..{high}", value)


def expand(key: str, folder: str) -> str:
    """A folder of the configuration with `~` spelt out; an empty one is a `ConfigError`."""
    require(bool(folder.strip()), key, "a folder", folder)
    return str(Path(folder).expanduser())


def build(cls: type[T], data: Any, path: str, everywhere: Sequence[str] = ()) -> T:
    """Construct dataclass `cls` from plain data (as `OmegaConf.to_container` gives it).

    Args:
        cls: A dataclass; its fields may be bool, int, float, str, None, Any, Literal, unions, lists, tuples, dicts and
            further dataclasses.
        data: A mapping from field names to values.
        path: Dotted name of the mapping, for messages; empty at the top.
        everywhere: See `unknown_key`.

    Raises:
        ConfigError: `data` is not a mapping, has an unknown key, lacks a field without default, or a value does not
            have the field's type. Errors of the dataclass' own `__post_init__` pass through.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or 'the configuration'} must be a group of keys, got {data!r}")
    known = {field.name: field for field in fields(typing.cast(Any, cls)) if field.init}
    for key in data:
        if key not in known:
            raise unknown_key(path, str(key), tuple(known), everywhere)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in known.items():
        full = f"{path}.{name}" if path else name
        if name in data:
            values[name] = convert(data[name], hints[name], full, everywhere)
        elif _has_no_default(field):
            raise ConfigError(f"{full} is missing; set it with {full}=VALUE")
    return cls(**values)


def convert(value: Any, hint: Any, path: str, everywhere: Sequence[str] = ()) -> Any:
    """`value` as type `hint`; numbers are never parsed from text and never rounded.

    Raises:
        ConfigError: The value does not fit; the message names `path`, the type and the value.
    """
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is Literal:
        return _choice(value, typing.get_args(hint), path)
    if origin in (Union, types.UnionType):
        return _union(value, typing.get_args(hint), path, everywhere)
    if origin in (list, tuple, Sequence):
        return _sequence(value, hint, path, everywhere)
    if origin in (dict, Mapping):
        return _mapping(value, hint, path, everywhere)
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, path, everywhere)
    return _scalar(value, hint, path)


def check_choices(cls: type, data: Any, path: str) -> None:
    """Check only the `Literal` fields of unresolved data, ignoring interpolations (`${...}`) and anything odd.

    A misspelt choice can make an interpolation elsewhere point to nothing; this finds the cause instead of the effect.

    Raises:
        ConfigError: A choice does not exist.
    """
    if not isinstance(data, Mapping):
        return
    for name, hint in typing.get_type_hints(cls).items():
        value, full = data.get(name), f"{path}.{name}" if path else name
        if isinstance(hint, type) and is_dataclass(hint):
            check_choices(hint, value, full)
        elif typing.get_origin(hint) is Literal and isinstance(value, str) and "${" not in value:
            convert(value, hint, full)


def _has_no_default(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _refuse(path: str, hint: Any, value: Any) -> ConfigError:
    return ConfigError(f"{path} must be {describe(hint)}, got {value!r}")


def _choice(value: Any, choices: tuple[Any, ...], path: str) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    names = [str(choice) for choice in choices]
    hint = suggestion(str(value), names)
    raise ConfigError(f"{path} must be one of {', '.join(names)}; got {value!r}{hint}")


def _union(value: Any, members: tuple[Any, ...], path: str, everywhere: Sequence[str]) -> Any:
    if value is None and type(None) in members:
        return None
    others = [member for member in members if member is not type(None)]
    failures: list[ConfigError] = []
    for member in others:
        try:
            return convert(value, member, path, everywhere)
        except ConfigError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise ConfigError(f"{path} must be {' or '.join(describe(member) for member in members)}, got {value!r}")


def _sequence(value: Any, hint: Any, path: str, everywhere: Sequence[str]) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _refuse(path, hint, value)
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is tuple and Ellipsis not in arguments:
        if len(value) != len(arguments):
            raise _refuse(path, hint, value)
        members = arguments
    else:
        members = (arguments[0],) * len(value)
    items = [
        convert(item, member, f"{path}[{i}]", everywhere)
        for i, (item, member) in enumerate(zip(value, members, strict=True))
    ]
    return items if origin is list else tuple(items)


def _mapping(value: Any, hint: Any, path: str, everywhere: Sequence[str]) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(path, hint, value)
    key_hint, value_hint = typing.get_args(hint)
    return {
        convert(key, key_hint, path, everywhere): convert(item, value_hint, f"{path}.{key}", everywhere)
        for key, item in value.items()
    }


def _scalar(value: Any, hint: Any, path: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and number and math.isfinite(value):
        return float(value)
    if hint is int and number and isinstance(value, int):
        return value
    # `dataset.name=2024` is parsed as a number before the schema is known; as a name it is meant as text.
    if hint is str and (isinstance(value, str) or (number and isinstance(value, int))):
        return str(value)
    if hint not in (int, float, str) and isinstance(hint, type) and isinstance(value, hint):
        return value
    raise _refuse(path, hint, value)


_WORDS = {
    int: "an integer",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def describe(hint: Any) -> str:
    """A type in the user's words, for example `an integer or null`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} values, for example [{','.join('1' * len(arguments))}]"
    if origin in (list, tuple, Sequence):
        return "a list"
    if origin in (dict, Mapping) or is_dataclass(hint):
        return "a group of keys"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
