"""Firmware versions, deployments and rollouts. Comes with the firmware release; the room keeps its place in the layers."""
