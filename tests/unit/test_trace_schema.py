"""The schema beside what it describes: the wire, the codecs, h5py."""

from __future__ import annotations

import h5py
import pytest

from qafel_mpi import wire
from qafel_mpi.codecs import CODECS
from qafel_mpi.codecs.mixed import Mixed
from qafel_mpi.drivers import session
from qafel_mpi.trace_schema import (
    ATTRIBUTES,
    CODEC_NAMES,
    HEADER_BYTES,
    KIND_NAMES,
    SCHEMA,
    TAG_DOWN,
    TAG_UP,
)


def test_the_schema_knows_the_wire():
    assert {int(kind): kind.name.lower() for kind in wire.Kind} == KIND_NAMES
    assert wire.HEADER_BYTES == HEADER_BYTES
    assert {codec.id: name for name, codec in CODECS.items()} | {Mixed.id: "mixed"} == CODEC_NAMES
    assert (session.TAG_DOWN, session.TAG_UP) == (TAG_DOWN, TAG_UP)


@pytest.mark.parametrize("table", SCHEMA)
def test_the_stored_types_are_those_of_h5py(table):
    """trace_schema.py makes them without h5py."""
    stored = SCHEMA[table].stored_dtype
    for column in SCHEMA[table].columns:
        if column.names:
            same = h5py.enum_dtype({name: number for number, name in column.names.items()}, column.type)
            assert stored[column.name].metadata == same.metadata
        else:
            assert stored[column.name].metadata is None


def test_every_column_and_attribute_is_described():
    for table in SCHEMA.values():
        assert table.row.endswith(".")
        assert all(len(column.meaning) > 5 for column in table.columns)
    assert all(len(meaning) > 5 for _, meaning in ATTRIBUTES.values())
