"""URLs of web servers have one reading; URLs with a login are refused in every scheme."""

import pytest

from airflow_quilt.assets.uri import asset_uri
from airflow_quilt.core.errors import LocationError, plain, quoted
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.format.web_url import WebUrl


@pytest.mark.parametrize(
    "url",
    [
        *("http://evil\\@127.0.0.1", "http://user@127.0.0.1", "http://u:p@h", "https://h/%zz", "https://h?x", "https://h#x"),
        *(
            "https://h .example",
            " https://h",
            "https://h\n",
            "https://h\t.example",
            "https://exämple.com",
            "https://h:0",
            "https://",
        ),
        *("https://h:70000", "ftp://h", "javascript:alert(1)", "javascript://h/%0aalert(1)", "https:h", "https:/h", "https:///h"),
        *(
            "http://127.1",
            "http://2130706433",
            "http://0x7f.0.0.1",
            "http://0177.0.0.1",
            "http://1.2.3.4.5",
            "http://[::1",
            "//h",
        ),
        *("http://[fe80::1%25eth0]", "http://a..b", "http://-a", "http://a.", f"http://{'a' * 64}", f"http://h/{'a' * 3000}"),
    ],
)
def test_odd_urls_are_refused(url: str) -> None:
    with pytest.raises(LocationError):
        WebUrl.parse(url)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        *((url, "loopback") for url in ("http://localhost", "http://127.8.8.8:1", "http://[::1]", "http://[::ffff:127.0.0.1]")),
        *(
            (url, "internal")
            for url in ("http://169.254.169.254", "https://[fe80::1]", "http://0.0.0.0", "http://[fd00:ec2::254]")
        ),
        *((url, "internal") for url in ("https://x.localhost", "http://[::ffff:169.254.1.1]", "http://[::]", "http://224.0.0.1")),
        *(
            (url, "")
            for url in ("https://catalog.example.com", "https://10.0.0.1", "https://localhost.example.com", "http://a_b:80")
        ),
    ],
)
def test_servers_of_this_machine(url: str, kind: str) -> None:
    found = WebUrl.parse(url)

    assert (found.is_loopback, found.is_internal) == (kind == "loopback", kind != "")


KEY = "wJalrXUtnFEMI/K7MDENG"
LOGINS = [
    *(f"s3://AKIDEXAMPLE:{KEY}@bucket", f"s3://AKIDEXAMPLE:{KEY}@bucket/key", f"s3:AKIDEXAMPLE:{KEY}@bucket"),
    *(
        f"S3://A:{KEY}@bucket/key",
        f"https://ada:{KEY}@host/x",
        f"file://ada:{KEY}@host/x",
        f"s3://A:{KEY}\t@b/\ud800",
    ),
    *(f"quilt+s3://A:{KEY}@bucket#package=a/b", f"QUILT+S3://A:{KEY}@bucket", f"http:\\\\ada:{KEY}@host"),
]


@pytest.mark.parametrize("url", LOGINS)
def test_logins_are_not_repeated(url: str) -> None:
    for parse in (PhysicalKey.parse, RegistryLocation.parse, QuiltUri.parse, WebUrl.parse):
        with pytest.raises(LocationError, match="user name or a password") as raised:
            parse(url)
        assert "wJalr" not in str(raised.value)
        assert "K7MDENG" not in str(raised.value)


def test_messages_hide_logins() -> None:
    """A text of others that no parser of URLs saw is shown without the login in it; paths with an ``@`` stay."""
    for show in (quoted, plain):
        assert "secret" not in show("could not connect to http://ada:secret@host/x and s3://A:secret@b")
        assert "//***@host/x" in show("could not connect to http://ada:secret@host/x")
        assert "file:///data@v1/a" in show("there is no file at file:///data@v1/a or s3://bucket/a@b")


@pytest.mark.parametrize("catalog", ["ada:wJalrXUtn@host", "https://ada:wJalrXUtn@host", "ada%3AwJalrXUtn%40host"])
def test_login_of_a_uri_s_catalog(catalog: str) -> None:
    with pytest.raises(LocationError, match="not repeated here") as raised:
        QuiltUri.parse(f"quilt+s3://bucket#package=a/b&catalog={catalog}")
    assert "wJalr" not in str(raised.value)


@pytest.mark.parametrize("bucket", ["bu\x1b[31mcket", "bu\u2028cket", "bu\x85cket", "bu cket", "bu\u202ecket", "bu\x00cket"])
def test_names_of_buckets_are_one_line(bucket: str) -> None:
    """A bucket is printed as it is, in logs too: it holds nothing that moves the cursor or begins a line."""
    for parse in (PhysicalKey.parse, RegistryLocation.parse, quilt_asset_uri):
        with pytest.raises(LocationError) as raised:
            parse(f"s3://{bucket}")
        assert str(raised.value).isprintable()


def quilt_asset_uri(registry: str) -> str:
    return asset_uri("team/data", registry)
