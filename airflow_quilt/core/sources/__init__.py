"""From the ``entries`` of a user to files: parsing, listing, serializing."""
