"""What more than one flow uses: slots, the import queue, remote jobs, reports."""
