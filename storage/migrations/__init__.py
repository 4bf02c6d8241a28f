"""Alembic's environment: `storage.migrate` runs the numbered revisions in `versions`."""
