"""For installations that load plugins from a folder; with the wavelift package installed its entry point is enough."""

from wavelift.plugin import WaveliftPlugin  # noqa: F401
