"""Hybrid tables: old items of DynamoDB tables move to the store, and are read as if nothing had moved.

::

    async with HybridTables.open(settings) as tables:
        order = await tables.table(Order).load("CUST_1", "ORDER_1")
"""

from takhin_tiered.hybrid.archiving import ArchivalResult
from takhin_tiered.hybrid.filters import Attr, Condition
from takhin_tiered.hybrid.models import PlainItem, archival_timestamp, hybrid_table
from takhin_tiered.hybrid.table import HybridTable
from takhin_tiered.hybrid.tables import HybridTables
from takhin_tiered.hybrid.verifying import Problem, Verification

__all__ = [
    "ArchivalResult",
    "Attr",
    "Condition",
    "HybridTable",
    "HybridTables",
    "PlainItem",
    "Problem",
    "Verification",
    "archival_timestamp",
    "hybrid_table",
]
