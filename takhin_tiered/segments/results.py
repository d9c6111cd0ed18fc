"""Results of the storage as values, and the one pair of functions that converts them to JSON and back.

The forms are stable: the API returns them, commands print them with ``--json`` and parse a daemon's responses by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from takhin_tiered.cost.planning import PlanCost
from takhin_tiered.cost.report import RestoreBudget


@dataclass(frozen=True, slots=True)
class FailedSegment:
    segment_path: str
    error: str


@dataclass(frozen=True, slots=True)
class CycleResult:
    """What one cycle did; ``postponed`` steps were not started, ``bytes_freed`` are those of unlinked files.

    ``reserve_missing_bytes``: so many less are free than `local.reserve.percent` asks for, once all has left that may.
    """

    started_at: str | None
    ended_at: str | None
    archived: int
    copied: int
    evicted: int
    expired: int
    postponed: int
    bytes_freed: int
    trimmed: int
    failures: tuple[FailedSegment, ...]
    reserve_missing_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ClockStatus:
    """``problem`` is empty if the clocks agree."""

    problem: str
    ahead_seconds: int


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """The local broker; ``kind`` is ``kafka`` or empty. ``bootstrap`` is where topic settings come from."""

    kind: str
    running: bool
    bootstrap: str
    problem: str
    topics_known: int
    idle_tail_topics: tuple[str, ...]
    compacted_partitions: int
    file_problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LostSegment:
    """A segment that left the disk before it was archived."""

    segment_path: str
    seen_at: str | None


@dataclass(frozen=True, slots=True)
class Consumer:
    """A connection to the Kafka endpoint, and where it reads: ``offset`` is the next one, ``bytes`` what it has got."""

    client_id: str
    address: str
    user: str
    topic: str
    partition: int
    offset: int
    bytes: int
    at: str | None


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """This node's part of the shared catalog. Empty ``problem``: the table has what this node knows, as of
    ``synced_at``; that is None where no process is there to tell.
    """

    mode: str
    table: str
    node: str
    problem: str = ""
    problem_since: str | None = None
    synced_at: str | None = None


@dataclass(frozen=True, slots=True)
class RequestedSegment:
    """A segment that is retrieved from an archive class such as GLACIER, and restored then.

    ``expected_at`` is when it can be read, at most, by the usual times of its storage class.
    """

    segment_path: str
    storage_class: str
    requested_at: str | None
    expected_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of the storage. Times are ISO 8601 in UTC, or None; sizes are bytes.

    ``archived_segments`` are only in the archive. ``damaged_segments`` have a log in which damage was found.
    ``store_down_since`` is the start of the present outage. ``store_reachable`` is None if no store is configured.
    ``requested`` are the first of the ``requested_segments``, which are waited for, by when they are expected.
    ``consumers`` read through the Kafka endpoint now. ``fleet`` is None without a shared catalog.
    ``reserve_missing_bytes`` are as in a cycle's result, and missing still. ``restore_budget`` is None without one.
    """

    version: str
    total_segments: int
    hot_segments: int
    warm_segments: int
    cold_segments: int
    archived_segments: int
    total_size_bytes: int
    local_size_bytes: int
    archived_size_bytes: int
    damaged_segments: int = 0
    quarantined_segments: int
    superseded_generations: int
    future_segments: int
    clock: ClockStatus
    enabled: bool
    mode: str
    broker: BrokerStatus
    data_dir: str
    data_dirs: tuple[str, ...]
    disk_free_bytes: int
    store: str | None
    store_reachable: bool | None
    store_problem: str
    store_down_since: str | None = None
    last_cycle: CycleResult | None
    last_cycle_problem: str
    last_cycle_at: str | None
    last_cycle_by: str
    cycle_running_seconds: float | None
    cycle_interval_seconds: float
    lost_segments: int
    lost: tuple[LostSegment, ...]
    headroom_seconds: float | None
    requested_segments: int = 0
    requested: tuple[RequestedSegment, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    fleet: FleetStatus | None = None
    reserve_missing_bytes: int = 0
    restore_budget: RestoreBudget | None = None


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The process that holds the data directory; ``answers`` is None if it serves no API."""

    pid: int
    host: str
    api: str
    answers: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusHere(Status):
    """The output of ``status``: also the process that holds the data directory, if there is one."""

    daemon: DaemonStatus | None = None


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What the next cycle will do with a segment; ``reason`` is for people, ``reason_code`` for programs."""

    segment_path: str
    action: str
    reason: str
    reason_code: str
    policy: str
    uploads_bytes: int
    frees_bytes: int


@dataclass(frozen=True, slots=True)
class PlanResult:
    """``cost`` is None from a release that did not tell it; ``saved_usd_monthly`` is the same figure in short."""

    made_at: str | None
    bytes_uploaded: int
    bytes_freed: int
    saved_usd_monthly: float
    segments: tuple[PlannedStep, ...]
    cost: PlanCost | None = None


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """``learned``: segments added to the catalog or updated; ``lost``: segments that are nowhere now; ``strays``:
    objects without a manifest.
    """

    learned: int
    lost: tuple[str, ...]
    strays: int


@dataclass(frozen=True, slots=True)
class RekeyResult:
    """Manifests by what became of them. ``current``: wrapped with the current key already; ``plain``: not encrypted;
    ``read_only``: under a prefix that is only read.
    """

    rewrapped: int
    current: int
    plain: int
    read_only: int
    failures: tuple[FailedSegment, ...]


@dataclass(frozen=True, slots=True)
class VerifiedSegment:
    """``problem`` is empty if the archive matches the manifest. ``exact_path`` names the incarnation too.

    ``skipped`` says what was not read back, as it lies in an archive class such as GLACIER; empty where all was.
    """

    segment_path: str
    exact_path: str
    size_bytes: int
    problem: str
    may_lack_files: bool
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Hole:
    """Offsets, first and last, that are neither archived nor local."""

    partition: str
    incarnation: str
    offsets: tuple[int, int]


Result = TypeVar("Result")
_Reader = Callable[[Any], Any]


def to_json(result: Any) -> dict[str, Any]:
    """Convert a dataclass like those of this module to what `json.dumps` takes."""
    kind: Any = type(result)
    return {name: _plain(getattr(result, name)) for name in _names(kind)}


def from_json(kind: type[Result], data: Any) -> Result:
    """Convert back what `to_json` wrote; unknown fields are ignored. `ValueError` if it is malformed.

    Pydantic would refuse texts with surrogates, which stand for file names that are not UTF-8.
    """
    if not isinstance(data, dict):
        raise _wrong(f"not a {kind.__name__}", data)
    values, form = {}, _form(cast(Any, kind))
    for name, read, is_required in form:
        if name in data:
            values[name] = read(data[name])
        elif is_required:
            raise ValueError(f"{kind.__name__} lacks {name}")
    return kind(**values)


def _wrong(what: str, value: object) -> ValueError:
    return ValueError(f"{what}: {value!r:.100}")


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return to_json(value) if is_dataclass(value) else value


@cache
def _form(kind: Any) -> tuple[tuple[str, _Reader, bool], ...]:
    hints = get_type_hints(kind)
    found = fields(kind)
    return tuple((each.name, _reader(hints[each.name]), each.default is MISSING) for each in found)


def _reader(hint: Any) -> _Reader:
    arguments = get_args(hint)
    if get_origin(hint) in {Union, UnionType}:
        (inner,) = (_reader(each) for each in arguments if each is not NoneType)
        return lambda value: None if value is None else inner(value)
    if get_origin(hint) is tuple:
        return _tuple_reader(arguments)
    if is_dataclass(hint) and isinstance(hint, type):
        return lambda value: from_json(hint, value)
    wanted = (int, float) if hint is float else hint

    def read(value: Any) -> Any:
        if not isinstance(value, wanted):
            raise _wrong(f"not of type {hint.__name__}", value)
        return value

    return read


def _tuple_reader(arguments: tuple[Any, ...]) -> _Reader:
    each = _reader(arguments[0])
    length = None if arguments[-1] is Ellipsis else len(arguments)

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or length not in {None, len(value)}:
            raise _wrong("not a list of the right length", value)
        return tuple(map(each, value))

    return read
