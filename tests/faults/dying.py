"""Methods of the product wrapped from outside, so that a daemon kills itself (SIGKILL) at one of its own steps."""

import functools
import os
import signal
from collections.abc import Callable
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, concerns: Callable[..., bool] = lambda *_: True) -> None:
    """Dies when the method is called."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **named: Any) -> Any:
        if concerns(*args):
            die()
        return original(*args, **named)

    setattr(owner, name, wrapped)


def after(owner: Any, name: str, concerns: Callable[..., bool] = lambda *_: True) -> None:
    """Dies when the coroutine has returned; `concerns` is given what it returned, too."""
    original = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*args: Any, **named: Any) -> Any:
        result = await original(*args, **named)
        if concerns(result, *args):
            die()
        return result

    setattr(owner, name, wrapped)


def after_now(owner: Any, name: str, concerns: Callable[..., bool]) -> None:
    """Dies when the method has returned."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **named: Any) -> Any:
        result = original(*args, **named)
        if concerns(*args):
            die()
        return result

    setattr(owner, name, wrapped)
