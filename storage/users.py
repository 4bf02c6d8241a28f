"""People: who owns devices, and who may act on alerts."""

import re
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import errors
from psycopg.rows import class_row

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.refusals import Conflict, InvalidInput, NotFound

ROLES = ("admin", "operator", "user")
LOGIN = re.compile(r"[a-z0-9._-]{1,64}")
EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+")
MAX_LENGTH = 255


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to be made; checked when it is."""

    login: str
    email: str
    name: str
    role: str
    password_hash: str
    """bcrypt; "!" never matches."""


@dataclass(frozen=True, slots=True)
class UserView:
    """A user as people see it."""

    login: str
    name: str
    email: str
    role: str
    has_password: bool
    devices: int
    """How many it owns, without the retired."""
    created_at: datetime


LIST = """
    SELECT u.login, u.name, u.email, u.role::text, u.password_hash <> '!' AS has_password,
        (SELECT count(*) FROM devices d WHERE d.user_id = u.id AND d.retired_at IS NULL) AS devices, u.created_at
    FROM users u WHERE u.login > %s ORDER BY u.login LIMIT %s"""


def add_user(settings: DatabaseSettings, user: NewUser) -> None:
    """Makes a user.

    Raises:
        InvalidInput: a field cannot be used.
        Conflict: login or e-mail address is taken.
    """
    check_user(user)
    values = [user.login, user.email, user.name, user.role, user.password_hash]
    with command_connection(settings) as connection:
        try:
            connection.execute(
                "INSERT INTO users (login, email, name, role, password_hash) VALUES (%s, %s, %s, %s, %s)", values
            )
        except errors.UniqueViolation as error:
            what = f"login {user.login}" if "login" in (error.diag.constraint_name or "") else f"e-mail address {user.email}"
            raise Conflict(f"{what} is taken; factoryd user list shows all users") from error


def check_user(user: NewUser) -> None:
    """Raises InvalidInput if a field cannot be used."""
    if LOGIN.fullmatch(user.login) is None:
        raise InvalidInput(f"{user.login[:80]!r} cannot be a login: use 1 to 64 of a-z 0-9 . _ -")
    if EMAIL.fullmatch(user.email) is None or len(user.email) > MAX_LENGTH:
        raise InvalidInput(f"{user.email[:80]!r} is no e-mail address")
    if user.role not in ROLES:
        raise InvalidInput(f"{user.role[:80]!r} is no role: use {', '.join(ROLES)}")
    if not user.name or len(user.name) > MAX_LENGTH or not user.name.isprintable():
        raise InvalidInput(f"name: give 1 to {MAX_LENGTH} printable characters")


def refuse_stranger(connection: psycopg.Connection, login: str) -> None:
    """Raises NotFound if there is no such person."""
    if connection.execute("SELECT FROM users WHERE login = %s", [login]).fetchone() is None:
        raise NotFound(f"user {login} does not exist; factoryd user list shows all, factoryd user add makes one")


def list_users(settings: DatabaseSettings, *, after: str = "", limit: int = 1000) -> list[UserView]:
    """Returns a page of users in the order of their logins, those after `after`."""
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(UserView)) as cursor:
        return cursor.execute(LIST, [after, limit]).fetchall()
