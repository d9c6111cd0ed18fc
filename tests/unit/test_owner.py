"""The owner's record, of every release; and what a machine says of its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import astuple

import pytest

from takhin_tiered import machine
from takhin_tiered.segments.owner import OF_PREFIX, Party, keys_of_replica
from takhin_tiered.store.base import is_of_the_prefix
from tests.support import wait_until

ME = Party(id="i", nonce="n", host="h", pid=7, boot="b", directories=("1:2",), data_dir="/d")


def test_a_record_is_read_as_it_was_written() -> None:
    assert Party.parse(ME.dump()) == ME
    assert Party.parse(ME.answering("c").dump()) == ME.answering("c")


def test_records_of_other_releases_are_read() -> None:
    earlier = {"id": "i", "host": "h", "pid": 7, "machine": "b/pid:[1]", "data_dir": "/d", "renewed_at": 1.5}
    assert Party.parse(json.dumps(earlier).encode()) == Party(
        id="i", host="h", pid=7, machine="b/pid:[1]", data_dir="/d"
    )
    assert Party.parse(json.dumps({**json.loads(ME.dump()), "colour": "red"}).encode()) == ME


def test_a_shared_prefix_has_a_marker_that_is_no_process() -> None:
    marker = Party(nonce="n", shared=True)
    assert Party.parse(marker.dump()) == marker
    assert not marker.was_of_same_directory(marker)
    assert not ME.shared
    assert Party.parse(b'{"shared": 1}') is None


def test_each_replica_has_keys_of_its_own_that_belong_to_the_prefix() -> None:
    keys = astuple(keys_of_replica("a1")) + astuple(keys_of_replica("b2")) + astuple(OF_PREFIX)
    assert len(set(keys)) == 12
    assert all(is_of_the_prefix(key) for key in keys)


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b"1", b'{"id": 1}', b'{"pid": "7"}', b'{"directories": "1:2"}'])
def test_what_is_no_record_is_none(data: bytes) -> None:
    assert Party.parse(data) is None


def test_the_same_directory_is_told_by_boot_and_inode() -> None:
    assert ME.was_of_same_directory(Party(boot="b", directories=("1:2",)))
    assert not ME.was_of_same_directory(Party(boot="c", directories=("1:2",)))
    assert not ME.was_of_same_directory(Party(boot="b", directories=("1:3",)))
    assert not Party(directories=("1:2",)).was_of_same_directory(Party(directories=("1:2",)))


def test_a_process_is_known_by_its_id_and_its_start() -> None:
    started = machine.started_at(os.getpid())
    assert started > 0
    assert machine.is_alive(os.getpid(), started)
    assert machine.is_alive(os.getpid())
    assert not machine.is_alive(os.getpid(), started + 1)


def test_a_process_that_has_ended_and_was_not_waited_for_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert machine.is_alive(child.pid)
        child.send_signal(signal.SIGKILL)
        wait_until(lambda: not machine.is_alive(child.pid), what="the end of the process")
    finally:
        child.kill()
        child.communicate()
    assert not machine.is_alive(child.pid)
