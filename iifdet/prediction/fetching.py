"""Images by URL: http and https alone, with limits on time and size."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request

from iifdet.datasets.images import ImageError, decode_image
from iifdet.prediction.arrays import Image

#: Seconds for an answer to begin, and for all of it.
TIMEOUT, PATIENCE = 10.0, 60.0
#: Bytes of the largest file that is read.
LARGEST = 64 << 20
_PIECE = 1 << 16
#: Nothing but http and https: a redirect to file:// or ftp:// ends in an error.
_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.UnknownHandler,
)


def is_url(text: str) -> bool:
    """Whether a source is a URL that :func:`fetch_image` takes."""
    return text.lower().startswith(("http://", "https://"))


def fetch_image(url: str) -> Image:
    """(H, W, 3) uint8 RGB of an image on the web; read as image files are.

    Raises:
        ImageError: no network, no answer in time, an HTTP error, a file that is too large or no image.
    """
    try:
        data = _fetch(url)
    except urllib.error.HTTPError as error:
        raise ImageError(f"{url}: the server says {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ImageError(f"{url}: cannot be fetched ({reason}); check the address and the network") from error
    return decode_image(data, url)


def _fetch(url: str) -> bytes:
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    request, pieces, size = urllib.request.Request(url, headers={"User-Agent": "iifdet"}), [], 0
    begun = time.monotonic()
    with opener.open(request, timeout=TIMEOUT) as answer:
        while piece := answer.read(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST:
                raise ImageError(f"more than {LARGEST >> 20} MB")
            if time.monotonic() - begun > PATIENCE:
                raise ImageError(f"took more than {PATIENCE:.0f} s")
    return b"".join(pieces)
