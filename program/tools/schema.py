"""Pydantic models of an agent's actions: one for each tool, and one for the final answer.

Their JSON schema constrains how a model writes an action, so they have only what decoding needs: no
titles, no descriptions, no additional fields.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from program.errors import ConfigError
from program.tools.base import Tool


def call_model(tool: Tool) -> type[BaseModel]:
    """Return the model of a call of ``tool``: its name as ``tool``, then its arguments.

    Raises:
        ConfigError: An argument is called ``tool``.
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
    """Return the model of the last action: ``tool`` is ``finish``, and ``answer`` has this type."""
    return _model("finish", {"answer": (answer, ...)})


def _model(name: str, fields: dict[str, Any]) -> type[BaseModel]:
    all_fields: dict[str, Any] = {"tool": (Literal[name], ...), **fields}
    return create_model(
        "".join(part.capitalize() for part in name.split("_")),
        __config__=ConfigDict(extra="forbid", json_schema_extra=_without_titles),
        **all_fields,
    )


def _without_titles(schema: dict[str, Any]) -> None:
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
