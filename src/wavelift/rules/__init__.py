"""Pure rules: limits, guest support, policies, life cycles. No I/O, no clock of their own."""
