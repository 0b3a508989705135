"""What connector tasks call: pre-flight, snapshot, transfer, verify, removal. Never the ledger."""
