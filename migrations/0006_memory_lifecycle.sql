-- What a record's life needs: whose it is, how long it lives, whether it was changed from outside, and what it was before.

ALTER TABLE memory_record ADD COLUMN namespace   TEXT    NOT NULL DEFAULT 'default';
ALTER TABLE memory_record ADD COLUMN user        TEXT;
ALTER TABLE memory_record ADD COLUMN source      TEXT;                        -- which model or client
ALTER TABLE memory_record ADD COLUMN expires     INTEGER;                     -- ms since the epoch
ALTER TABLE memory_record ADD COLUMN pinned      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE memory_record ADD COLUMN accesses    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE memory_record ADD COLUMN last_access INTEGER;                     -- ms since the epoch
ALTER TABLE memory_record ADD COLUMN version     INTEGER NOT NULL DEFAULT 1;
ALTER TABLE memory_record ADD COLUMN updated     INTEGER;                     -- when this version was written; NULL: created
ALTER TABLE memory_record ADD COLUMN forgotten   INTEGER;                     -- when; it is purged later
ALTER TABLE memory_record ADD COLUMN digest      INTEGER;                     -- the checksum's first 64 bits
ALTER TABLE memory_record ADD COLUMN seal        BLOB;                        -- HMAC-SHA-256 over the canonical record
CREATE INDEX memory_record_digest ON memory_record (digest);
CREATE INDEX memory_record_expires ON memory_record (expires) WHERE expires IS NOT NULL;
CREATE INDEX memory_record_forgotten ON memory_record (forgotten) WHERE forgotten IS NOT NULL;

-- `records` and `content_bytes` count what is neither forgotten nor purged.
ALTER TABLE memory_shard ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
ALTER TABLE memory_shard ADD COLUMN pinned    INTEGER NOT NULL DEFAULT 0;
-- 1 while its records are being removed as a whole: the index has let go of it already.
ALTER TABLE memory_shard ADD COLUMN dropping  INTEGER NOT NULL DEFAULT 0;
-- Sequences: the last purge, and the last one whose terms have left the files of the index.
ALTER TABLE memory_shard ADD COLUMN purged    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE memory_shard ADD COLUMN compacted INTEGER NOT NULL DEFAULT 0;

-- What records were before they were updated.
CREATE TABLE memory_version (
    entry      INTEGER PRIMARY KEY,
    record     INTEGER NOT NULL,                          -- key
    version    INTEGER NOT NULL,
    content    TEXT    NOT NULL,
    tags       TEXT    NOT NULL,                          -- JSON array
    entity     TEXT,
    importance REAL    NOT NULL,
    written    INTEGER NOT NULL,                          -- ms since the epoch
    replaced   INTEGER NOT NULL,
    checksum   TEXT    NOT NULL,
    seal       BLOB    NOT NULL,
    UNIQUE (record, version)
) STRICT;
CREATE INDEX memory_version_replaced ON memory_version (replaced);

-- What namespaces and users hold, counted here so that nobody counts records.
CREATE TABLE memory_usage (
    kind    TEXT    NOT NULL CHECK (kind IN ('namespace', 'user')),
    name    TEXT    NOT NULL,
    records INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
INSERT INTO memory_usage
    SELECT 'namespace', 'default', count(*), sum(octet_length(content)) FROM memory_record HAVING count(*) > 0;

-- How far an import is, committed with what it brought in.
CREATE TABLE memory_import (
    file     TEXT PRIMARY KEY,
    digest   TEXT    NOT NULL,                            -- SHA-256 of the file
    position INTEGER NOT NULL,                            -- bytes, of the text within
    progress TEXT    NOT NULL,                            -- JSON: what was counted so far
    changed  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Records from before have no seal; the first start gives them one, and only as long as this row is there.
INSERT INTO meta SELECT 'memory_unsealed', 1 WHERE EXISTS (SELECT 1 FROM memory_record);
