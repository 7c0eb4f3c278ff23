"""What clients send; FastAPI checks it before a route runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

_Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]


class _Body(BaseModel):
    # A field that is misspelt would be ignored in silence.
    model_config = ConfigDict(extra="forbid")


class NewInteraction(_Body):
    """What a user asked, and what the user's true response was."""

    query: _Text = Field(examples=["What shall I cook?"])
    response: _Text = Field(examples=["Lentils."])
    id: str | None = Field(None, min_length=1, max_length=256, description="By default a new one.")
    timestamp: AwareDatetime | None = Field(None, description="With a timezone; by default now.")
    metadata: dict[str, str] = Field(default_factory=dict, max_length=100)
    task: str | None = Field(None, description="Adds a user who is not stored yet, with this task.")


class Query(_Body):
    """What a user asks."""

    query: _Text = Field(examples=["And what tomorrow?"])


class Approval(_Body):
    """The current version, as the person who approves it has seen it."""

    version: int = Field(ge=1, le=2**31 - 1)


class Rollback(_Body):
    """The version to go back to."""

    version: int = Field(ge=1, le=2**31 - 1)


class Correction(_Body):
    """A person's own correction: a line without a text is taken out, a text without a line is added."""

    line: str | None = Field(None, min_length=1, max_length=100_000, description="The text of a line.")
    text: str | None = Field(None, min_length=1, max_length=1000, examples=["Likes old comedies."])
    why: str = Field("", max_length=1000, description="The reason, shown with the new version.")
