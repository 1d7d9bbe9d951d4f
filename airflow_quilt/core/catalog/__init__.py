"""The Quilt service: its configuration, logins and temporary S3 credentials."""
