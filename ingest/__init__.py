"""Telemetry to readings to batches; device presence."""
