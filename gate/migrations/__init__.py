"""Alembic migrations of decider's database, run by `gate init` and at every start of `gate serve`."""
