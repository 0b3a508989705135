"""Texts as a hostile vCenter, host or VM owner would send them."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

CLEVER: Final = (
    "a\r\nX-Evil: 1",
    "a\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil",
    "a\nb",
    "a\rb",
    "a\r\n b",
    "a\x00b",
    "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g",
    " a",
    "a ",
    "\u010d\u010a",  # latin-1's or ASCII's low bytes of these are CR and LF
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe",
    "[red]x[/red] [/] [link=https://evil.example]y[/link]",
    "\ud800",
    "web01\n2026-12-01 00:00:00 ERROR all disks are lost",
    "web\u200b01\ufeff",
    "x" * 80_000,
)
texts: Final = st.one_of(st.sampled_from(CLEVER), st.text(alphabet=st.characters(codec=None), max_size=60))
"""Lone surrogates included: JSON may hold them."""
