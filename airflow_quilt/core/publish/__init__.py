"""From a draft to a revision."""
