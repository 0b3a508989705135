"""Telling people of alerts of cutovers, each once, by the notifiers of the settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from wavelift.operators.control._plane import ControlOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.ledger import Ledger
    from wavelift.services.cutover.watch import Alert

TITLES: Final[Mapping[str, str]] = {
    "fence": "its switched-off source is on, or connected, or can't be seen",
    "nobody_serves": "perhaps nobody serves it",
    "person": "a person must do a step of its cutover",
}


class TellingOperator(ControlOperator):
    """Base of what tells people of alerts."""

    def tell(self, ledger: Ledger, alerts: Collection[Alert], kind: str, context: Context) -> None:
        from wavelift.airflow.notifiers import Kind, Notice, notify

        for each in alerts:
            self.log.error("%s", each.words)
            subject = " ".join(part for part in (each.cutover, each.about, each.since.isoformat()) if part)
            title = f"{each.server} (wave {each.wave}): {TITLES[kind]}"
            details = {"cutover": each.cutover, "server": each.server}
            notice = Notice(
                kind=Kind(kind),
                subject=subject,
                title=title,
                text=each.words,
                at=each.since,
                wave=each.wave,
                details=details,
            )
            notify(ledger, notice, context)
