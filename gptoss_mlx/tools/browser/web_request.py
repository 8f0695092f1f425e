"""One request to the web, within limits: time, size, redirects, and where it may lead."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpcore2
import httpx2

from gptoss_mlx.tools.browser.addresses import Resolve, resolve_host
from gptoss_mlx.tools.browser.backend import BrowseError, check_stopped, on_stop
from gptoss_mlx.tools.browser.transport import Deadline, Dial, GuardedTransport, dial_address, sentence

AGENT: Final = "gptoss-mlx (a browser of a language model on the user's own machine)"

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))


@dataclass(frozen=True, slots=True)
class WebLimits:
    """What one request may take."""

    seconds: float = 20.0
    """In all: names, redirects and content together."""
    content_bytes: int = 5_000_000
    """Of the content, unpacked."""
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What came."""

    url: str
    """Where it came from in the end."""
    content_type: str
    """In lower case, without parameters."""
    charset: str | None
    data: bytes


@dataclass(frozen=True, slots=True)
class Web:
    """The way to the web. `resolve` and `dial` are for tests."""

    private: bool = False
    """Whether addresses that are not public may be reached, too."""
    limits: WebLimits = WebLimits()
    resolve: Resolve = resolve_host
    dial: Dial = dial_address

    def get(self, url: str) -> WebAnswer:
        """The page at `url`, redirects followed. Raises BrowseError."""
        deadline = Deadline(self.limits.seconds)
        on_stop(deadline.end)
        for _ in range(self.limits.redirects + 1):
            answer, target = self._request(deadline, "GET", url)
            if answer is not None:
                return answer
            url = check_url(urljoin(url, target))
        raise BrowseError(f"`{url}` was not reached: more than {self.limits.redirects} redirects")

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> WebAnswer:
        """The answer of a service; redirects are not followed, since `headers` may hold a key. Raises BrowseError."""
        deadline = Deadline(self.limits.seconds)
        on_stop(deadline.end)
        answer, _ = self._request(deadline, method, url, headers=headers, params=params, json=json)
        if answer is None:
            raise BrowseError(f"`{urlsplit(url).netloc}` sends somewhere else, which is not followed")
        return answer

    def _request(self, deadline: Deadline, method: str, url: str, **more: Any) -> tuple[WebAnswer | None, str]:
        """What came, or where the server says that it is."""
        check_stopped()
        transport = GuardedTransport(deadline, private=self.private, resolve=self.resolve, dial=self.dial)
        more["headers"] = {"User-Agent": AGENT, "Accept-Encoding": "gzip", **(more.get("headers") or {})}
        try:
            with (
                httpx2.Client(transport=transport, trust_env=False, follow_redirects=False) as client,
                client.stream(method, url, timeout=self.limits.seconds, **more) as response,
            ):
                target = response.headers.get("location")
                if response.status_code in _REDIRECTS and target:
                    return None, target
                if response.status_code >= 400:
                    raise BrowseError(f"`{url}` cannot be had: the server says {_status(response)}")
                return self._read(response, url), ""
        except BrowseError:
            raise
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
            raise self._failure(deadline, url, error) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, ValueError, zlib.error) as error:
            raise self._failure(deadline, url, error) from error

    def _failure(self, deadline: Deadline, url: str, error: Exception) -> BrowseError:
        if deadline.ended:
            return BrowseError("the call was stopped")
        return BrowseError(f"`{url}` cannot be had: {sentence(error, self.limits.seconds)}")

    def _read(self, response: httpx2.Response, url: str) -> WebAnswer:
        kind, _, parameters = response.headers.get("content-type", "").partition(";")
        parts: list[bytes] = []
        size = 0
        for part in _unpacked(response, self.limits.content_bytes):
            parts.append(part)
            size += len(part)
            if size > self.limits.content_bytes:
                raise BrowseError(f"`{url}` is too large: more than {self.limits.content_bytes // 1_000_000} MB")
        charset = next(
            (
                value.strip("\"' ")
                for name, _, value in (each.strip().partition("=") for each in parameters.split(";"))
                if name.lower() == "charset"
            ),
            None,
        )
        return WebAnswer(url, kind.strip().lower(), charset, b"".join(parts))


def check_url(url: str) -> str:
    """The address without its fragment. Raises BrowseError for one that is none of the web, or carries a password."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise BrowseError(f"`{url[:200]}` is no address of the web ({error})") from error
    if parts.scheme not in ("http", "https") or not host:
        raise BrowseError(f"`{url[:200]}` is no address of the web; expected one with http:// or https://")
    if "@" in parts.netloc:
        raise BrowseError(f"`{parts.scheme}://{host}` may not be opened with a name or a password in its address")
    return parts._replace(fragment="").geturl()


def _unpacked(response: httpx2.Response, most_bytes: int) -> Iterator[bytes]:
    """The content, unpacked by so many bytes at a time: a small answer may be a gigabyte of zeros."""
    packing = response.headers.get("content-encoding", "").strip().lower()
    if packing in ("", "identity"):
        yield from response.iter_raw()
        return
    if packing not in ("gzip", "x-gzip"):
        raise BrowseError(f"the content is packed in a way that was not asked for ({packing})")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    for part in response.iter_raw():
        yield unpacker.decompress(part, most_bytes + 1)
        if unpacker.unconsumed_tail:
            # More than may come in all.
            yield unpacker.decompress(unpacker.unconsumed_tail, most_bytes + 1)
            return
    yield unpacker.flush()


def _status(response: httpx2.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()
