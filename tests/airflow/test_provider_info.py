"""The provider's metadata for Airflow."""

import importlib
import json
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import distribution
from importlib.resources import files

import jsonschema
from packaging.utils import canonicalize_name

import airflow_quilt
from airflow_quilt.get_provider_info import get_provider_info
from airflow_quilt.hooks._settings import QuiltSettings
from airflow_quilt.hooks.quilt import QuiltHook


def test_info_matches_the_schema() -> None:
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(get_provider_info(), schema)


def test_entry_point_is_installed() -> None:
    name = get_provider_info()["package-name"]
    dist = distribution(name)
    [entry_point] = dist.entry_points.select(group="apache_airflow_provider")

    assert name == canonicalize_name(dist.metadata["Name"])
    assert entry_point.load()() == get_provider_info()
    assert get_provider_info()["versions"][0] == dist.version == airflow_quilt.__version__


def test_named_modules_exist() -> None:
    info = get_provider_info()
    modules = [module for part in ("hooks", "operators") for item in info[part] for module in item["python-modules"]]
    for module in modules:
        assert importlib.import_module(module).__doc__
    for decorator in info["task-decorators"]:
        module, _, name = decorator["class-name"].rpartition(".")
        assert getattr(importlib.import_module(module), name)
        assert name == f"{decorator['name']}_task"
    for connection in info["connection-types"]:
        module, _, name = connection["hook-class-name"].rpartition(".")
        hook = getattr(importlib.import_module(module), name)
        assert hook.conn_type == connection["connection-type"]
        assert hook.hook_name == connection["hook-name"]


def test_form_fields_are_optional() -> None:
    [connection] = get_provider_info()["connection-types"]
    for name, field in connection["conn-fields"].items():
        assert "null" in field["schema"]["type"], name
        assert field["label"]
        assert field["description"]


def test_reading_imports_nothing() -> None:
    code = (
        "import sys, airflow_quilt.get_provider_info as p; p.get_provider_info();"
        "print([m for m in sys.modules if m.partition('.')[0] in ('airflow', 'boto3', 'botocore', 'pendulum')])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_hook_gives_the_same_form() -> None:
    [declared] = get_provider_info()["connection-types"]
    behaviour = QuiltHook.get_ui_field_behaviour()

    assert behaviour == {
        "hidden_fields": declared["ui-field-behaviour"]["hidden-fields"],
        "relabeling": declared["ui-field-behaviour"]["relabeling"],
        "placeholders": declared["ui-field-behaviour"]["placeholders"],
    }
    assert "password" not in behaviour["hidden_fields"]


def test_form_covers_every_setting() -> None:
    [declared] = get_provider_info()["connection-types"]

    assert set(declared["conn-fields"]) == {field.name for field in fields(QuiltSettings)} - {"catalog", "secret", "unknown"}
