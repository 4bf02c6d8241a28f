"""Alerting for tests of other rooms: nothing is watched."""

from datetime import UTC, datetime

from alerting.book import Book
from alerting.monitor import Monitor
from alerting.payloads import Texts
from config.settings import AlertingSettings
from storage.alerts import AlertLedger
from storage.database import Connection


def no_alerts(connection: Connection) -> AlertLedger:
    settings = AlertingSettings()
    book = Book(Texts(settings.message_template, "UTC"), 1)
    return AlertLedger(connection, Monitor(book, 300), "factory", lambda: datetime.now(UTC), lambda draft, messages: None)
