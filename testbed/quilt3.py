"""quilt3, the reference client, in processes of its own: it reads its settings at import, and has a home directory."""

import os
from pathlib import Path
from typing import Final

from testbed.server import S3Server

HOMES: Final = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
"""The variables that say where it keeps configuration, credentials and a cache."""


def quilt3_environment(server: S3Server, home: Path) -> dict[str, str]:
    """Return an environment for quilt3 with a store, a home of its own, and no settings of the user."""
    home.mkdir(parents=True, exist_ok=True)
    trusted = {"AWS_CA_BUNDLE": str(server.ca_bundle)} if server.ca_bundle else {}
    return (
        dict.fromkeys(HOMES, str(home))
        | trusted
        | {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "QUILT_DISABLE_USAGE_METRICS": "true",
            "QUILT_MINIMIZE_STDOUT": "true",
            "QUILT_DISABLE_CACHE": "true",
            "AWS_ENDPOINT_URL_S3": server.endpoint,
            "AWS_ACCESS_KEY_ID": server.admin.access_key,
            "AWS_SECRET_ACCESS_KEY": server.admin.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    )
