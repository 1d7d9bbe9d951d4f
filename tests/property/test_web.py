"""URLs, answers and secrets of catalogs: any text or JSON is refused, or means one thing; every form of a secret is masked."""

import base64
import contextlib
import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.util import parse_url

from airflow_quilt.core.catalog.answers import parse_config, parse_credentials, parse_tokens
from airflow_quilt.core.catalog.secrets import forms_of
from airflow_quilt.core.errors import CatalogError, LocationError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.format.web_url import WebUrl, refuse_login
from tests.property.strategies import JSON

ODD = st.text(st.sampled_from("ab1.-_:/\\@[]%2f?#\t\n ;é☃\x00\x7f"), max_size=12)


@given(st.tuples(st.sampled_from(["http://", "https://", "HTTP:", "//", ""]), ODD, ODD).map("".join))
@example("http://evil\\@127.0.0.1")
@example("http://127.0.0.1\\.evil.example")
@example("http://evil.example#@127.0.0.1")
@example("http://127.0.0.1:80:90")
@example("http://[::1]evil")
def test_libraries_read_the_same_url(text: str) -> None:
    """A URL is refused, or every library reads the same server in it, and it is printed as it is parsed."""
    try:
        url = WebUrl.parse(text)
    except LocationError:
        return
    by_urllib, by_urllib3 = urlsplit(text), parse_url(text)
    default = {"http": 80, "https": 443}[url.scheme]
    host = url.host.strip("[]")

    assert (by_urllib.scheme, by_urllib.hostname, by_urllib.port or default) == (url.scheme, host, url.port)
    assert (by_urllib3.scheme, str(by_urllib3.host).strip("[]"), by_urllib3.port or default) == (url.scheme, host, url.port)
    assert by_urllib.username is by_urllib3.auth is None
    assert WebUrl.parse(str(url)) == url
    assert str(url).isascii()


@given(st.text(st.sampled_from("ab/@:.#?"), max_size=12))
def test_keys_with_signs_are_no_logins(key: str) -> None:
    """An ``@`` or ``:`` after the bucket is part of a key, a version or a package; so it is in paths."""
    for url in (
        f"s3://bucket/{key}",
        f"file:///{key}",
        f"/{key}",
        f"quilt+s3://bucket#package=a/b@{key}",
        f"s3://bucket?versionId={key}",
    ):
        refuse_login(url)
    refuse_login("s3://arn:aws:s3:us-east-1:123456789012:accesspoint:name/key")
    assert str(PhysicalKey.parse(str(PhysicalKey("bucket", f"k{key}")))) == str(PhysicalKey("bucket", f"k{key}"))


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        name: JSON
        | st.text(st.sampled_from("aZ0-_ \n\x7fé/\\@:."), max_size=8)
        | st.sampled_from(["2026-11-30T12:00:00Z", "9999-12-31", "P1Y"])
        for name in (
            *("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"),
            *("access_token", "refresh_token", "expires_at", "registryUrl", "region", "stackVersion"),
        )
    },
)
CATALOG = WebUrl.parse("https://catalog.example.com")


@given(FIELDS | JSON)
def test_types_of_answers_are_checked(answer: Any) -> None:
    """Any JSON is refused by an error of the core, or gives values of the stated types, characters and lengths."""
    body = json.dumps(answer).encode()
    texts: list[str | None] = []
    with contextlib.suppress(CatalogError):
        config, service = parse_config(body, CATALOG)
        texts += [config.region, config.stack_version, str(service)]
        assert WebUrl.parse(config.registry_url) == service
    with contextlib.suppress(CatalogError):
        tokens = parse_tokens(body, "the service")
        texts += [tokens.access_token, tokens.refresh_token]
        assert 0 <= tokens.expires_at <= 1e11
    with contextlib.suppress(CatalogError):
        found = parse_credentials(body, "the service", datetime(2026, 11, 30, tzinfo=UTC))
        texts += [found.access_key, found.secret_key, found.session_token]
        assert found.lifetime <= 36 * 3600
    assert all(re.fullmatch(r"[!-~]{1,16384}", text) for text in texts if text is not None)


@given(
    st.text(st.characters(min_codepoint=43, max_codepoint=126), min_size=8, max_size=60),
    st.text(st.sampled_from("ab:é"), max_size=6),
    st.sampled_from(["", " ", "\n"]),
)
def test_every_form_is_masked(secret: str, name: str, blank: str) -> None:
    """Nothing of a secret is left when its forms are masked, in any of the encodings of a text."""
    masks = sorted(set(forms_of(f"{blank}{secret}{blank}")), key=len, reverse=True)
    for text in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret), quote(secret, safe=""), quote_plus(secret)):
        assert shown(text, masks) == "*"
    # The characters at both ends hold bits of their neighbours.
    basic = base64.b64encode(f"{name}:{secret}".encode()).decode()
    assert len(shown(basic, masks)) <= len(base64.b64encode(f"{name}:".encode())) + 8


def shown(text: str, masks: list[str]) -> str:
    """Return a text as a log shows it."""
    for mask in masks:
        text = text.replace(mask, "*")
    return text
