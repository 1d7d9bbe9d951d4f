"""Requests through the AWS Common Runtime, which costs half of boto3's processor time for small objects (ADR 0010)."""
