"""Copies of a payload are what was copied beyond the fixed costs, and each has a name."""

from collections import Counter

import pytest

from benchmarks import copies

PROFILE = {
    "ftbl": [
        "[root]",
        "0x4846A90: memmove (vg_replace_strmem.c:1382)",
        "0x5B1C2: rocksdb::MemTable::Add(unsigned long, std::vector<int, std::allocator<int> >) (in /lib/rocks.so)",
        "0x4A1F0: ??? (in /lib/libzmq-2f02442c.so.5.2.5)",
        "0x4A1F1: start_thread (pthread_create.c:442)",
        "0x4A1F2: _PyEval_EvalFrameDefault (in /lib/libpython3.11.so)",
    ],
    "pps": [
        {"tb": 100, "fs": [1, 2, 5]},
        {"tb": 11, "fs": [1, 2, 5, 5]},
        {"tb": 7, "fs": [1, 3, 3, 4]},
    ],
}


def test_places_are_functions_up_to_the_interpreter() -> None:
    zmq = "libzmq-2f02442c.so.5.2.5"
    assert copies.copied(PROFILE) == {
        "memmove < rocksdb::MemTable::Add": 111,
        f"memmove < {zmq} < {zmq} < start_thread": 7,
    }


def test_copies_are_what_is_more_than_without_a_payload() -> None:
    found = copies.per_payload(Counter({"a": 50, "b": 20}), Counter({"a": 250, "c": 100}), 100)
    assert found == {"a": 2.0, "b": -0.2, "c": 1.0}


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("memmove < PyBytes_FromStringAndSize < __pyx_pf_7msgpack_9_cmsgpack_6Packer_6pack", "encoded"),
        ("memmove < PyBytes_FromStringAndSize < unpack_callback_bin < unpack_execute", "decoded"),
        ("memmove < PyBytes_FromStringAndSize < _zmq.cpython-311.so < _zmq.cpython-311.so", "received"),
        ("memmove < _zmq.cpython-311.so < _zmq.cpython-311.so", "sent: into libzmq's message"),
        ("memmove < libzmq-2f.so.5 < libzmq-2f.so.5 < start_thread < clone", "sent: into libzmq's buffer"),
        ("memmove < std::string::_M_mutate < rocksdb::WriteBatchInternal::Put", "write batch"),
        ("memmove < rocksdb::WritableFileWriter::Append < rocksdb::DBImpl::WriteToWAL", "log"),
        ("memmove < rocksdb::BlockBuilder::Add < rocksdb::FlushJob::Run < start_thread", "flush"),
        ("memmove < dictresize", "all else"),
    ],
)
def test_each_place_is_of_one_kind(place: str, kind: str) -> None:
    (found,) = [name for name, times in copies.by_kind({place: 2.0}).items() if times]
    assert found.startswith(kind)


def test_the_table_leaves_out_what_is_not_copied() -> None:
    nothing: dict[str, float] = {}
    made = {"producer": {"memmove < _zmq.so": 1.0}, "broker": nothing, "consumer": {"memmove < dictresize": 0.01}}
    assert list(copies.lines({"4 KiB": (made, 1.04)})) == [
        "| | | 4 KiB |",
        "|---|---|---|",
        "| producer | sent: into libzmq's message | 1.0 |",
        "| all | **copied** | 1.0 |",
        "| broker | written to files | 1.0 |",
    ]
