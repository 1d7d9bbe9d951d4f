"""Object bytes on their way: upload, download, multipart, hashing."""
