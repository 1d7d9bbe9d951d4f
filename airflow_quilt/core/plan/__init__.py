"""Pure decisions: which bytes move, and where they land. Nothing here reads, writes or waits."""
