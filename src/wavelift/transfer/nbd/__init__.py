"""Our own NBD client: reading disks from nbdkit, qemu-nbd or any server of the fixed newstyle protocol.

``link`` is the socket, ``protocol`` the handshake and the numbers, ``connection`` the replies of one connection,
``client`` the connections to one export, ``reader`` the disk reader over it.
"""
