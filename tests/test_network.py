"""Proxies: every client reaches this machine's servers without one, others as the environment sets."""

from __future__ import annotations

import os
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp.helpers
import botocore.utils
import httpx
import pytest
import requests
import yarl
from hypothesis import given
from hypothesis import strategies as st

from skumatch import network
from skumatch.config import Settings
from skumatch.config import settings as current_settings
from skumatch.errors import ParameterError, RegistryUnavailable, ServiceError
from skumatch.registry.probes import server_version
from skumatch.registry.tracking import Tracking
from skumatch.servers import servers
from skumatch.servers.airflow_api import Airflow
from tests.conftest import record_as_started

LOWER = ("http_proxy", "https_proxy", "all_proxy")
NAMES = [*LOWER, *map(str.upper, LOWER), "no_proxy", "NO_PROXY"]
OWN = {"127.0.0.1", "localhost", "::1"}
CLOSED = "http://ann:s3cr3t@127.0.0.1:9"  # a port that nobody listens on
ELSEWHERE = "http://mlflow.example.org:5000"
Environment = Callable[..., None]
Served = tuple[str, list[str]]

# Settings of which each made a client fail, or ask the proxy for this machine.
HOSTILE: tuple[dict[str, str], ...] = (
    {"http_proxy": CLOSED},
    {"HTTP_PROXY": CLOSED, "HTTPS_PROXY": CLOSED},
    {"all_proxy": CLOSED, "no_proxy": "example.org"},
    {"ALL_PROXY": "socks5://ann:s3cr3t@127.0.0.1:9"},
    {"ALL_PROXY": "socks5h://127.0.0.1:9", "https_proxy": CLOSED},
    {"all_proxy": "socks://127.0.0.1:1080/"},
    {"http_proxy": "http://[bad", "https_proxy": "a:b:c"},
    {"http_proxy": CLOSED, "NO_PROXY": "[::1]"},
    {"http_proxy": CLOSED, "NO_PROXY": "*.example.org,fe80::/10"},
    {"NO_PROXY": "[fd00::]/8, ,søren.example.org"},
    {"HTTP_PROXY": CLOSED, "no_proxy": " "},
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Sets the proxy variables; changes that the code under test makes to them are undone, too."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(network, "LEFT_OUT", [])

    def choose(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return choose


class Answering(BaseHTTPRequestHandler):
    """Answers every request to MLflow or Airflow, as a server or as a proxy, and records the requests."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response_only(200)
        self.end_headers()
        self.wfile.write(b'{"access_token": "t", "version": "3.17.0"}')

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Served]:
    """A server on loopback: its address and the paths of its requests."""
    handler = type("Own", (Answering,), {"asked": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}", handler.asked  # type: ignore[attr-defined]
    running.shutdown()
    running.server_close()


def by_httpx(url: str) -> None:
    httpx.get(url).raise_for_status()


def by_requests(url: str) -> None:
    requests.get(url, timeout=5).raise_for_status()


def by_urllib(url: str) -> None:
    urllib.request.urlopen(url, timeout=5).close()  # noqa: S310


def by_botocore(url: str) -> None:
    assert botocore.utils.get_environ_proxies(url) == {}


def by_aiohttp(url: str) -> None:
    with pytest.raises(LookupError):
        aiohttp.helpers.get_env_proxy_for_url(yarl.URL(url))


CLIENTS = (by_httpx, by_requests, by_urllib, by_botocore, by_aiohttp)


@pytest.mark.parametrize("variables", HOSTILE, ids=str)
def test_every_client_asks_this_machine_directly(
    environment: Environment,
    server: Served,
    variables: dict[str, str],
) -> None:
    environment(**variables)
    network.settle([ELSEWHERE.replace("mlflow.example.org", "127.0.0.1")])
    for ask in CLIENTS:
        ask(f"{server[0]}/x")
        ask(f"{server[0]}/x".replace("127.0.0.1", "localhost"))
    assert len(server[1]) == 6


@pytest.mark.parametrize("variables", HOSTILE, ids=str)
def test_mlflow_and_airflow_here_are_asked_directly(
    environment: Environment, server: Served, tmp_path: Path, variables: dict[str, str]
) -> None:
    """As a program calls them, which read no settings before."""
    environment(**variables)
    settings = Settings(project=tmp_path, airflow_port=int(server[0].rpartition(":")[2]))
    record_as_started(settings, "api-server")
    with Airflow(settings) as airflow:
        assert airflow.get("/version")["version"] == "3.17.0"
    with pytest.raises(ServiceError, match="is not MLflow"):  # requests was answered
        server_version(Tracking(server[0]))
    assert server[1][-2:] == ["/health", "/version"]


@pytest.mark.parametrize("variables", HOSTILE, ids=str)
def test_airflows_own_client_can_be_made_in_the_servers_environment(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    environment(**variables)
    made = servers.environment(Settings(project=tmp_path, home=tmp_path / "home"))
    assert made["no_proxy"] == made["NO_PROXY"] and {*made["no_proxy"].split(",")} >= OWN
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    environment(**{name: made[name] for name in NAMES if name in made})
    httpx.Client(base_url=made["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]).close()


KNOWN = st.sampled_from([CLOSED, "socks5://h:1", "socks4://h:1", "h:1", "http://", " "])
PIECES = st.sampled_from([*"[]:/8*.a, %@ø\t-", "::1", "10.0", "127.0.0.1", "//"])


def printable(text: str) -> str:
    """Text that a variable can hold: no NUL, no surrogate."""
    return "".join(letter for letter in text if letter.isprintable() or letter == "\t")


PROXIES = st.one_of(KNOWN, st.text(max_size=20).map(printable))
LISTS = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=30).map(printable))


@given(
    proxies=st.dictionaries(st.sampled_from(NAMES[:6]), PROXIES),
    direct=st.dictionaries(st.sampled_from(NAMES[6:]), LISTS),
)
def test_any_setting_becomes_readable(proxies: dict[str, str], direct: dict[str, str]) -> None:
    """No client fails or uses a proxy for this machine; a second call changes nothing; no password shows."""
    made = network.settled(proxies | direct, ["http://127.0.0.7:5000"])
    assert network.settled(made, ["http://127.0.0.7:5000"]) == made
    assert "s3cr3t" not in " ".join(network.read(proxies | direct).sentences())
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.delenv(name, raising=False)
        for name, value in made.items():
            patch.setenv(name, value)
        client = httpx.Client(verify=False)  # noqa: S501 reading certificates takes most of the time
        for host in ("127.0.0.1", "localhost", "127.0.0.7", "[::1]"):
            url = f"http://{host}:5000/"
            assert client._transport_for_url(httpx.URL(url)) is client._transport
            assert requests.utils.should_bypass_proxies(url, None)
            by_aiohttp(url)
            if host != "[::1]":  # urllib and botocore know it by a form on which httpx fails
                by_botocore(url)
                assert urllib.request.proxy_bypass(f"{host}:5000")


@pytest.mark.parametrize(
    ("given_list", "kept"),
    [
        ("[::1]", "::1"),
        ("[FD00::1]", "fd00::1"),
        ("*.example.org,.example.net", ".example.org,.example.net"),
        ("example.org  example.net\texample.com", "example.org,example.net,example.com"),
        ("10.1.2.3/8,store:9000", "10.0.0.0/8,store:9000"),
        ("fd00::/8,10.*,http://a,søren.dk,10.0.0.0/33,[::1]:80", ""),
    ],
)
def test_entries_are_kept_in_a_form_that_every_client_reads(given_list: str, kept: str) -> None:
    made = network.settled({"NO_PROXY": given_list})
    assert {*made["no_proxy"].split(",")} == {*filter(None, kept.split(",")), *OWN}


@pytest.mark.parametrize("text", ["*", "example.org,*", "* , [::1]"])
def test_a_star_stands_alone_as_urllib_wants_it(text: str) -> None:
    assert network.settled({"http_proxy": CLOSED, "no_proxy": text})["NO_PROXY"] == "*"


@pytest.mark.parametrize(
    ("variables", "hosts"),
    [
        ({"no_proxy": "lower.org"}, {"lower.org"}),
        ({"NO_PROXY": "upper.org"}, {"upper.org"}),
        ({"no_proxy": "lower.org", "NO_PROXY": "upper.org"}, {"lower.org"}),
        ({"no_proxy": "", "NO_PROXY": "upper.org"}, {"upper.org"}),
    ],
)
def test_both_spellings_get_the_users_list(variables: dict[str, str], hosts: set[str]) -> None:
    made = network.settled(variables)
    assert made["no_proxy"] == made["NO_PROXY"]
    assert set(made["no_proxy"].split(",")) - OWN == hosts


def test_a_users_proxy_stays_as_it_is_written() -> None:
    variables = {"http_proxy": CLOSED, "HTTPS_PROXY": "proxy.example.org:3128", "OTHER": "x"}
    made = network.settled(variables)
    assert {name: made[name] for name in variables} == variables


def test_an_empty_lower_case_variable_switches_its_proxy_off() -> None:
    assert not {"http_proxy", "HTTP_PROXY"} & set(network.settled({"http_proxy": "", "HTTP_PROXY": CLOSED}))


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:5000", True), ("http://127.8.9.1", True), ("http://LOCALHOST:1", True),
        ("http://a.localhost", True), ("http://[::1]:5000", True), ("http://[::ffff:127.0.0.1]:1", True),
        ("http://0.0.0.0:5000", True), ("http://localhost.", True),
        (ELSEWHERE, False), ("http://10.0.0.1", False), ("http://localhost.example.org", False),
        ("http://notlocalhost", False), ("s3://bucket/skumatch", False), ("http://[bad", False), ("", False),
        ("http://127.0.0.1.example.org", False),
    ],
)  # fmt: skip
def test_this_machine_is_loopback_by_any_of_its_names(url: str, here: bool) -> None:
    assert network.on_this_machine(url) == here


def test_a_server_elsewhere_is_asked_through_the_proxy(environment: Environment, server: Served) -> None:
    environment(http_proxy=server[0])
    with network.http_client(ELSEWHERE, 5) as client:
        client.get(f"{ELSEWHERE}/health").raise_for_status()
    with pytest.raises(ServiceError, match="is not MLflow"):
        server_version(Tracking(ELSEWHERE))
    assert server[1] == [f"{ELSEWHERE}/health", f"{ELSEWHERE}/health", f"{ELSEWHERE}/version"]


@pytest.mark.parametrize("entry", [".example.org", "mlflow.example.org", "*"])
def test_a_server_in_no_proxy_is_asked_directly(environment: Environment, entry: str) -> None:
    environment(http_proxy=CLOSED, NO_PROXY=entry)
    assert network.proxy_for(ELSEWHERE) is None


def test_an_ipv4_range_counts_for_our_questions_as_for_mlflows(environment: Environment) -> None:
    environment(http_proxy=CLOSED, NO_PROXY="10.0.0.0/8")
    assert network.proxy_for("http://10.1.2.3:5000") is None
    assert network.proxy_for("http://11.1.2.3:5000") == CLOSED


UNUSABLE = ("socks5://ann:s3cr3t@127.0.0.1:9", "socks4://ann:s3cr3t@h:1", "ann:s3cr3t@h:1:2", "http://")


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize("proxy", UNUSABLE)
def test_a_proxy_that_nobody_can_use_is_refused(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    environment(**{variable: proxy})
    monkeypatch.setenv("SKUMATCH_MLFLOW", ELSEWHERE.replace("://", "://bob:hush@"))
    sentence = rf"^{variable}, the proxy for {ELSEWHERE}, can't be used: .+; or name"
    with pytest.raises(ParameterError, match=sentence) as refused:
        current_settings()
    assert not re.search("s3cr3t|hush", str(refused.value))
    monkeypatch.setenv("NO_PROXY", "mlflow.example.org")
    current_settings()
    assert variable not in os.environ, "it is left out for clients that fail where they only read it"
    assert network.LEFT_OUT[0].startswith(f"{variable} is not used: ")


def test_a_proxy_of_another_kind_of_address_is_no_matter(environment: Environment) -> None:
    environment(https_proxy="socks4://h:1", ALL_PROXY="socks4://h:1", http_proxy=CLOSED)
    network.settle([ELSEWHERE, "/a/folder", "file:///a/folder"])


@pytest.mark.parametrize(
    ("endpoint", "refused"),
    [
        ("", True),
        ("http://127.0.0.1:9000", False),
        ("https://s3.example.org", True),
    ],
)
def test_a_bucket_is_asked_at_its_endpoint(
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
    refused: bool,
) -> None:
    environment(https_proxy="socks4://h:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    if refused:
        with pytest.raises(ParameterError, match="https_proxy"):
            network.settle(["s3://dvc/skumatch"])
    else:
        network.settle(["s3://dvc/skumatch"])


def test_what_is_left_out_is_said_once(environment: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    """Without passwords."""
    environment(http_proxy=CLOSED, ALL_PROXY="socks5://ann:s3cr3t@h:1", NO_PROXY="fd00::/8,[::1]")
    for _ in range(2):
        network.settle()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["ALL_PROXY", "NO_PROXY"]
    assert "socksio PySocks" in lines[0] and "'fd00::/8'" in lines[1] and "::1" not in lines[1]
    assert lines == network.LEFT_OUT and "s3cr3t" not in str(lines)


def test_a_list_without_a_proxy_is_settled(
    environment: Environment,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment(NO_PROXY="fd00::/8")
    network.settle()
    assert capsys.readouterr().err == ""
    httpx.Client().close()


def test_what_does_not_answer_through_a_proxy_says_so(environment: Environment, tmp_path: Path) -> None:
    environment(http_proxy=CLOSED)
    sentence = r"doesn't answer through the proxy 127.0.0.1:9; check"
    with pytest.raises(RegistryUnavailable, match=sentence), Tracking(ELSEWHERE).client():
        pass
    with pytest.raises(ServiceError, match=r"does not answer through the proxy 127.0.0.1:9 \(") as refused:
        Airflow(Settings(project=tmp_path, airflow=ELSEWHERE)).get("/version")
    assert "s3cr3t" not in str(refused.value)


def test_the_setting_is_described_without_passwords(environment: Environment) -> None:
    assert network.described() == "none is set"
    environment(https_proxy=CLOSED, NO_PROXY=".example.org")
    hosts = ".example.org, 127.0.0.1, localhost, ::1"
    assert network.described() == f"https through 127.0.0.1:9; directly: {hosts}"


def test_an_environment_is_read_without_being_changed() -> None:
    variables: Mapping[str, Any] = {"http_proxy": "http://[bad", "NO_PROXY": "[::1]"}
    before = dict(variables)
    network.settled(variables)
    assert variables == before
