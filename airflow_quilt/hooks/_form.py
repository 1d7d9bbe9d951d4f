"""The form of a connection for Airflow 3.0 and 3.1, made from the provider's description."""

from typing import Any

from airflow_quilt.get_provider_info import get_provider_info


def behaviour() -> dict[str, Any]:
    """Return the hidden fields, and the labels and placeholders of the others."""
    declared = _connection_type()["ui-field-behaviour"]
    return {name.replace("-", "_"): value for name, value in declared.items()}


def widgets() -> dict[str, Any]:
    """Return the widgets of the extras."""
    from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
    from wtforms import BooleanField, StringField

    def field(declared: dict[str, Any]) -> Any:
        schema = declared["schema"]
        options = {"default": schema.get("default"), "description": declared["description"]}
        if "boolean" in schema["type"]:
            return BooleanField(declared["label"], **options)
        return StringField(declared["label"], widget=BS3TextFieldWidget(), **options)

    return {name: field(declared) for name, declared in _connection_type()["conn-fields"].items()}


def _connection_type() -> dict[str, Any]:
    [declared] = get_provider_info()["connection-types"]
    connection_type: dict[str, Any] = declared
    return connection_type
