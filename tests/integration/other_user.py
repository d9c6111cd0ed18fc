"""The program as another user, for a test that runs as root: ``USER ARGUMENT...``.

The interpreter itself may stand where only root can look. So all is imported first, and then the user is changed.
"""

from __future__ import annotations

import encodings.idna
import os
import sys

import aioboto3.s3.inject
import rich.progress
import structlog

import takhin_tiered.broker.client
import takhin_tiered.cli.demo
import takhin_tiered.cli.doctor
import takhin_tiered.cli.listing
import takhin_tiered.cli.main
import takhin_tiered.cli.rebuild
import takhin_tiered.cli.remote
import takhin_tiered.cli.restore
import takhin_tiered.cli.run
import takhin_tiered.cli.settings
import takhin_tiered.cli.status
import takhin_tiered.cli.verify
import takhin_tiered.daemon
import takhin_tiered.store.s3

IMPORTED = (
    aioboto3.s3.inject,
    encodings.idna,
    rich.progress,
    structlog,
    takhin_tiered.broker.client,
    takhin_tiered.cli.demo,
    takhin_tiered.cli.doctor,
    takhin_tiered.cli.listing,
    takhin_tiered.cli.rebuild,
    takhin_tiered.cli.remote,
    takhin_tiered.cli.restore,
    takhin_tiered.cli.run,
    takhin_tiered.cli.settings,
    takhin_tiered.cli.status,
    takhin_tiered.cli.verify,
    takhin_tiered.daemon,
    takhin_tiered.store.s3,
)

if __name__ == "__main__":
    number = int(sys.argv.pop(1))
    os.setgroups([])
    os.setgid(number)
    os.setuid(number)
    takhin_tiered.cli.main.main()
