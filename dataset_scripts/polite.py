"""An HTTP client that a site's owner would accept, and that cannot be led into the house it runs in.

Towards the site: few requests at once and a second, a name, `Retry-After` obeyed, further attempts only where
they may help (429, 5xx, timeouts, lost connections), ever later and at drawn moments, and none at all once a
host has failed many times in a row. Towards the user: http and https only, at every redirect; names are
resolved here, all their addresses must be public, and the connection goes to the address that was checked.
Bodies are taken as they travel and never unpacked, so no small answer becomes a large one.

Proxies of the environment are not used: behind one, no address could be checked.
"""

import asyncio
import ipaddress
import random
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar

# httpx's successor, by its author: huggingface_hub needs it, so it is there already, while aiohttp would bring
# seven packages. Its engine, httpcore2, is used directly: there the address that is connected to is ours to say.
import httpcore2
from httpx2 import URL, InvalidURL

from recbole_sda import __version__

T = TypeVar("T")

_REDIRECTS = (301, 302, 303, 307, 308)
_TRY_AGAIN = (408, 425, 429)  # and 5xx
_IPV6_PUBLIC = ipaddress.ip_network("2000::/3")
_IPV6_OF_IPV4 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class Failed(Exception):  # noqa: N818 (a verdict on a URL, not a fault of the program)
    """Why a URL gave nothing. The words before the first `: ` are the kind of failure, for counting."""


class Unavailable(Failed):
    """A failure that may pass: another attempt, or another run, can succeed."""


class _LeftAlone(Unavailable):
    """The host is not asked again in this run."""


@dataclass(frozen=True, kw_only=True)
class Manners:
    """How a site is treated."""

    at_once: int = 8  # requests under way, at all hosts
    at_once_per_host: int = 4
    per_second: float = 8.0  # requests begun, at one host
    attempts: int = 5  # at one URL, the first included
    first_wait: float = 1.0  # seconds before the second attempt; doubled for each that follows
    longest_wait: float = 300.0  # seconds; a host that asks for more is left alone until another run
    strikes: int = 20  # URLs in a row that stayed unavailable, until their host is left alone
    connect_seconds: float = 15.0
    read_seconds: float = 30.0  # without a byte
    total_seconds: float | None = 120.0  # a request with its whole body
    redirects: int = 5
    allow_private: bool = False  # addresses of one's own network: for a server of one's own
    user_agent: str = f"recbole-sda/{__version__} (dataset downloader)"


class Answer(NamedTuple):
    """The head of a response and its body, still to be read."""

    status: int
    headers: Mapping[str, str]  # lower-case names
    chunks: AsyncIterable[bytes]


@dataclass
class _Host:
    slots: asyncio.Semaphore
    free_at: float = 0.0  # the moment of the next request
    strikes: int = 0
    left_alone: str = ""  # why


class PoliteClient:
    """Fetches URLs with `manners`; use it as an asynchronous context.

    `clock`, `sleep` and `draw` (a number in [0, 1)) are there for tests.
    """

    def __init__(
        self,
        manners: Manners,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.manners = manners
        self._clock, self._sleep, self._draw = clock, sleep, draw
        self._hosts = defaultdict(lambda: _Host(asyncio.Semaphore(manners.at_once_per_host)))
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=manners.at_once, network_backend=_CheckedAddresses(manners.allow_private)
        )

    async def __aenter__(self) -> "PoliteClient":
        return self

    async def __aexit__(self, *_) -> None:
        await self._pool.aclose()

    async def fetch(
        self,
        url: str,
        read: Callable[[Answer], Awaitable[T]],
        *,
        headers: Callable[[], Mapping[str, str]] = dict,
        accept: tuple[int, ...] = (200,),
    ) -> T:
        """What `read` makes of the answer to GET `url`; `headers` is asked anew for each attempt.

        Raises Failed, or Unavailable when all attempts failed for reasons that may pass.
        """
        host = self._hosts[_checked(url).host]
        for attempt in range(self.manners.attempts):
            if attempt:
                wait = self.manners.first_wait * 2 ** (attempt - 1)
                await self._sleep(min(wait, self.manners.longest_wait) * (0.5 + self._draw() / 2))
            try:
                result = await self._attempt(url, read, headers(), accept)
            except _LeftAlone:  # of this host, or of one that it redirects to
                raise
            except Unavailable as failure:
                last = failure
            except Failed:
                host.strikes = 0  # it answered
                raise
            else:
                host.strikes = 0
                return result
        host.strikes += 1
        if host.strikes >= self.manners.strikes:
            host.left_alone = f"host left alone: {host.strikes} URLs in a row failed there, at last: {last}"
        raise last

    async def _attempt(self, url: str, read: Callable, headers: Mapping[str, str], accept: tuple[int, ...]):
        target = _checked(url)
        for _ in range(self.manners.redirects + 1):
            host = self._hosts[target.host]
            async with host.slots:
                await self._turn(host)
                async with self._answer(target, headers) as answer:
                    location = answer.headers.get("location")
                    if answer.status not in _REDIRECTS or location is None:
                        self._judge(answer, host, accept)
                        return await read(answer)
            target = _checked(location, base=target)
        raise Failed(f"redirects: more than {self.manners.redirects}")

    async def _turn(self, host: _Host) -> None:
        """Wait until `host` may be asked; another's `Retry-After` may put that off meanwhile, or end it."""
        while (wait := host.free_at - self._clock()) > 0 and not host.left_alone:
            await self._sleep(wait)
        if host.left_alone:
            raise _LeftAlone(host.left_alone)
        host.free_at = self._clock() + 1 / self.manners.per_second

    @asynccontextmanager
    async def _answer(self, target: URL, headers: Mapping[str, str]):
        timeouts = {
            "connect": self.manners.connect_seconds,
            "read": self.manners.read_seconds,
            "write": self.manners.read_seconds,
            "pool": None,
        }
        fixed = {"Host": target.netloc, "User-Agent": self.manners.user_agent, "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(self.manners.total_seconds),
                self._pool.stream(
                    "GET",
                    httpcore2.URL(
                        scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
                    ),
                    headers={**fixed, **headers},
                    extensions={"timeout": timeouts},
                ) as response,
            ):
                found = {
                    name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
                }
                yield Answer(response.status, found, response.aiter_stream())
        except (TimeoutError, httpcore2.TimeoutException) as error:
            raise Unavailable("timeout") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise Unavailable(f"connection: {' '.join(str(error).split()) or type(error).__name__}") from error

    def _judge(self, answer: Answer, host: _Host, accept: tuple[int, ...]) -> None:
        if answer.status in accept:
            return
        cause = f"HTTP {answer.status}"
        if answer.status not in _TRY_AGAIN and answer.status < 500:
            raise Failed(cause)
        wait = _seconds(answer.headers.get("retry-after", ""))
        if wait > self.manners.longest_wait:
            host.left_alone = f"{cause}: the host asks to come back in {wait:,.0f} seconds"
            raise _LeftAlone(host.left_alone)
        host.free_at = max(host.free_at, self._clock() + wait)
        raise Unavailable(cause)


async def read_body(answer: Answer, max_bytes: int) -> bytes:
    """The body, if it is no longer than `max_bytes`; reading ends where it is."""
    if int(answer.headers.get("content-length", 0)) > max_bytes:
        raise too_large(max_bytes)
    body = bytearray()
    async for chunk in answer.chunks:
        body += chunk
        if len(body) > max_bytes:
            raise too_large(max_bytes)
    return bytes(body)


def too_large(max_bytes: int) -> Failed:
    return Failed(f"too large: more than {max_bytes:,} bytes")


class _CheckedAddresses(httpcore2.AnyIOBackend):
    """Connects to addresses, never to names: what was checked cannot change its mind (DNS rebinding)."""

    def __init__(self, allow_private: bool) -> None:
        super().__init__()
        self._allow_private = allow_private

    async def connect_tcp(self, host: str, port: int, **options) -> httpcore2.AsyncNetworkStream:
        for address in await self._addresses(host, port):
            try:
                return await super().connect_tcp(address, port, **options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
        raise last

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError, OverflowError) as error:  # the last: a port beyond 65535
            raise httpcore2.ConnectError(f"{host} cannot be resolved") from error
        addresses = sorted({entry[4][0] for entry in found}, key=lambda address: ":" in address)  # IPv4 first
        for address in addresses:
            if not (self._allow_private or is_public(address)):
                raise Failed(f"address refused: {address} is not public (host {host})")
        return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public Internet, also where IPv6 wraps an IPv4 address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 6:
        wrapped = ipaddress.IPv4Address(int(parsed) % 2**32) if parsed in _IPV6_OF_IPV4 else None
        wrapped = wrapped or parsed.ipv4_mapped or parsed.sixtofour
        if wrapped is None and parsed not in _IPV6_PUBLIC:
            return False
        parsed = wrapped or parsed
    return parsed.is_global and not parsed.is_multicast


def _checked(url: str, base: URL | None = None) -> URL:
    try:
        parsed = URL(url) if base is None else base.join(url)
    except (InvalidURL, ValueError, UnicodeError) as error:
        raise Failed(f"not a URL: {url[:100]!r}") from error
    if parsed.scheme not in ("http", "https"):
        raise Failed(f"scheme refused: {parsed.scheme or 'none'}, only http and https are fetched")
    if not parsed.host:
        raise Failed(f"not a URL: {url[:100]!r} names no host")
    return parsed


def _seconds(retry_after: str) -> float:
    """The seconds that a `Retry-After` header asks for, written as a number or as a date; 0 if neither."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
