"""For installations that load plugins from a folder. If the wavelift package is installed, its entry point suffices."""

from wavelift.plugin import WaveliftPlugin  # noqa: F401
