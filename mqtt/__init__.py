"""The only room that speaks MQTT: topics, receiver (in), publisher (out), broker access."""
