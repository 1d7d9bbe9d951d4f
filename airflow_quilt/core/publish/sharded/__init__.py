"""One push or build shared by many workers: plan, transfer, commit (ADR 0013)."""
