"""A connection to an SQLite database, by aiosqlite, with what the library lacks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

import aiosqlite


class Database(aiosqlite.Connection):
    async def _connect(self) -> aiosqlite.Connection:
        """Finish connecting even if cancelled, then close: the library's thread would outlive the loop."""
        opening = asyncio.ensure_future(super()._connect())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])
            if opening.exception() is None:
                await self.close()
            raise

    async def transact(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Run a whole transaction in one call to the database's thread, instead of one call per statement.

        Every method of the library uses `_execute`; it is the only one that takes more than one statement.
        """
        await self._execute(work, self._conn)  # type: ignore[no-untyped-call]  # the library gives this one no types
