"""Live migration with VMware HCX: HCX moves running VMs; these steps decide, record, follow and verify (HCX-01 to 05).

Every function of a step may be called again after a crash, a retry or a clear, and then goes on with what the ledger
says. What HCX is asked for is written down before: see :class:`~wavelift.rules.live.LiveState`.
"""
