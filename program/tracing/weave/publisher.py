"""Publishes personas and batches of interactions as Weave objects, so that Weave can compare versions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from program.tracing.content import ContentPolicy

_PUBLISHED_FIELDS = ("persona_before", "persona_after", "text")
_PERSONA_FIELDS = (*_PUBLISHED_FIELDS, "persona", "candidate", "current_system_prompt")
_MAX_URIS = 10_000


class Publisher:
    """Publishes a user's objects under the user's pseudonym. Equal content is one version.

    Publishes only with ``full`` content: an object without its text would be useless.
    """

    def __init__(self, client: Any, policy: ContentPolicy) -> None:
        self.policy = policy
        self._client = client
        self._project = f"{client.entity}/{client.project}"
        self._templates: dict[str, Any] = {}
        self._uris: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def persona(self, user_id: str, text: str) -> str:
        """Publish a persona text as a StringPrompt and return its reference."""
        import weave

        key = (user_id, text)
        with self._lock:
            if key in self._uris:
                return self._uris[key]
        name = f"persona-{self.policy.pseudonym(user_id)}"
        uri = self._object(name, "StringPrompt", lambda: weave.StringPrompt(text), {"content": text})
        with self._lock:
            if len(self._uris) >= _MAX_URIS:
                self._uris.clear()
            self._uris[key] = uri
        return uri

    def _dataset(self, user_id: str, rows: list[dict[str, Any]]) -> str:
        import weave

        name = f"interactions-{self.policy.pseudonym(user_id)}"
        table = {"project_id": self._project, "rows": rows, "expected_digest": None}
        digest = self._client.server.table_create({"table": table}).digest
        fields = {"name": name, "rows": f"weave:///{self._project}/table/{digest}"}
        return self._object(name, "Dataset", lambda: weave.Dataset(name=name, rows=rows), fields)

    def _object(self, name: str, kind: str, make: Callable[[], Any], fields: Mapping[str, Any]) -> str:
        """Publish an object under ``name`` and return its reference.

        Weave takes tens of milliseconds to serialize an object. So only the first of a kind is
        serialized; later ones are the first one's record with other ``fields``.
        """
        import weave

        server = self._client.server
        if kind not in self._templates:
            ref = weave.publish(make(), name=name)
            version = {"project_id": self._project, "object_id": ref.name, "digest": ref.digest}
            options = {"metadata_only": False, "include_tags_and_aliases": False}
            self._templates[kind] = server.obj_read({**version, **options}).obj.val
            return str(ref.uri)
        obj = {
            "project_id": self._project,
            "object_id": name,
            "val": {**self._templates[kind], **fields},
            "builtin_object_class": None,
            "expected_digest": None,
            "wb_user_id": None,
        }
        return f"weave:///{self._project}/object/{name}:{server.obj_create({'obj': obj}).digest}"

    def link(
        self,
        span: str,
        user_id: str | None,
        values: dict[str, Any],
        attempt: Callable[[Callable[[], None]], None],
    ) -> dict[str, Any]:
        """Return a span's values with persona texts replaced by references.

        Publishes the personas before and after a ``step``, the text of a ``persona``, and the batch
        of a ``step`` as a dataset, to which the new key ``interactions`` refers. In other spans,
        only personas published before are replaced. A text that cannot be published stays text.

        Args:
            span: Name of the span.
            user_id: The user of the span; ``None`` changes nothing.
            values: Inputs or outputs of the span, as plain data.
            attempt: Runs an action that needs the server; may skip it.
        """
        if user_id is None or self.policy.content != "full":
            return values
        references: dict[str, str] = {}
        texts = list(_texts(values)) if span in ("step", "persona") else []
        rows = _batch(values) if span == "step" else []

        def publish() -> None:
            for text in texts:
                self.persona(user_id, text)
            if rows:
                references["interactions"] = self._dataset(user_id, rows)

        if texts or rows:
            attempt(publish)
        return {**self._replace_texts(user_id, values), **references}

    def _replace_texts(self, user_id: str, value: Any, name: str = "") -> Any:
        """Return plain data in which the user's published personas are references."""
        if isinstance(value, str):
            return self._uris.get((user_id, value), value) if name in _PERSONA_FIELDS else value
        if isinstance(value, dict):
            return {key: self._replace_texts(user_id, item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self._replace_texts(user_id, item) for item in value]
        return value


def _batch(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    rollouts = (values.get("step") or {}).get("simulations") or ()
    return [{"id": r["interaction_id"], "query": r["query"], "response": r["truth"]} for r in rollouts]


def _texts(values: Mapping[str, Any]) -> Iterable[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif name in _PUBLISHED_FIELDS and isinstance(value, str) and value:
            if not value.startswith("weave:///"):
                yield value
