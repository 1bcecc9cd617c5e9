"""Object stores by their addresses, and what they say in words that help."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vmthaw._extras import need
from vmthaw.errors import SourceOpenError, VmthawValueError
from vmthaw.source._object_store._answer_to import answer_to

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "http", "https")

_SAID = re.compile(r"<Code>([^<]{1,80})</Code>\s*(?:<Message>([^<]{1,300})</Message>)?")
_NO_CREDENTIALS = ("Missing AccessKeyId", "Missing SecretAccessKey", "169.254.169.254", "169.254.170.")
_NOBODY = ("InvalidAccessKeyId", "XAdminUserNotFound")  # Amazon's word; versitygw's, which sends it as a 404


def store_of(
    url: str, timeout: float, config: Mapping[str, Any] | None, *, retries: int = 0
) -> tuple[ObjectStore, str]:
    """The store and the path in it that ``SCHEME://BUCKET/PATH`` names; nothing is asked yet. `timeout` is that of
    one request, in seconds. Raises MissingExtraError, VmthawValueError and SourceOpenError."""
    parts = urlsplit(url)
    path = unquote(parts.path).lstrip("/")
    if parts.scheme not in SCHEMES or not parts.netloc or not path:
        raise VmthawValueError(f"{url!r} names no object: give SCHEME://BUCKET/KEY with one of {', '.join(SCHEMES)}")
    if parts.query or parts.fragment:
        raise VmthawValueError(f"{url!r} has a query or a fragment, which are no part of an object's name")
    root = f"{parts.scheme}://{parts.netloc}"
    stores = need("obstore.store", "s3")
    client: dict[str, Any] = {
        "timeout": f"{timeout * 1000:.0f}ms",
        "connect_timeout": f"{min(timeout, 5.0) * 1000:.0f}ms",
    }
    endpoint = str((config or {}).get("endpoint", os.environ.get("AWS_ENDPOINT_URL", "")))
    if parts.scheme == "http" or endpoint.startswith("http:"):
        client["allow_http"] = True
    options: dict[str, Any] = {"client_options": client, "retry_config": {"max_retries": retries}}
    if config is not None:
        options["config"] = dict(config)
    try:
        return stores.from_url(root, **options), path
    except Exception as error:
        number, why = explained(error)
        raise open_error(url, number if number != errno.EREMOTEIO else errno.EINVAL, why) from error


def explained(error: Exception) -> tuple[int, str]:
    """An errno for what obstore raised, and a line that says why and, where that is known, how to mend it."""
    import obstore

    text = said(error)
    if any(word in text for word in _NO_CREDENTIALS):
        remedy = "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return errno.EACCES, f"{remedy}: {text}"
    refused = (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)
    if isinstance(error, refused) or any(word in text for word in _NOBODY):
        return errno.EACCES, f"the store refuses: check the credentials: {text}"
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT, f"there is no such object: check bucket and key: {text}"
    return errno.EREMOTEIO, text


async def why_missing(store: ObjectStore, path: str, error: Exception) -> tuple[int, str]:
    """`explained` of a HEAD that found nothing. What a store has to say is in the answer to a GET alone."""
    import obstore

    try:
        await answer_to(obstore.get_range_async(store, path, start=0, end=1))
    except Exception as other:  # noqa: BLE001 - whatever it is, it is explained
        return explained(other)
    return explained(error)


def said(error: BaseException) -> str:
    """One line: what the store said, without the debugging text that follows."""
    text = str(error)
    line = text.partition("\n")[0].partition("<?xml")[0].rstrip(" :")
    if found := _SAID.search(text):
        line += f" ({found[1]}: {found[2]})" if found[2] else f" ({found[1]})"
    return line


def open_error(url: str, number: int, why: str) -> SourceOpenError:
    """To be raised for a page source that cannot be opened."""
    error = SourceOpenError(f"cannot open page source {url}: {why}")
    error.path, error.errno = url, number
    return error
