"""Thresholds to alert transitions to published alerts. Comes with the alerting release; the room keeps its place."""
