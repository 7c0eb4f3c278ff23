"""Pydantic models of an agent's actions: one for each tool, and one for the final answer.

Their JSON schema constrains how a model writes an action, so they have only what decoding needs: no
titles, no descriptions, no defaults, no additional fields. Providers with strict schemas require every
field, so an optional argument may also be ``null``, which stands for its default.
"""

from __future__ import annotations

import copyreg
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Optional, get_args
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, PydanticUserError, WrapValidator, create_model
from pydantic.annotated_handlers import GetJsonSchemaHandler

from program.errors import ConfigError
from program.json_schema import is_open, parts
from program.text import one_line
from program.tools.base import Tool

_MAX_REASON_CHARS = 160
_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class _Field:
    """An argument of a call: its type, and its default if it has one."""

    kind: Any
    default: Any = _REQUIRED

    def definition(self) -> tuple[Any, Any]:
        """Return the field as `pydantic.create_model` takes it."""
        if self.default is _REQUIRED:
            return self.kind, ...
        if self.kind is Any or type(None) in get_args(self.kind):
            return self.kind, self.default
        nullable: Any = Optional.__getitem__(self.kind)
        return Annotated[nullable, WrapValidator(self._null_is_default)], self.default

    def _null_is_default(self, value: Any, validate: Any) -> Any:
        return self.default if value is None else validate(value)


class _ActionClass(type(BaseModel)):  # type: ignore[misc]
    """The class of action models, so that pickle knows them."""


# No module holds an action model: pickle creates it again.
copyreg.pickle(_ActionClass, lambda model: (_action_class, (model._tool, model._arguments)))


class Action(BaseModel, metaclass=_ActionClass):
    """An action; its field ``tool`` is the tool's name, or ``finish``."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    _tool: ClassVar[str] = ""
    _arguments: ClassVar[Mapping[str, _Field]] = {}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        own = handler.resolve_ref_schema(schema)
        own.pop("title", None)
        for field in own.get("properties", {}).values():
            field.pop("title", None)
        for part in parts(own, handler.resolve_ref_schema):
            part.pop("default", None)
            if is_open(part):
                # DSPy closes every schema whose type is the word `object`: only {} would fit.
                part["type"] = ["object"]
        return schema


_classes: WeakValueDictionary[Any, type[Action]] = WeakValueDictionary()


def call_model(tool: Tool) -> type[Action]:
    """Return the model of a call of ``tool``: its name as ``tool``, then its arguments.

    Raises:
        ConfigError: An argument is called ``tool``, begins with an underscore, or has a type that a
            model cannot write.
    """
    for name in tool.arguments:
        if name in ("tool", "model_config") or name.startswith("_"):
            raise ConfigError(f"tool `{tool.name}`: an argument cannot be called `{name}`; rename it")
    defaults = tool.defaults()
    return _action_class(
        tool.name,
        {name: _Field(kind, defaults.get(name, _REQUIRED)) for name, kind in tool.arguments.items()},
    )


def finish_model(answer: Any) -> type[Action]:
    """Return the model of the last action: ``tool`` is ``finish``, and ``answer`` has this type."""
    return _action_class("finish", {"answer": _Field(answer)})


def _action_class(tool: str, arguments: Mapping[str, _Field]) -> type[Action]:
    """Return the class of an action; while it is in use, equal arguments return the same one."""
    try:
        key = tool, tuple((name, type(field.default), field) for name, field in arguments.items())
        return _classes.get(key) or _classes.setdefault(key, _new_action_class(tool, arguments))
    except TypeError:  # a default that cannot be hashed, such as a list
        return _new_action_class(tool, arguments)


def _new_action_class(tool: str, arguments: Mapping[str, _Field]) -> type[Action]:
    constant: Any = Literal.__getitem__(tool)
    definitions: dict[str, Any] = {name: argument.definition() for name, argument in arguments.items()}
    with warnings.catch_warnings():
        # An argument may be called like a method of pydantic's models, such as `json` or `copy`.
        warnings.filterwarnings("ignore", "Field name .* shadows an attribute in parent", UserWarning)
        try:
            model: type[Action] = create_model(
                "".join(part.capitalize() for part in tool.split("_")),
                __base__=Action,
                __module__=__name__,
                tool=(constant, ...),
                **definitions,
            )
        except (NameError, TypeError, ValueError, PydanticUserError) as error:
            reason = one_line(error, _MAX_REASON_CHARS)
            raise ConfigError(f"tool `{tool}`: a model cannot write its arguments: {reason}") from error
    model._tool, model._arguments = tool, arguments
    return model
