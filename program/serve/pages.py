"""The pages: about users, and about the API; neither loads anything from elsewhere."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from program.csp import csp_hash

_FOLDER = Path(__file__).with_name("page")


def pages_router() -> APIRouter:
    """Return the routes of the pages; they hold no data, and need no key."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs", response_class=HTMLResponse)
    async def docs(request: Request) -> HTMLResponse:
        html, css = docs_page(request.app.openapi())
        policy = f"default-src 'none'; style-src '{csp_hash(css)}'; base-uri 'none'; form-action 'none'"
        return HTMLResponse(html, headers={"Content-Security-Policy": f"{policy}; frame-ancestors 'none'"})

    @router.get("/", response_class=HTMLResponse)
    async def admin() -> HTMLResponse:
        html, policy = admin_page()
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        return HTMLResponse(html, headers=headers)

    return router


@lru_cache
def admin_page() -> tuple[str, str]:
    """Return the page about users, which has no data, and its policy: its own script alone runs."""
    html = (_FOLDER / "admin.html").read_text("utf-8")
    script, style = (html.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0] for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src '{csp_hash(script)}'; style-src '{csp_hash(style)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def docs_page(api: dict[str, Any]) -> tuple[str, str]:
    """Return the page of an OpenAPI description, and its style.

    Example:
        >>> page, _ = docs_page({"info": {"title": "x", "version": "1"}, "paths": {}})
        >>> "<script" in page
        False
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    css = (_FOLDER / "docs.css").read_text("utf-8")
    routes = [
        {
            "method": method.upper(),
            "path": path,
            "tag": (route.get("tags") or ["server"])[0],
            "about": route.get("description") or route.get("summary", ""),
            "parameters": [_parameter(each) for each in route.get("parameters", ())],
            "body": _body(api, route),
        }
        for path, methods in api["paths"].items()
        for method, route in methods.items()
    ]
    tags = list(dict.fromkeys(route["tag"] for route in routes))
    page = environment.get_template("docs.html.jinja").render(
        tags=[(tag, [route for route in routes if route["tag"] == tag]) for tag in tags],
        css=Markup(css),
    )
    return page, css


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    about = parameter.get("description") or parameter["schema"].get("description", "")
    return {"name": parameter["name"], "where": parameter["in"], "about": about}


def _body(api: dict[str, Any], route: dict[str, Any]) -> str:
    """Return the fields of a body as an example; empty without a body."""
    content = route.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if "$ref" not in schema:
        return ""
    fields = api["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    required = fields.get("required", ())
    example = {
        name: (field.get("examples") or ["..." if field.get("type") == "string" else 1])[0]
        for name, field in fields["properties"].items()
        if name in required
    }
    optional = [name for name in fields["properties"] if name not in required]
    return json.dumps(example, ensure_ascii=False) + (
        f"  - optional: {', '.join(optional)}" if optional else ""
    )
