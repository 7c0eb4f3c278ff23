"""Actions as types: one small pydantic model for each tool, and one for finishing.

They become the JSON schema that a model's action is decoded under, so they carry nothing that is not
needed there: no titles, no descriptions, no further fields.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from program.errors import ConfigError
from program.tools.base import Tool


def call_model(tool: Tool) -> type[BaseModel]:
    """Return the model of a call of ``tool``: its name in `tool`, then its arguments.

    Raises:
        ConfigError: An argument is itself called ``tool``.
    """
    if "tool" in tool.arguments:
        raise ConfigError(f"tool `{tool.name}`: an argument cannot be called `tool`; rename it")
    parameters = inspect.signature(tool.run).parameters
    arguments = {
        name: (kind, ... if parameters[name].default is inspect.Parameter.empty else parameters[name].default)
        for name, kind in tool.arguments.items()
    }
    return _model(tool.name, arguments)


def finish_model(answer: Any) -> type[BaseModel]:
    """Return the model of the last action: ``tool`` is ``finish`` and `answer` has the type given."""
    return _model("finish", {"answer": (answer, ...)})


def _model(name: str, fields: dict[str, Any]) -> type[BaseModel]:
    typed: dict[str, Any] = {"tool": (Literal[name], ...), **fields}
    return create_model(
        "".join(part.capitalize() for part in name.split("_")),
        __config__=ConfigDict(extra="forbid", json_schema_extra=_without_titles),
        **typed,
    )


def _without_titles(schema: dict[str, Any]) -> None:
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
