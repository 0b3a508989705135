"""Names of the XComs by which tasks of different planes tell each other what is not their result."""

from __future__ import annotations

from typing import Final

from wavelift.base.tries import FAILURE_KEY as FAILURE_KEY

REPORT_KEY: Final = "report"
"""What the pre-flight found, and what the report says."""
ORDER_KEY: Final = "order"
"""What a task of the control plane permits a later one to do outside, if it comes to that."""
LOOK_KEY: Final = "look_at_{side}"
"""The grant of a look at the vCenter of one side."""
PAGE_KEY: Final = "page_{:05d}"
"""One page of the catalogue; the pages of 5,000 VMs are ten."""
LISTED_KEY: Final = "listed"
"""The servers that a pre-flight hands out although its run has no tasks for them."""
PROOF_KEY: Final = "wavelift_proof"
"""In which ``verify`` says that EBS does not hold the source: the control plane then quarantines the run."""
TRACKING_KEY: Final = "wavelift_tracking"
"""In which ``transfer`` says whose change tracking was wrong: the control plane then notes that it isn't believed."""
PLACE_KEY: Final = "wavelift_place"
"""In which ``reserve`` says for which server it asks at its map index, and which try of the pre-flight listed it."""
