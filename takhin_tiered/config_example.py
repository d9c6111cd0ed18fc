"""An annotated configuration file, made from the settings' own definitions: each key, its default, its text."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from takhin_tiered.config import Settings
from takhin_tiered.config_sources import OURS, variable

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*|[0-9]+(?:\.[0-9]+){3}")
_WIDTH = 100
_REQUIRED = {"storage.data.dir": "/var/lib/takhin/data"}
_HEAD = f"""\
# Every setting of takhin-tiered, with its default. Set storage.data.dir and a store; remove what stays at its default.
# Nothing is moved until storage.tiered.enabled is true. An environment variable overrides a key:
# {variable(f"{OURS}.cold.age.hours")} is {OURS}.cold.age.hours. Write keys with dots or as nested mappings.
"""
DESCRIPTIONS = {
    "storage.data.dir": "The broker's segment directory, which holds directories such as orders-0, or a list of them. "
    "Required.",
    "storage.tiered.enabled": "true: archive cold segments. false: scan and serve the API, but move nothing.",
    "storage.tiered.s3.bucket": "The bucket to archive to. Credentials come from the AWS SDK's own chain. "
    "Set this or directory.path.",
    "storage.tiered.s3.region": "The region of the bucket.",
    "storage.tiered.s3.prefix": "Prefix of all object keys. Each data directory needs its own prefix.",
    "storage.tiered.s3.endpoint": "Empty for Amazon S3; otherwise the server's URL, such as http://minio:9000.",
    "storage.tiered.s3.prefixes.read": "Read-only prefixes of earlier daemons, searched after this daemon's own.",
    "storage.tiered.s3.sse": "Server-side encryption that the bucket requires: AES256 or aws:kms. Empty: none.",
    "storage.tiered.s3.sse.kms.key": "The KMS key for aws:kms. Empty: the bucket's default key.",
    "storage.tiered.s3.checksum": "The checksum by which the server verifies uploads: sha256, md5 or none.",
    "storage.tiered.s3.requester.pays": "true: confirm that this account pays for requests to a requester-pays bucket.",
    "storage.tiered.warm.copy": "true: upload a segment when it becomes warm, and keep its files until it is cold.",
    "storage.tiered.s3.class.warm": "Storage class of segments that are uploaded before they are cold. Empty: the "
    "bucket's default.",
    "storage.tiered.s3.class.cold": "Storage class of cold segments, such as STANDARD_IA or GLACIER_IR. Empty: they "
    "stay in the class in which they are.",
    "storage.tiered.s3.glacier.tier": "How fast segments are retrieved from GLACIER or DEEP_ARCHIVE for a restore: "
    "Expedited, Standard or Bulk.",
    "storage.tiered.s3.glacier.days": "How many days a retrieved copy can be read, at Amazon's price.",
    "storage.tiered.directory.path": "A directory as the store, instead of a bucket. Not inside storage.data.dir.",
    "storage.tiered.cold.age.hours": "A segment is cold, and is archived, this long after its last modification.",
    "storage.tiered.warm.age.hours": "A segment is warm this long after its last modification. Must be below cold.age.",
    "storage.tiered.archive.interval.minutes": "Time from the end of one cycle to the start of the next.",
    "storage.tiered.archive.mode": "How local disk space is freed: copy, trim or move. Empty: copy beside Apache "
    "Kafka, otherwise move.",
    "storage.tiered.archive.before.retention": "In modes copy and trim: archive before the broker's retention deletes.",
    "storage.tiered.archive.windows": 'Hours in which cycles archive, such as ["Mon-Fri 22:00-06:00"]. Empty: always.',
    "storage.tiered.archive.timezone": "The time zone of the windows, such as Europe/Vienna. Empty: this machine's.",
    "storage.tiered.archive.superseded.keep.hours": "How long a superseded generation is kept. 0: forever.",
    "storage.tiered.archive.corrupt": "For a Kafka segment with a bad batch. archive: archive it unchanged, and mark "
    "it. refuse: leave it on disk.",
    "storage.tiered.archive.concurrency": "Number of segments in flight at the same time, 1 to 256.",
    "storage.tiered.auto.archive.enabled": "false: segments are archived by command or API only.",
    "storage.tiered.local.cache.size.mb": "Disk space for restored segments and cached chunks, in mebibytes. The least "
    "read segments and the least recently read chunks are evicted first.",
    "storage.tiered.local.reserve.percent": "Archive the coldest segments before their age while less of a disk is "
    "free. 0: never.",
    "storage.tiered.restore.lease.hours": "How long a restored segment stays.",
    "storage.tiered.restore.reserve.mb": "A restore that would leave less than this free, in mebibytes, is refused.",
    "storage.tiered.reconcile.interval.hours": "How often the catalog is compared with the bucket, and corrected.",
    "storage.tiered.scrub.interval.hours": "How often every archived byte is read back and compared. 0: never.",
    "storage.tiered.scrub.mbps": "Maximum rate of that, in megabytes a second.",
    "storage.tiered.throttle.upload.mbps": "Maximum rate of archiving, in megabytes a second. 0: no limit.",
    "storage.tiered.throttle.download.mbps": "Maximum rate of restore and verify, in megabytes a second. 0: no limit.",
    "storage.tiered.retention.hours": "Archived segments are deleted from the archive after so many hours: a number "
    'for all topics, or by glob, such as {"orders-*": 720}. Empty: never.',
    "storage.tiered.retention.bytes": "The archive keeps the newest segments of each partition up to so many bytes. "
    "The same forms. Empty: all.",
    "storage.tiered.hot.min.access.hz": "Reads per hour that keep a segment hot, whatever its age. 0: no rate does.",
    "storage.tiered.hot.min.access.count": "Reads that keep a segment hot; each counts for half after a week. 0: no "
    "number does.",
    "storage.tiered.hot.promote.mb.hourly": "How much is brought back to the disk in an hour because it is hot, in "
    "mebibytes. 0: nothing is.",
    "storage.tiered.tier.check.interval.minutes": "How often archived segments that became hot are brought back.",
    "storage.tiered.topics.include": "Globs: topics whose segments may be moved.",
    "storage.tiered.topics.exclude": "Globs: topics that stay on disk even if they are included.",
    "storage.tiered.topics.compacted": "Compacted topics. skip: leave them on disk. archive: archive them too.",
    "storage.tiered.topics.overrides": "What topics have of their own, by glob: cold.age.hours, warm.age.hours, "
    "archive.mode, s3.class.cold, s3.class.warm, compression.codec, retention.hours, retention.bytes.",
    "storage.tiered.compression.codec": "How new segments are compressed: none or zstd. Files that do not "
    "become smaller are stored unchanged.",
    "storage.tiered.compression.level": "The level of zstd, 1 to 22. Higher is smaller and slower.",
    "storage.tiered.compression.topics": "Codecs by glob on topic names; the first match counts, else the codec above: "
    '{"metrics-*": zstd, "images": none}. Empty: the codec above for all.',
    "storage.tiered.encryption.key.file": "If set, new segments are encrypted with AES-256-GCM. A file of lines "
    "'key-id base64-of-32-bytes'; the first key is for new segments, keep the others to read old ones. Without its "
    "key a segment cannot be read by anyone: back up this file.",
    "storage.tiered.chunk.size.mb": "Size of the chunks that can be read and verified by themselves, in mebibytes, "
    "1/64 to 64.",
    "storage.tiered.broker.bootstrap": "The live broker as host:port, several with commas. Empty: do not connect.",
    "storage.tiered.broker.client": "How to log in to it: aiokafka's keywords, such as {security_protocol: SSL}.",
    "storage.tiered.trim.ignore.groups": "Globs: consumer groups whose committed offsets do not hold trim back.",
    "storage.tiered.kafka.host": "The address on which the read-only Kafka endpoint listens. Any other than loopback "
    "needs kafka.tls or kafka.sasl.",
    "storage.tiered.kafka.port": "The port to listen on. 0: there is no Kafka endpoint.",
    "storage.tiered.kafka.advertised": "host:port that clients are told to connect to. Empty: the address that they "
    "connected to.",
    "storage.tiered.kafka.holes": "Where records are missing, a consumer gets an error with refuse, and what follows "
    "with skip.",
    "storage.tiered.kafka.quota.mbps": "Megabytes a second to all consumers together. 0: no limit.",
    "storage.tiered.kafka.sasl.users.file": "A file of users, which then have to log in: lines user:password, or "
    "user:SCRAM-SHA-256:salt:iterations:stored:server. Readable by its owner only.",
    "storage.tiered.kafka.tls.cert": "Certificate chain in PEM: the endpoint then speaks TLS.",
    "storage.tiered.kafka.tls.key": "The private key of the certificate, in PEM.",
    "storage.tiered.api.host": "The address to listen on. Any other than loopback needs a token.",
    "storage.tiered.api.port": "The port to listen on. 0: any free port.",
    "storage.tiered.api.token": "If set, requests need it as a bearer token. The environment is a better place: "
    f"{variable(f'{OURS}.api.token')}. At least 16 characters, or others could guess it.",
    "storage.tiered.api.tokens.file": "A file of more tokens: lines admin TOKEN or read TOKEN, with a name behind it "
    "if wanted. Readable by its owner only.",
    "storage.tiered.api.tls.cert": "Certificate chain in PEM: the API then speaks TLS.",
    "storage.tiered.api.tls.key": "The private key of the certificate, in PEM.",
    "storage.tiered.fleet.table": "The DynamoDB table of a fleet's shared catalog. Empty: none.",
    "storage.tiered.fleet.region": "The region of DynamoDB, also for hybrid tables. Empty: the region of the bucket.",
    "storage.tiered.fleet.endpoint": "Empty for Amazon DynamoDB; otherwise the server's URL. Also for hybrid tables.",
    "storage.tiered.fleet.node": "The name of this daemon in the fleet. Empty: the host's name.",
    "storage.tiered.fleet.mode": "local: no shared catalog. dual: it follows the local catalog. dynamodb: also, a new "
    "state directory begins with what it knows.",
    "storage.tiered.fleet.replicas": "own: this daemon has the prefix to itself. adopt: the daemons of all replicas "
    "share a prefix, and what one of them archived the others do not upload again.",
    "storage.tiered.hybrid.tables": "DynamoDB tables whose old items move to the store: a list of {name, "
    "partition_key, sort_key, timestamp, archive_after_days, key_template}.",
    "storage.tiered.prices.disk": "What a GB of the data directory costs a month, in US dollars. All prices are by "
    "default those of AWS in us-east-1, and a GB is 10^9 bytes. These here: Amazon EBS gp3.",
    "storage.tiered.prices.storage": "A GB-month in the store, by storage class. What is given replaces these; one "
    "number is the price of all classes.",
    "storage.tiered.prices.put": "1,000 requests PUT, COPY, POST or LIST, by storage class.",
    "storage.tiered.prices.get": "1,000 requests GET or HEAD, by storage class.",
    "storage.tiered.prices.retrieval": "A GB that is read, by storage class.",
    "storage.tiered.prices.thaw": "1,000 requests that take an object out of a Glacier class.",
    "storage.tiered.prices.minimum.days": "Days that are billed at least, by storage class.",
    "storage.tiered.prices.minimum.bytes": "Bytes of an object that are billed at least, by storage class.",
    "storage.tiered.prices.egress": "A GB that leaves the region. It counts with prices.transfer internet.",
    "storage.tiered.prices.transfer": "region: this daemon runs in the bucket's region, where transfer is free. "
    "internet: elsewhere, and each GB that is read costs prices.egress.",
    "storage.tiered.budget.restore.monthly": "US dollars that restores and reads of archived segments may cost in a "
    "calendar month (UTC). A restore that would exceed it is refused. 0: no limit.",
    "storage.tiered.state.dir": "Directory of catalog and lock. Empty: <data dir>.takhin-tiered, or inside the data "
    "directory if nothing can be created beside it. Required with several data directories.",
    "logging.level": "debug, info, warn or error. Logs go to standard error.",
    "logging.format": "json: one object per line. text: for people.",
}


def example() -> str:
    return _HEAD + "\n".join(_lines()) + "\n"


def defaults() -> dict[str, str]:
    """The default of each key, in YAML, in the order of the example."""
    fields = {str(field.validation_alias): field for field in Settings.model_fields.values()}
    return {key: _written(key, fields[key].default) for key in DESCRIPTIONS}


def _lines() -> Iterator[str]:
    """Sections are nested, keys below them dotted: some keys are both a value and a prefix of others."""
    section: tuple[str, ...] = ()
    by_key = {str(field.validation_alias): field for field in Settings.model_fields.values()}
    for key, words in DESCRIPTIONS.items():
        field = by_key[key]
        above = tuple(key.split(".")[:2]) if key.startswith(f"{OURS}.") else tuple(key.split(".")[:1])
        common = 0
        while common < min(len(section), len(above)) and section[common] == above[common]:
            common += 1
        for depth in range(common, len(above)):
            yield ("\n" if not depth else "") + "  " * depth + f"{above[depth]}:"
        section = above
        indent = "  " * len(above)
        yield from textwrap.wrap(words, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        yield f"{indent}{key.removeprefix('.'.join(above) + '.')}: {_written(key, field.default)}"


def _written(key: str, value: Any) -> str:
    """The default in YAML."""
    if value is PydanticUndefined:
        return _REQUIRED[key]
    if isinstance(value, tuple) and value and all(isinstance(each, tuple) for each in value):
        return json.dumps(dict(value))
    if value is None or value == () or isinstance(value, SecretStr):
        return '""'
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value)
