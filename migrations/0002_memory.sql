-- What the node remembers.

-- One layer's month: what the search index is cut into. Counted here, so that nobody counts records.
CREATE TABLE memory_shard (
    shard         INTEGER PRIMARY KEY,
    layer         TEXT    NOT NULL,
    month         TEXT    NOT NULL,                       -- yyyy-mm, UTC
    records       INTEGER NOT NULL DEFAULT 0,
    content_bytes INTEGER NOT NULL DEFAULT 0,
    changed       INTEGER NOT NULL DEFAULT 0,             -- sequence of the last change
    settled       INTEGER NOT NULL DEFAULT 0,             -- changes up to here are in the index and no longer kept
    UNIQUE (layer, month)
) STRICT;

-- The key is never used again, so that the index can tell a new record from the one that it replaced.
CREATE TABLE memory_record (
    key        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,                   -- UUID version 7
    shard      INTEGER NOT NULL REFERENCES memory_shard (shard),
    content    TEXT    NOT NULL,
    tags       TEXT    NOT NULL,                          -- JSON array
    entity     TEXT,
    importance REAL    NOT NULL,
    created    INTEGER NOT NULL,                          -- ms since the epoch
    checksum   TEXT    NOT NULL                           -- SHA-256 of the content, hexadecimal
) STRICT;
CREATE INDEX memory_record_shard ON memory_record (shard);

-- What the search index still has to learn. Rows leave once the index of their shard has them durably.
CREATE TABLE memory_change (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    shard    INTEGER NOT NULL,
    record   INTEGER NOT NULL                             -- key; the record may be gone
) STRICT;
