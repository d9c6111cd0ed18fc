"""An annotated configuration file, made from the settings' own definitions: each key, its default, its text."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from takhin_tiered.config import WITHOUT_EFFECT, Settings
from takhin_tiered.config_sources import OURS, variable

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*|[0-9]+(?:\.[0-9]+){3}")
_WIDTH = 100
_REQUIRED = {"storage.data.dir": "/var/lib/takhin/data"}
_HEAD = f"""\
# Every setting of takhin-tiered, with its default. Set storage.data.dir and a store; what stays at its default may go.
# It moves nothing before storage.tiered.enabled is true. A variable outweighs a key: {OURS}.cold.age.hours is
# {variable(f"{OURS}.cold.age.hours")}. A key may be written with dots, or as mappings within each other.
"""
DESCRIPTIONS = {
    "storage.data.dir": "The broker's segment directory, which holds directories such as orders-0, or a list of them. "
    "Required.",
    "storage.tiered.enabled": "true: archive what is cold. false: look, serve the API, and move nothing.",
    "storage.tiered.s3.bucket": "The bucket to archive to. Credentials come from the AWS SDK's own chain. "
    "Set this or directory.path.",
    "storage.tiered.s3.region": "The region of the bucket.",
    "storage.tiered.s3.prefix": "What every key begins with. Each data directory needs a prefix of its own.",
    "storage.tiered.s3.endpoint": "Empty for Amazon S3; else the server's address, such as http://minio:9000.",
    "storage.tiered.s3.prefixes.read": "Prefixes that earlier daemons wrote, and that this one reads after its own.",
    "storage.tiered.s3.sse": "Server-side encryption that a bucket's policy demands: AES256 or aws:kms. Empty: none.",
    "storage.tiered.s3.sse.kms.key": "The KMS key, with aws:kms. Empty: the bucket's own.",
    "storage.tiered.s3.checksum": "What the server is asked to check uploads by.",
    "storage.tiered.s3.requester.pays": "true: whoever reads the bucket pays.",
    "storage.tiered.s3.class.cold": "The storage class of what is uploaded, such as STANDARD_IA. Empty: the bucket's.",
    "storage.tiered.directory.path": "A directory as the store, instead of a bucket. Not inside storage.data.dir.",
    "storage.tiered.cold.age.hours": "A segment last modified so long ago is cold, and is archived.",
    "storage.tiered.warm.age.hours": "A segment last modified so long ago is warm. Less than the cold age.",
    "storage.tiered.archive.interval.minutes": "From the end of one cycle to the start of the next.",
    "storage.tiered.archive.mode": "How the local disk gets room: copy, trim or move. Empty: copy beside Apache Kafka, "
    "else move.",
    "storage.tiered.archive.before.retention": "In copy and trim: archive before the broker's retention deletes.",
    "storage.tiered.archive.superseded.keep.hours": "How long a superseded generation is kept. 0: for ever.",
    "storage.tiered.archive.corrupt": "A Kafka segment with a bad batch. archive: as it is, and marked. "
    "refuse: leave it on disk.",
    "storage.tiered.archive.concurrency": "Segments in flight at the same time, 1 to 256.",
    "storage.tiered.auto.archive.enabled": "false: segments are archived by command or API only.",
    "storage.tiered.local.cache.size.mb": "Room for restored segments, in mebibytes; least recently read leave first.",
    "storage.tiered.restore.lease.hours": "How long a restored segment stays.",
    "storage.tiered.restore.reserve.mb": "A restore that would leave less free than this, in mebibytes, is refused.",
    "storage.tiered.reconcile.interval.hours": "How often catalog and bucket are compared, and mended.",
    "storage.tiered.scrub.interval.hours": "How often every archived byte is read back and compared. 0: never.",
    "storage.tiered.scrub.mbps": "How fast, in megabytes a second at the most.",
    "storage.tiered.throttle.upload.mbps": "How fast segments are archived, in megabytes a second. 0: no limit.",
    "storage.tiered.throttle.download.mbps": "How fast they are restored and verified. 0: no limit.",
    "storage.tiered.retention.hours": "When archived segments are removed for good: hours for all topics, or by glob, "
    'such as {"orders-*": 720}. Empty: never.',
    "storage.tiered.retention.bytes": "By bytes kept of each partition, the newest. The same forms. Empty: all.",
    "storage.tiered.hot.min.access.hz": "Reads an hour that keep a segment hot.",
    "storage.tiered.hot.min.access.count": "Reads in all that keep a segment hot.",
    "storage.tiered.tier.check.interval.minutes": "Time between two looks at the tiers.",
    "storage.tiered.topics.include": "Globs: the topics whose segments may be moved.",
    "storage.tiered.topics.exclude": "Globs: topics that stay on disk even if they are included.",
    "storage.tiered.topics.compacted": "Compacted topics. skip: leave them on disk. archive: take them knowingly.",
    "storage.tiered.broker.bootstrap": "The live broker, as host:port, several with commas. Empty: it is not asked.",
    "storage.tiered.broker.client": "How to log in to it: aiokafka's keywords, such as {security_protocol: SSL}.",
    "storage.tiered.trim.ignore.groups": "Globs: consumer groups whose committed offsets do not hold trim back.",
    "storage.tiered.api.host": "The address to listen on. Anything but loopback needs a token.",
    "storage.tiered.api.port": "The port to listen on. 0 takes any that is free.",
    "storage.tiered.api.token": f"If set, requests need it as a bearer token. Better {variable(f'{OURS}.api.token')}.",
    "storage.tiered.state.dir": "Where catalog and lock are. Empty: <data dir>.takhin-tiered, or inside the data "
    "directory where nothing can be made beside it. Required with several data directories.",
    "logging.level": "debug, info, warn or error. Logs go to standard error.",
    "logging.format": "json: an object on each line. text: for people.",
}


def example() -> str:
    return _HEAD + "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    """Nested as far as sections go, and dotted below: some keys are a value and the beginning of another."""
    section: tuple[str, ...] = ()
    for name, field in Settings.model_fields.items():
        key = str(field.validation_alias)
        above = tuple(key.split(".")[:2]) if key.startswith(f"{OURS}.") else tuple(key.split(".")[:1])
        common = 0
        while common < min(len(section), len(above)) and section[common] == above[common]:
            common += 1
        for depth in range(common, len(above)):
            yield ("\n" if not depth else "") + "  " * depth + f"{above[depth]}:"
        section = above
        indent = "  " * len(above)
        text = DESCRIPTIONS.get(key, "")
        if name in WITHOUT_EFFECT:
            text += " Accepted, but without effect in this version."
        yield from textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        mark = "# " if name in WITHOUT_EFFECT else ""
        yield f"{indent}{mark}{key.removeprefix('.'.join(above) + '.')}: {_written(key, field.default)}"


def _written(key: str, value: Any) -> str:
    """As YAML takes it, and as it is taken for the default."""
    if value is PydanticUndefined:
        return _REQUIRED[key]
    if value is None or value == () or isinstance(value, SecretStr):
        return '""'
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value)
