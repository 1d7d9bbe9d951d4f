"""Where object bytes are read and written: memory, the local disk, S3."""
