"""From the user's ``entries`` to files: parsing, listing, serializing."""
