"""Quilt's format (docs/format.md): names, keys, URIs, hashes, manifests, layout. Pure: no I/O, no waiting."""
