"""Proxy rules: one reading of the proxy variables for every HTTP client that runs here.

httpx (Airflow's tasks and our own requests), requests (MLflow, OpenLineage), urllib, botocore and aiohttp
(buckets) read the same variables in different ways: httpx 0.28 fails on `[::1]`, on a range of IPv6
addresses and on a SOCKS proxy without its package, even for requests to this machine; urllib accepts `*` only
alone; only requests reads a range of IPv4 addresses. So `settle` rewrites the variables into a form that all
of them read alike, this machine's addresses included, and reports the entries it had to leave out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skumatch.errors import CREDENTIALS, ParameterError

if TYPE_CHECKING:
    import ssl

    import httpx

KINDS = ("http", "https", "all")
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
HTTP = ("http://", "https://")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
NAME = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
LEFT_OUT: list[str] = []  # sentences on entries that `settle` left out of this process's environment


@dataclass(frozen=True)
class ProxySetting:
    """Proxy settings of an environment, in a form that every client reads.

    Attributes:
        proxies: The proxy's URL for each kind of address (http, https, all) that has one.
        direct: Hosts that are reached without a proxy: names, addresses, IPv4 ranges; or `*` alone.
        flaws: Kinds of address whose proxy no client here can use, each with the variable and the reason.
        unreadable: Entries of no_proxy that some client here can't read.
    """

    proxies: Mapping[str, str]
    direct: tuple[str, ...]
    flaws: Mapping[str, tuple[str, str]]
    unreadable: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Return sentences on left-out entries and why; never a proxy's value, which may be a password."""
        sentences = [f"{variable} is not used: {why}." for variable, why in self.flaws.values()]
        if self.unreadable and self.proxies:  # without a proxy the list has no effect
            entries = ", ".join(f"'{entry.rpartition('@')[2]}'" for entry in self.unreadable)
            sentences.append(f"NO_PROXY is read without {entries}: not every client here can read that.")
        return sentences


def read(environ: Mapping[str, str], urls: Iterable[str] = ()) -> ProxySetting:
    """Read the proxy variables of an environment.

    The lower-case spelling takes precedence over the upper-case one, as in curl, requests and urllib.

    Args:
        environ: The environment's variables.
        urls: URLs of servers that are in use; those of this machine are added to `direct`.
    """
    proxies: dict[str, str] = {}
    flaws: dict[str, tuple[str, str]] = {}
    for kind in KINDS:
        variable = next(iter(_spellings(environ, f"{kind}_proxy")), "")
        value = environ.get(variable, "").strip()
        if value and (why := _flaw(value)):
            flaws[kind] = (variable, why)
        elif value:
            proxies[kind] = value
    no_proxy = next((text for name in _spellings(environ, "no_proxy") if (text := environ[name].strip())), "")
    entries = {text: _entry(text) for text in re.split(r"[,\s]+", no_proxy) if text}
    direct = [entry for entry in entries.values() if entry]
    if "*" in direct:
        return ProxySetting(proxies, ("*",), flaws, ())
    served = [_entry(_host(url)) for url in (*urls, _endpoint(environ)) if on_this_machine(url)]
    own = [entry for entry in served if entry]
    unreadable = tuple(text for text, entry in entries.items() if not entry)
    return ProxySetting(proxies, tuple(dict.fromkeys([*direct, *THIS_MACHINE, *own])), flaws, unreadable)


def settled(environ: Mapping[str, str], urls: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment with proxy variables that every client reads alike; `urls` as in `read`."""
    setting = read(environ, urls)
    rewritten = {"no_proxy", *(f"{kind}_proxy" for kind in KINDS)}
    kept = {name: value for name, value in environ.items() if name.lower() not in rewritten}
    for kind, proxy in setting.proxies.items():
        kept |= dict.fromkeys(_spellings(environ, f"{kind}_proxy"), proxy)
    return kept | dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(setting.direct))


def settle(urls: Iterable[str] = ()) -> None:
    """Normalize this process's proxy variables, which child processes inherit; report left-outs on stderr.

    Args:
        urls: URLs of servers that are in use.

    Raises:
        ParameterError: A server is beyond this machine, and the variable with its proxy can't be used.
    """
    urls = tuple(urls)
    setting = read(os.environ, urls)
    for url in urls:
        _check_proxy(setting, url if url.startswith(HTTP) else _endpoint(os.environ) or url)
    for sentence in setting.sentences():
        print(sentence, file=sys.stderr)
        LEFT_OUT.append(sentence)
    after = settled(os.environ, urls)
    if after != dict(os.environ):
        for name in set(os.environ) - set(after):
            del os.environ[name]
        os.environ.update(after)


def on_this_machine(url: str) -> bool:
    """Return whether a URL's host is this machine: 127.0.0.0/8, ::1, 0.0.0.0, localhost, *.localhost."""
    host = _host(url).rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def proxy_for(url: str) -> str | None:
    """Return the proxy for a URL, as requests reads the environment; None: no proxy."""
    if on_this_machine(url):
        return None
    from requests.utils import get_environ_proxies, select_proxy  # takes a moment, and is seldom needed

    return select_proxy(url, get_environ_proxies(url))


def through(url: str) -> str:
    """Return words on a URL's proxy, for a sentence: empty, or ` through the proxy HOST:PORT`."""
    proxy = proxy_for(url)
    return f" through the proxy {_shown(proxy)}" if proxy else ""


def http_client(url: str, timeout_s: float, **options: Any) -> httpx.Client:
    """Return an httpx client for one server, with a proxy where this module's rule wants one.

    Args:
        url: The server's URL.
        timeout_s: Seconds until a connection, an answer or a part of it counts as lost.
        options: Further arguments of httpx.Client.

    Raises:
        ParameterError: The server is beyond this machine, and the variable with its proxy can't be used.
    """
    import httpx

    settle([url])
    proxy = proxy_for(url)
    transport = httpx.HTTPTransport(_certificates(), proxy=_with_scheme(proxy) if proxy else None)
    return httpx.Client(transport=transport, timeout=timeout_s, **options)


@cache
def _certificates() -> ssl.SSLContext:
    """Return the trusted certificates, which take 0.05 s to read; each call to MLflow makes a client."""
    import httpx

    return httpx.create_ssl_context()


def described() -> str:
    """Describe this process's proxy settings, without the user and password of a proxy."""
    setting = read(os.environ)
    if not setting.proxies:
        return "none is set"
    shown = ", ".join(f"{kind} through {_shown(url)}" for kind, url in setting.proxies.items())
    return f"{shown}; directly: {', '.join(setting.direct)}"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # no URL
        return ""


def _endpoint(environ: Mapping[str, str]) -> str:
    """Return the endpoint URL of buckets; empty for the provider's own."""
    return next((environ[name] for name in ENDPOINTS if environ.get(name)), "")


def _spellings(environ: Mapping[str, str], name: str) -> list[str]:
    """Return the variables that equal `name` in any case, the lower-case one first."""
    return sorted((variable for variable in environ if variable.lower() == name), reverse=True)


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _shown(proxy: str) -> str:
    """Return a proxy's host and port only, since the part before them may be a password."""
    parts = urlsplit(_with_scheme(proxy))
    return parts.netloc.rpartition("@")[2]


def _flaw(proxy: str) -> str | None:
    """Return the reason why no client here can use a proxy's URL; None if it can be used."""
    import httpx

    try:
        url = httpx.Proxy(_with_scheme(proxy)).url
    except (ValueError, httpx.InvalidURL):
        url = httpx.URL()
    if not url.host:
        return "write it as http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
    if url.scheme.startswith("socks") and not all(map(find_spec, ("socksio", "socks"))):
        return "a SOCKS proxy needs two more packages, pip install socksio PySocks"
    return None


def _entry(text: str) -> str | None:
    """Return an entry of no_proxy in a form that every client reads; None if there is no such form."""
    if text == "*" or NAME.fullmatch(text):
        return text
    if text.startswith("*.") and NAME.fullmatch(text[1:]):
        return text[1:]
    try:
        return str(IPv4Network(text, strict=False)) if "/" in text else str(IPv6Address(text.strip("[]")))
    except ValueError:
        return None


def _check_proxy(setting: ProxySetting, url: str) -> None:
    """Raise ParameterError if a URL beyond this machine needs a proxy that can't be used."""
    kind = "http" if url.startswith("http://") else "https"
    kind = kind if kind in (*setting.proxies, *setting.flaws) else "all"
    if kind not in setting.flaws or on_this_machine(url) or not _host(url):
        return
    from requests.utils import should_bypass_proxies

    if setting.direct == ("*",) or should_bypass_proxies(url, ",".join(setting.direct)):
        return
    variable, why = setting.flaws[kind]
    place = CREDENTIALS.sub("", url)
    sentence = f"{variable}, the proxy for {place}, can't be used: {why}"
    raise ParameterError(f"{sentence}; or name that host in NO_PROXY.")
