"""Alembic migrations from older store schemas to the current one."""
