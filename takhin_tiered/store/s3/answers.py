"""What an S3 server's answers mean. Source: Amazon S3 API reference, "Error responses"."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from takhin_tiered.codec.checksums import Checksum
from takhin_tiered.errors import (
    BucketMissing,
    InGlacier,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from takhin_tiered.segments.retrieval import STANDARD_TIER, class_or_default, longest_retrieval, span_of
from takhin_tiered.store.base import Conflict, NotSupported

_DENIED = {
    "AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "AllAccessDisabled", "AccountProblem", "InvalidClientTokenId",
}  # fmt: skip
_SKEWED = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
_CORRUPT = {
    "BadDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
    "InvalidDigest",
    "IncompleteBody",
}
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded", "507"}
_FULL_HINT = "Make room in the store, or raise its quota. What is not archived yet stays on disk"


_UNKNOWN = {400, 405, 406, 415, 417, 501}
"""Statuses of a request that is refused as it is: for what it asks, or for one of its headers."""
_NO_CAPACITY = "GlacierExpeditedRetrievalNotAvailable"
_LATER = {"RequestTimeout", "SlowDown"}
_DENIED_HINT = "Check the credentials, and that they allow s3:GetObject, PutObject, DeleteObject and ListBucket"
_SKEWED_HINT = (
    "The clock of this machine and the server's differ by minutes or more: compare `date -u` with the server's time, "
    "and run an NTP service. The credentials are not at fault; local files stay where they are"
)
_POLICY_HINT = (
    "A policy of the bucket may demand encryption, a storage class or that the requester pays: "
    "storage.tiered.s3.sse (AES256 or aws:kms), .s3.sse.kms.key, .s3.class.cold and .s3.requester.pays set these"
)
_KEY_HINT = "Check storage.tiered.s3.sse.kms.key, and that kms:GenerateDataKey and kms:Decrypt are allowed on it"
_SETTINGS_HINT = (
    "The server cannot do what is asked of it: check storage.tiered.s3.sse, .s3.sse.kms.key and .s3.class.cold"
)
_MAKING = {"put", "create upload"}


class Answer(dict[str, Any]):
    """A server's answer in the SDK's form, or a piece of one: what it lacks is an error of the store's."""

    def __missing__(self, name: str) -> Any:
        raise StoreUnavailable(
            f"the server's answer lacks {name}",
            hint="Does something stand between it and us, or is it no S3 server? Local files stay where they are",
        )

    def pieces(self, name: str) -> list[Answer]:
        """The entries of a list in it; none where there is no list."""
        return [Answer(piece) for piece in self.get(name, ())]


class EmptyRange(StoreError):
    """A range that begins at the end of the object, or behind it."""


def meaning(answer: Mapping[str, Any], verb: str, key: str, address: str) -> StoreError:
    """What an error answer says, as this project's error."""
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    words = f"cannot {verb} in {address}: {answer.get('Error', {}).get('Message') or code} ({code or status})"
    if code == "NoSuchBucket":
        return BucketMissing(words, hint="Create the bucket, or set storage.tiered.s3.bucket to one that exists")
    if code in {"NoSuchKey", "NoSuchUpload", "404"}:
        return ObjectMissing(words, key=key)
    if code == "InvalidRange":
        return EmptyRange(words, key=key)
    if code in {"PreconditionFailed", "412"}:
        return ObjectExists(words, key=key)
    if code == "InvalidObjectState":
        return in_glacier(key, str(answer.get("StorageClass") or answer["Error"].get("StorageClass") or ""))
    if code == _NO_CAPACITY:
        return NotSupported(words, key=key, hint="Try again, or set storage.tiered.s3.glacier.tier to Standard")
    if status == 409:
        return Conflict(words, key=key)
    if code in _CORRUPT:
        return ObjectCorrupt(words, key=key, hint="The bytes changed on their way; nothing was stored")
    if code in _FULL:
        return StoreFull(words, key=key, hint=_FULL_HINT)
    if code.startswith("KMS.") or "kms:" in words:
        return StoreDenied(words, key=key, hint=_KEY_HINT)
    if code in _SKEWED:
        return StoreDenied(words, key=key, hint=_SKEWED_HINT)
    if code in _DENIED or status in {401, 403}:
        hint = f"{_DENIED_HINT}. {_POLICY_HINT}" if code == "AccessDenied" and verb in _MAKING else _DENIED_HINT
        return StoreDenied(words, key=key, hint=hint)
    if status in _UNKNOWN and code not in _LATER:
        return NotSupported(words, key=key, hint=_SETTINGS_HINT if _is_of_settings(code, words) else "")
    return StoreUnavailable(words, key=key)


def in_glacier(key: str, storage_class: str) -> InGlacier:
    """The error of a read of an object that has to be retrieved first."""
    where = f"S3 Glacier (class {storage_class})" if storage_class else "S3 Glacier or a class like it"
    seconds = longest_retrieval(class_or_default(storage_class), STANDARD_TIER)
    return InGlacier(
        f"object {key} is in {where}, and has to be retrieved before it can be read",
        key=key,
        storage_class=storage_class,
        seconds=seconds,
        hint=f"takhin-tiered restore requests it, and restores the segment when it is there: in up to "
        f"{span_of(seconds)}. Until then a read costs nothing, and ends with this error",
    )


def _is_of_settings(code: str, words: str) -> bool:
    """Whether what is refused is something that settings ask for."""
    return code == "InvalidStorageClass" or "encryption" in words.lower() or "storage class" in words.lower()


def checksum_proven_by_md5(etags: Sequence[str], checksum: Checksum) -> str | None:
    """The SHA-256, where the server's ETags are the MD5 of the very bytes that it was taken of."""
    proven = [etag.strip('"') for etag in etags] == [md5.hex() for md5 in checksum.md5]
    return checksum.sha256 if proven else None


def size_of_all(answer: Any) -> int:
    """Bytes in the object that an answer is, or is a range of."""
    total = str(answer.get("ContentRange", "")).rpartition("/")[2]
    return int(total) if total.isdigit() else int(answer.get("ContentLength", 0))


def address_of(bucket: str, prefix: str, endpoint: str) -> str:
    """Where a prefix is, for people."""
    address = "/".join(part for part in (f"s3://{bucket}", prefix.strip("/")) if part)
    return address + (f" at {endpoint}" if endpoint else "")


def date_of(answer: Mapping[str, Any]) -> float | None:
    """When the server answered, by its own clock, in seconds since the epoch; None where it does not say."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None


def is_of_this_machine(endpoint: str) -> bool:
    """Whether the server at this address runs here, as far as its name tells: then its clock is ours."""
    host = urlsplit(endpoint).hostname or ""
    return host in {"localhost", "::1", socket.gethostname()} or host.startswith("127.")
