"""Stores profiles in a run folder: the model's text is saved, the counts are recomputed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.contracts import UserView
from program.memory.semantic import Facts, Profile, count_facts

EMPTY_PROFILE = Profile(facts=Facts(interactions=0))
"""The profile of a user without a history."""


def profile_as_dict(profile: Profile) -> dict[str, Any]:
    """Return the part of a profile that cannot be recomputed, as plain data."""
    return {"prose": profile.prose, "interaction_ids": list(profile.interaction_ids)}


def restore_profile(saved: Mapping[str, Any], user: UserView) -> Profile:
    """Return the profile that `profile_as_dict` saved for ``user``."""
    return Profile(
        facts=count_facts(user.history, user.task.response_type),
        prose=saved["prose"],
        interaction_ids=tuple(saved["interaction_ids"]),
    )
