"""Settings: frozen pydantic models, loaded once, handed down in pieces."""
