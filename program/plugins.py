"""Finds plug-ins by name and creates them with settings: methods, batch rules and gates.

A plug-in is a class. Users name it in one of three ways: a built-in name (``best``), an entry point of
an installed package, or a path (``mine:Careful``). Settings follow after a colon:
``hardest:pool_factor=6`` or ``mine:Careful:margin=0.1``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from program.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The plug-ins of one kind.

    Attributes:
        kind: The noun in error messages, such as "gate".
        group: The entry point group in which packages register plug-ins.
        built_in: Name to ``module:Class``. A module is imported when its plug-in is used.
        members: The attributes that every plug-in class has.
        listing: The command that lists the plug-ins, for error messages; may be empty.

    Example:
        >>> gates = Registry(
        ...     kind="gate", group="personaagent.gates",
        ...     built_in={"best": "optimizers.gates:Best"}, members=("decide",),
        ... )
        >>> gates.make("best")
        Best()
        >>> gates.spec_of(gates.make("best"))
        'best'
    """

    kind: str
    group: str
    built_in: Mapping[str, str]
    members: tuple[str, ...]
    listing: str = ""

    def names(self) -> list[str]:
        """Return all names: built-in ones in order of declaration, then entry points, sorted."""
        installed = sorted(point.name for point in entry_points(group=self.group))
        return [*self.built_in, *(name for name in installed if name not in self.built_in)]

    def load(self, name: str) -> type[Any]:
        """Return the class called ``name``, or at ``module:Class``.

        Raises:
            ConfigError: The name is unknown, the module cannot be imported, or the class is not a
                plug-in of this kind.
        """
        plugin = load_path(self._path(name), f"{self.kind} {name!r}")
        if not isinstance(plugin, type):
            raise ConfigError(f"{name!r} is not a {self.kind}: it is not a class")
        for member in self.members:
            if not hasattr(plugin, member):
                raise ConfigError(f"{name!r} is not a {self.kind}: it has no `{member}`")
        return plugin

    def make(self, spec: str, defaults: Mapping[str, str] | None = None) -> Any:
        """Return the plug-in that ``spec`` describes.

        Args:
            spec: A name with settings, such as ``hardest:pool_factor=6``.
            defaults: Settings as text, used if ``spec`` does not set them and the class has them.

        Raises:
            ConfigError: The class cannot be loaded, has no such setting, needs another one, or a value
                is invalid.
        """
        name, settings = split_spec(spec)
        plugin = self.load(name)
        types = parameters(plugin)
        for key in settings:
            if key not in types:
                raise ConfigError(
                    f"{self.kind} {name!r} has no setting `{key}`; it has: {', '.join(types) or 'none'}"
                )
        values = {**{key: value for key, value in (defaults or {}).items() if key in types}, **settings}
        for key, parameter in inspect.signature(plugin).parameters.items():
            if key in types and key not in values and parameter.default is parameter.empty:
                raise ConfigError(f"{self.kind} {name!r} needs the setting `{key}`: {name}:{key}=VALUE")
        return plugin(**{key: self._value(name, key, text, types[key]) for key, text in values.items()})

    def spec_of(self, plugin: Any) -> str:
        """Return the spec that recreates ``plugin``: its name, and every setting that is not the default."""
        path = f"{type(plugin).__module__}:{type(plugin).__qualname__}"
        name = next((name for name, target in self.built_in.items() if target == path), path)
        settings = ",".join(
            f"{field.name}={getattr(plugin, field.name)}"
            for field in (fields(plugin) if is_dataclass(plugin) else ())
            if getattr(plugin, field.name) != field.default
        )
        return f"{name}:{settings}" if settings else name

    def _path(self, name: str) -> str:
        if ":" in name or name in self.built_in:
            return self.built_in.get(name, name)
        for point in entry_points(group=self.group, name=name):
            return f"{point.module}:{point.attr}"
        see = f" (see `{self.listing}`)" if self.listing else ""
        raise ConfigError(
            f"unknown {self.kind} {name!r}; use one of {', '.join(self.names())}{see}, or module:Class"
        )

    def _value(self, name: str, key: str, text: str, hint: Any) -> Any:
        try:
            return TypeAdapter(hint).validate_python(text)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"{self.kind} {name!r}: `{key}` cannot be {text!r}: {reason}") from error


def load_path(path: str, label: str) -> Any:
    """Return the object at ``module:ATTRIBUTE``.

    Args:
        path: The module and the name in it, separated by a colon.
        label: The noun in error messages, such as ``gate 'mine:Careful'``.

    Raises:
        ConfigError: The module cannot be imported, or has no such attribute.

    Example:
        >>> load_path("optimizers.gates:Always", "gate")
        <class 'optimizers.gates.Always'>
    """
    module, _, attribute = path.partition(":")
    try:
        return attrgetter(attribute)(importlib.import_module(module))
    except Exception as error:  # a user's module may raise anything on import
        raise ConfigError(f"cannot load {label}: {error}") from error


def parameters(plugin: type[Any]) -> dict[str, Any]:
    """Return the settings of a class, name to type: its constructor arguments."""
    # The `__init__` of a dataclass cannot resolve the types of fields inherited from another module.
    hints = get_type_hints(plugin if is_dataclass(plugin) else plugin.__init__)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [item.name for item in inspect.signature(plugin).parameters.values() if item.kind not in variadic]
    return {name: hints.get(name, str) for name in named}


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split a spec into name and settings; ``module:Class`` is a name.

    Raises:
        ConfigError: The spec has a setting but no name.

    Example:
        >>> split_spec("rag:k=8,retrieval=dense")
        ('rag', {'k': '8', 'retrieval': 'dense'})
        >>> split_spec("mine:Careful:margin=0.1")
        ('mine:Careful', {'margin': '0.1'})
    """
    head, equals, rest = spec.partition("=")
    if not equals:
        return spec, {}
    name, colon, first = head.rpartition(":")
    if not colon:
        raise ConfigError(f"cannot read {spec!r}; write it like rag:k=8,retrieval=dense")
    pairs = [pair.partition("=") for pair in f"{first}={rest}".split(",")]
    return name, {key.strip(): value.strip() for key, _, value in pairs}
