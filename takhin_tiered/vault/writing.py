"""A segment on its way into the vault: what it holds, what the archive has of it, and its manifest at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from takhin_tiered import work
from takhin_tiered.errors import TakhinError
from takhin_tiered.segments.manifest import Manifest, ManifestFile
from takhin_tiered.segments.names import FileKind, SegmentId
from takhin_tiered.segments.splice import Part
from takhin_tiered.vault.opened import Content, OpenSegment
from takhin_tiered.vault.proof import OtherBytes
from takhin_tiered.vault.stored import Stored


@dataclass(slots=True, eq=False)
class Writing:
    """An open segment on its way into the vault.

    ``content`` is what its files hold; ``draft`` is its manifest, without files. ``existing`` is the committed one,
    ``distrusted`` is what is known to be damaged of it, and ``accepted`` are files that may stay as they are there,
    although they differ from the local ones. ``parts``: the archive has the bytes of the log in other segments' logs,
    and they are not stored again. In the end ``manifest`` is the committed one, a new one or the existing one where
    that says all this already, or ``error`` tells why there is none.
    """

    opened: OpenSegment
    content: Content
    draft: Manifest
    existing: Manifest | None
    generation: int
    distrusted: frozenset[FileKind]
    work: work.Work
    accepted: frozenset[FileKind] = frozenset()
    parts: tuple[Part, ...] = ()
    # Of what is stored; empty for the bucket's own.
    storage_class: str = ""
    manifest: Manifest | None = None
    error: TakhinError | OtherBytes | None = None
    entries: dict[FileKind, ManifestFile] = field(default_factory=dict)
    # What is to be stored of the files that the archive does not have.
    stored: dict[FileKind, Stored] = field(default_factory=dict)
    # Keys that this attempt stored, and whether its manifest was sent: it may be committed from then on.
    made: list[str] = field(default_factory=list)
    is_sent: bool = False

    @property
    def id(self) -> SegmentId:
        return self.opened.identity

    @property
    def is_to_do(self) -> bool:
        return self.error is None

    @property
    def missing(self) -> list[FileKind]:
        """The files that the archive has not, and needs."""
        archived = self.existing.files if self.existing is not None else {}
        spared = {kind for kind in self.accepted if kind not in archived}
        return [kind for kind in self.opened.files if kind not in self.entries and kind not in spared]


def spliced_log(writing: Writing) -> ManifestFile:
    """The entry of a log that is made of parts of others."""
    file, checksum = writing.opened.files[FileKind.LOG], writing.content.checksums[FileKind.LOG]
    return ManifestFile(
        writing.id.key(FileKind.LOG, writing.generation),
        writing.opened.size(FileKind.LOG),
        checksum.sha256,
        checksum.part_size,
        file.found.mtime_ns,
        file.mode,
        parts=writing.parts,
    )


def entries_of(writing: Writing) -> dict[FileKind, ManifestFile]:
    entries = {kind: writing.entries[kind] for kind in FileKind if kind in writing.entries}
    return {**kept(writing), **entries}


def kept(writing: Writing) -> dict[FileKind, ManifestFile]:
    """What the new manifest takes over from the committed one."""
    existing = writing.existing
    if existing is None:
        return {}
    if writing.entries.get(FileKind.LOG) == existing.log:
        # An index that is gone from the disk is still that of this log: the archive keeps it.
        missing = writing.missing
        return {kind: file for kind, file in existing.files.items() if kind not in missing}
    return {kind: file for kind, file in existing.files.items() if file == writing.entries.get(kind)}


def is_bound(file: ManifestFile) -> bool:
    return file.encoding is not None and file.encoding.encryption is not None


def replaces(writing: Writing) -> bool:
    """Whether the manifest that is to be written is of a later generation than the committed one."""
    if writing.existing is None or writing.existing.generation == writing.generation:
        return False
    return entries_of(writing) != writing.existing.files
