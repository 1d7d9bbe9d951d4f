"""Quilt's format: names, keys, URIs, hashes, manifests, layout. Pure: nothing here reads, writes or waits (docs/format.md)."""
