"""Secrets in connections: masked in every form, and refused where no mask would hide them."""

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from airflow.sdk.log import mask_secret

from airflow_quilt.core.catalog.secrets import forms_of, is_sendable
from airflow_quilt.core.errors import LocationError, SettingsError
from airflow_quilt.core.format.web_url import refuse_login

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGIN: Final = re.compile(r":[/\\]*([^/].*)@", re.DOTALL)


def mask(secret: str | None) -> None:
    """Mask a secret in Airflow's logs, in each of its forms."""
    for form in forms_of(secret or ""):
        mask_secret(form)


def mask_login(url: str) -> None:
    """Mask the password of a URL, if it has one, or else its user name."""
    if found := _LOGIN.search(url):
        password = found[1].partition(":")[2] or found[1]
        mask(password)
        mask(unquote(password))


def check_sendable(secret: str | None, name: str) -> None:
    """Check that a secret is visible ASCII, in one piece. The libraries of HTTP print one that is not, as an invalid header.

    Args:
        secret: the secret, or None for none.
        name: of the setting, for the error, which does not repeat the secret.

    Raises:
        SettingsError: it is not.
    """
    if secret and not is_sendable(secret):
        raise SettingsError(
            f"{name} has blanks, line breaks or other characters than visible ASCII: copy it again, in one piece (it is not "
            "repeated here)"
        )


@contextmanager
def named_setting(name: str, text: str | None) -> "Iterator[None]":
    """Raise errors about the URL in a setting with the setting's name; mask its password.

    Raises:
        SettingsError: the URL holds a login, or the block refuses it.
    """
    try:
        refuse_login(text or "")
        yield
    except LocationError as error:
        mask_login(text or "")
        raise SettingsError(f"{name}: {error}") from None


def check_url(name: str, value: object) -> None:
    """Check that the URL in a setting holds no login: it ends in logs, and in the answer of the connection test.

    Raises:
        SettingsError: it does; the message does not repeat it.
    """
    with named_setting(name, value if isinstance(value, str) else None):
        pass
