"""Every value of this simulator that is not documented, or of which only the number is.

The product must not depend on any of them; a test shows that it does not.
"""

from __future__ import annotations

from typing import Final

from wavelift.simulators.kit.invented import Word

BROKEN: Final = "The operation failed."
BROKEN_CODE: Final = 100
LOGIN_MESSAGE: Final = "The credentials were incorrect or the account specified has been locked."
LOGIN_STATUS: Final = 403
LOGIN_CODE: Final = 403
"""Seen of NSX for a wrong Basic login, but in no document that was read."""
TOKEN_MESSAGE: Final = "the token is not valid, or has expired"
GRANT_MESSAGE: Final = "invalid_grant: the refresh token is not valid"
NOT_FOUND_CODE: Final = 500012
NOT_FOUND_MESSAGE: Final = "The path=[{path}] is invalid"
IN_USE_MESSAGE: Final = "The segment {path} cannot be deleted: there are {count} VMs or VIFs attached to it"
PENDING_MESSAGE: Final = "The object path=[{path}] is marked for deletion"
STALE_MESSAGE: Final = "The object {path} was changed by somebody else: its revision is {revision}"
OVERLAP_MESSAGE: Final = "The subnet {subnet} overlaps with {other} of {path}"
BAD_BODY_CODE: Final = 220
BAD_FIELD_CODE: Final = 255
BAD_QUERY_CODE: Final = 60508
ROUTED: Final = "ROUTED"
DISCONNECTED: Final = "DISCONNECTED"
EXTENDED: Final = {ROUTED: "ROUTED_AND_EXTENDED", DISCONNECTED: "EXTENDED"}
"""The words are documented. Which one a segment has that HCX extends is not."""
IN_PROGRESS: Final = Word("in_progress", other="pending")
SUCCESS: Final = Word("success", other="success")
FAILED: Final = Word("failed", other="error")
"""All are documented; which one comes when is not."""
FAILURE_MESSAGE: Final = "The realisation on transport nodes failed"
FAILURE_CODE: Final = 8000
REVISION_OF_PATCH_COUNTS: Final = True
"""A PATCH with a stale ``_revision`` is refused as a PUT is."""
