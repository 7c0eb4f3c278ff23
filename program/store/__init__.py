"""Stores users, interactions, persona versions and alignments in a database."""

from program.store.user_store import UserStore

__all__ = ["UserStore"]
