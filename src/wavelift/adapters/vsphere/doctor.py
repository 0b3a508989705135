"""The connection's *Test* button."""

from __future__ import annotations

from wavelift.adapters.vsphere.session import VsphereConfig, connect


def test_connection(config: VsphereConfig) -> str:
    """One line on vCenter, its API version and who we are.

    :raises WaveliftError: what is wrong and which option cures it.
    """
    with connect(config) as session:
        about = session.about
        return f"{about.full_name} (API {about.api_version}) at {config.place}, signed in as {session.user}"


test_connection.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it where tests import it
