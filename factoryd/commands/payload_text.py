"""PURE. Payloads for people's eyes."""


def payload_text(payload: bytes) -> tuple[str, str]:
    """Returns ("text", …) for a payload that is printable UTF-8, else ("hex", …)."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return "hex", payload.hex(" ", -4)
    if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return "text", text
    return "hex", payload.hex(" ", -4)
