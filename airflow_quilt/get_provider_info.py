"""The description of this provider for Airflow. A literal: Airflow reads it at every start, and stops if this fails."""

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, in the form of ``airflow/provider_info.schema.json``."""
    return {
        "package-name": "airflow-quilt",
        "name": "Quilt",
        # Airflow takes it for RST, and removes the signs of links and of code: so it has none.
        "description": "Publish, read, verify and watch Quilt packages: named, versioned sets of files on S3.",
        "versions": ["0.1.0"],
        "integrations": [
            {"integration-name": "Quilt", "external-doc-url": "https://docs.quilt.bio/", "tags": ["software"]},
        ],
        "hooks": [{"integration-name": "Quilt", "python-modules": ["airflow_quilt.hooks.quilt"]}],
        "operators": [
            {
                "integration-name": "Quilt",
                "python-modules": [
                    "airflow_quilt.operators.push",
                    "airflow_quilt.operators.build",
                    "airflow_quilt.operators.delete",
                    "airflow_quilt.operators.rollback",
                    "airflow_quilt.operators.install",
                    "airflow_quilt.operators.verify",
                ],
            },
        ],
        "task-decorators": [
            {"name": "quilt_push", "class-name": "airflow_quilt.decorators._quilt.quilt_push_task"},
            {"name": "quilt_build", "class-name": "airflow_quilt.decorators._quilt.quilt_build_task"},
        ],
        "sensors": [{"integration-name": "Quilt", "python-modules": ["airflow_quilt.sensors.package"]}],
        "triggers": [
            {
                "integration-name": "Quilt",
                "python-modules": ["airflow_quilt.triggers.package", "airflow_quilt.triggers.revision"],
            },
        ],
        "asset-uris": [
            {
                "schemes": ["quilt+s3"],
                "handler": "airflow_quilt.assets.uri.sanitize_uri",
                "factory": "airflow_quilt.assets.uri.create_asset",
                "to_openlineage_converter": "airflow_quilt.assets.uri.convert_asset_to_openlineage",
            },
        ],
        "extra-links": ["airflow_quilt.links.catalog.QuiltCatalogLink"],
        "connection-types": [
            {
                "connection-type": "quilt",
                "hook-class-name": "airflow_quilt.hooks.quilt.QuiltHook",
                "hook-name": "Quilt",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "port", "login"],
                    "relabeling": {"host": "Catalog URL", "password": "API key or refresh token"},
                    "placeholders": {
                        "host": "https://catalog.example.com",
                        "password": "qk_…; empty: S3 credentials come from the AWS connection",
                    },
                },
                "conn-fields": {
                    "registry": {
                        "label": "Registry",
                        "description": "The S3 bucket that packages are published to, such as s3://my-bucket.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "aws_conn_id": {
                        "label": "AWS connection",
                        "description": "Endpoint and region of S3; and credentials, if there is no API key. "
                        "Empty, or null: boto3's own chain.",
                        "schema": {"type": ["string", "null"], "default": "aws_default"},
                    },
                    "region_name": {
                        "label": "Region",
                        "description": "The region of the registry; used only if the AWS connection has none.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "dest": {
                        "label": "Landing prefix",
                        "description": "The destination of pushed files, s3://my-bucket/prefix; the package's name is added.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "workflow": {
                        "label": "Workflow",
                        "description": "The workflow of packages whose operator names none; empty: the registry's default.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "anonymous": {
                        "label": "Anonymous",
                        "description": "Read public buckets without credentials.",
                        "schema": {"type": ["boolean", "null"]},
                    },
                    "verify": {
                        "label": "Verify TLS",
                        "description": "For the catalog: true (as when empty), false, or the path of a CA bundle (PEM).",
                        "schema": {"type": ["string", "null"]},
                    },
                    "timeout": {
                        "label": "Timeout",
                        "description": "Seconds until a request to the catalog times out; 30 when empty.",
                        "schema": {"type": ["number", "null"], "minimum": 1},
                    },
                    "allow_http": {
                        "label": "Allow HTTP",
                        "description": "Allow requests without TLS to a catalog on another machine.",
                        "schema": {"type": ["boolean", "null"]},
                    },
                    "registry_host": {
                        "label": "Service host",
                        "description": "The only host that the catalog may name as its service (registryUrl), "
                        "such as registry.example.com; empty: any.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "max_concurrency": {
                        "label": "Max concurrent S3 requests",
                        "description": "The most concurrent S3 requests of a task; fewer where they suffice; 128 when empty.",
                        "schema": {"type": ["integer", "null"], "minimum": 1},
                    },
                    "max_bytes_in_flight": {
                        "label": "Transfer buffer (bytes)",
                        "description": "The most bytes of files that a transfer holds in memory; 67108864 (64 MiB) when empty.",
                        "schema": {"type": ["integer", "null"], "minimum": 1},
                    },
                    "spill_entries": {
                        "label": "Spill to disk after (entries)",
                        "description": "The most entries of a package in memory; the rest spills to a temporary file. "
                        "100000 when empty.",
                        "schema": {"type": ["integer", "null"], "minimum": 1},
                    },
                    "transport": {
                        "label": "Transport",
                        "description": "The S3 client: auto (as when empty) for the AWS Common Runtime "
                        "where it can make the requests, or boto3.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "allowed_buckets": {
                        "label": "Allowed buckets",
                        "description": "Buckets that packages of other registries may name, with commas between them; "
                        "any when empty.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "provenance": {
                        "label": "Provenance",
                        "description": "Write the DAG, task and run that published a package into its metadata.",
                        "schema": {"type": ["boolean", "null"]},
                    },
                },
            },
        ],
    }
