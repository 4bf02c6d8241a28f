"""Embedded PostgreSQL and mosquitto: children of the daemon, for development and the demo."""
