"""EBS direct: snapshots in sparse files, with parents, tokens, checksums and states."""
