"""What connector tasks call: pre-flight, snapshot, transfer, verify, removal. Nothing here opens the ledger."""
