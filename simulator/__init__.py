"""Simulated machines: real MQTT clients for the demo, the tests and the bench."""
