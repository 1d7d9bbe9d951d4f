"""Pure decisions: which bytes move, and where they land. No I/O, no waiting."""
