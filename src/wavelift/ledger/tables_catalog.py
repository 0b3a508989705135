"""The tables of connectors and of the server catalogue. They share the metadata of :mod:`wavelift.ledger.tables`."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from wavelift.ledger.catalog_records import CatalogState
from wavelift.ledger.tables import (
    DAG_LENGTH,
    ID_LENGTH,
    NAME_LENGTH,
    WORD_LENGTH,
    UtcTime,
    Words,
    metadata,
)
from wavelift.ledger.tables import json_column as _json
from wavelift.ledger.tables import name_column as _name
from wavelift.ledger.tables import text_column as _text
from wavelift.ledger.tables import word_type as _word

connector: Final = sa.Table(
    "connector",
    metadata,
    sa.Column("name", sa.String(NAME_LENGTH), primary_key=True),
    _name("connection"),
    _name("aws_conn_id"),
    _name("region", WORD_LENGTH),
    _text("description"),
    sa.Column("maintenance", sa.Boolean, nullable=False, default=False),
    _text("maintenance_reason"),
    _json("health"),
    sa.Column("checked_at", UtcTime, nullable=True),
    sa.Column("registered_at", UtcTime, nullable=False),
    _name("registered_by"),
)

catalog: Final = sa.Table(
    "catalog",
    metadata,
    sa.Column("connection", sa.String(NAME_LENGTH), primary_key=True),
    _name("connector"),
    sa.Column("state", _word(CatalogState), nullable=False),
    sa.Column("state_before", _word(CatalogState), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    sa.Column("merged_pages", sa.JSON, nullable=False),
    _name("manager_id"),
    _name("manager_name"),
    _name("manager_type", WORD_LENGTH),
    _text("manager_product"),
    _text("tags_unknown"),
    _text("error"),
    sa.Column("imported_at", UtcTime, nullable=True),
    sa.Column("modified_at", UtcTime, nullable=False),
    _name("dag_id", DAG_LENGTH),
    _name("dag_run_id", DAG_LENGTH),
)

catalog_server: Final = sa.Table(
    "catalog_server",
    metadata,
    sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
    sa.Column("connection", sa.String(NAME_LENGTH), sa.ForeignKey("catalog.connection"), nullable=False),
    _name("identity"),
    _name("type", WORD_LENGTH),
    _name("name"),
    _text("path"),
    _name("manager_name"),
    _name("manager_type", WORD_LENGTH),
    _name("manager_id"),
    _name("vm_id"),
    _name("instance_uuid"),
    _name("guest_id"),
    _name("guest_full_name"),
    _name("power", WORD_LENGTH),
    _name("connection_state", WORD_LENGTH),
    sa.Column("template", sa.Boolean, nullable=False, default=False),
    sa.Column("cpus", sa.Integer, nullable=False, default=0),
    sa.Column("memory_mib", sa.Integer, nullable=False, default=0),
    sa.Column("disk_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("tags", Words, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False, default=False),
    sa.Column("first_seen", UtcTime, nullable=False),
    sa.Column("last_seen", UtcTime, nullable=False),
    # The imports that created, changed, last listed and missed the row. A repeated merge does not change the counts.
    sa.Column("first_generation", sa.Integer, nullable=False),
    sa.Column("changed_generation", sa.Integer, nullable=False),
    sa.Column("seen_generation", sa.Integer, nullable=False),
    sa.Column("gone_generation", sa.Integer, nullable=True),
    sa.UniqueConstraint("connection", "identity", name="uq_catalog_server_connection_identity"),
    sa.Index("ix_catalog_server_name", "name"),
)
