"""Profiles as plain data: only what a model wrote is stored, the counts are counted again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.contracts import UserView
from program.memory.semantic import Profile, count_facts


def plain_profile(profile: Profile) -> dict[str, Any]:
    """Return the part of a profile that was paid for."""
    return {"prose": profile.prose, "interaction_ids": list(profile.interaction_ids)}


def profile_from(learned: Mapping[str, Any], user: UserView) -> Profile:
    """Return the profile again."""
    return Profile(
        facts=count_facts(user.history, user.task.response_type),
        prose=learned["prose"],
        interaction_ids=tuple(learned["interaction_ids"]),
    )
