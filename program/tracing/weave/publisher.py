"""Persona versions and interactions as Weave objects, so that Weave's own tools can compare them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from program.memory.interaction import Interaction
from program.tracing.content import ContentPolicy

_MADE_OF = ("persona_before", "persona_after", "text")
_MAY_BE = (*_MADE_OF, "persona", "candidate", "current_system_prompt")
_REMEMBERED = 10_000


class Publisher:
    """Publishes what belongs to one user under that user's pseudonym; equal content is one version.

    Only with ``full`` content: an object without its text would be of no use.
    """

    def __init__(self, client: Any, policy: ContentPolicy) -> None:
        self.policy = policy
        self._client = client
        self._project = f"{client.entity}/{client.project}"
        self._templates: dict[str, Any] = {}
        self._known: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def persona(self, user_id: str, text: str) -> str:
        """Publish a persona text as a StringPrompt and return its reference."""
        import weave

        key = (user_id, text)
        with self._lock:
            if key in self._known:
                return self._known[key]
        name = f"persona-{self.policy.pseudonym(user_id)}"
        uri = self._object(name, "StringPrompt", lambda: weave.StringPrompt(text), {"content": text})
        with self._lock:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = uri
        return uri

    def interactions(self, user_id: str, interactions: Iterable[Interaction]) -> str:
        """Publish interactions as a Dataset and return its reference."""
        rows = [{"id": i.id, "query": i.query, "response": i.response} for i in interactions]
        return self._rows(user_id, [self.policy.clean(row) for row in rows])

    def _rows(self, user_id: str, rows: list[dict[str, Any]]) -> str:
        import weave

        name = f"interactions-{self.policy.pseudonym(user_id)}"
        table = {"project_id": self._project, "rows": rows, "expected_digest": None}
        digest = self._client.server.table_create({"table": table}).digest
        changed = {"name": name, "rows": f"weave:///{self._project}/table/{digest}"}
        return self._object(name, "Dataset", lambda: weave.Dataset(name=name, rows=rows), changed)

    def _object(self, name: str, kind: str, make: Callable[[], Any], changed: Mapping[str, Any]) -> str:
        """Publish an object under ``name``; all but the first of a kind by changing the first's record.

        Weave needs tens of milliseconds to take an object apart; its record tells all of it.
        """
        import weave

        server = self._client.server
        if kind not in self._templates:
            ref = weave.publish(make(), name=name)
            wanted = {"project_id": self._project, "object_id": ref.name, "digest": ref.digest}
            options = {"metadata_only": False, "include_tags_and_aliases": False}
            self._templates[kind] = server.obj_read({**wanted, **options}).obj.val
            return str(ref.uri)
        obj = {
            "project_id": self._project,
            "object_id": name,
            "val": {**self._templates[kind], **changed},
            "builtin_object_class": None,
            "expected_digest": None,
            "wb_user_id": None,
        }
        return f"weave:///{self._project}/object/{name}:{server.obj_create({'obj': obj}).digest}"

    def linked(
        self,
        span: str,
        user_id: str | None,
        values: dict[str, Any],
        attempt: Callable[[Callable[[], None]], None],
    ) -> dict[str, Any]:
        """Return a span's plain values with persona texts replaced by references.

        The persona before and after a ``step``, and the text of a ``persona``, are published; the
        batch of a ``step`` is published as a dataset, named by ``interactions``. Elsewhere a
        persona text is replaced where it is already known. What cannot be published stays text.

        Args:
            span: Name of the span.
            user_id: Whose it is; without one nothing is published.
            values: Its inputs or outputs.
            attempt: Runs what needs the server, and may leave it out.
        """
        if user_id is None or self.policy.content != "full":
            return values
        found: dict[str, str] = {}
        texts = list(_texts(values)) if span in ("step", "persona") else []
        rows = _batch(values) if span == "step" else []

        def publish() -> None:
            for text in texts:
                self.persona(user_id, text)
            if rows:
                found["interactions"] = self._rows(user_id, rows)

        if texts or rows:
            attempt(publish)
        return {**self._replaced(user_id, values), **found}

    def _replaced(self, user_id: str, value: Any, name: str = "") -> Any:
        """Return plain data with the user's known persona texts as references."""
        if isinstance(value, str):
            return self._known.get((user_id, value), value) if name in _MAY_BE else value
        if isinstance(value, dict):
            return {key: self._replaced(user_id, item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self._replaced(user_id, item) for item in value]
        return value


def _batch(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    simulations = (values.get("step") or {}).get("simulations") or ()
    return [{"id": s["interaction_id"], "query": s["query"], "response": s["truth"]} for s in simulations]


def _texts(values: Mapping[str, Any]) -> Iterable[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif name in _MADE_OF and isinstance(value, str) and value and not value.startswith("weave:///"):
            yield value
