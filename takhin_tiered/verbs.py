"""A verb at work on a segment: it is named in every log line and error, and shown to whoever asks what runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

from takhin_tiered import logs, work
from takhin_tiered.concurrency import all_of
from takhin_tiered.errors import TakhinError

Result = TypeVar("Result")


@contextmanager
def verb(name: str, path: str) -> Iterator[None]:
    """Within: every log line names the verb and the segment, and so does every error that goes up."""
    with work.working(name, path), named(name, path):
        yield


@contextmanager
def named(name: str, path: str, correlation: str = "") -> Iterator[None]:
    """The same, without a `Work` of its own: of a segment that is worked on together with others.

    ``correlation`` is its own caller's correlation ID, where that is another one.
    """
    with logs.operation(name, path, correlation):
        try:
            yield
        except TakhinError as error:
            error.segment = error.segment or path
            raise


@contextmanager
def resumed(task: work.Work, correlation: str = "") -> Iterator[None]:
    """`named` after work that is shown already; what is moved within counts for it."""
    with work.counting(task), named(task.verb, task.segment, correlation):
        yield


class Member(Protocol):
    """One segment of a batch. ``error`` is why it takes no further step: each kind of member has its own errors."""

    error: Any

    @property
    def is_to_do(self) -> bool: ...


AnyMember = TypeVar("AnyMember", bound=Member)


async def for_each(
    members: Sequence[AnyMember],
    step: Callable[[AnyMember], Awaitable[None]],
    within: Callable[[AnyMember], AbstractContextManager[None]],
    *others: type[Exception],
) -> None:
    """Run a step for all unfinished members at once. One that fails keeps its error, and takes no later step.

    Kept are this project's errors, and those of the ``others`` kinds. ``within`` is entered around each step.
    """

    kept: tuple[type[Exception], ...] = (TakhinError, *others)

    async def one(member: AnyMember) -> None:
        try:
            with within(member):
                await step(member)
        except kept as error:
            member.error = error

    await all_of([one(member) for member in members if member.is_to_do])


def only(results: Sequence[Result | TakhinError]) -> Result:
    """The result of a batch of one; its error is raised."""
    [result] = results
    if isinstance(result, TakhinError):
        raise result
    return result
