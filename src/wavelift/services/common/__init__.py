"""What more than one flow uses: admission, slots, the import queue, reports."""
