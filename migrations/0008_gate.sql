-- Who may command the node.

-- API keys. A key's secret is here only as its hash, and sealed under the node key, because signatures are checked with
-- it. A lineage is a key and what it was rotated to; it is one principal.
CREATE TABLE api_key (
    id           TEXT PRIMARY KEY,
    lineage      TEXT    NOT NULL,               -- id of its first key
    name         TEXT    NOT NULL,
    hash         BLOB    NOT NULL UNIQUE,        -- SHA-256 of the key's text
    sealed       BLOB    NOT NULL,
    permissions  TEXT    NOT NULL,               -- JSON array of topic filters
    rate_per_min INTEGER,                        -- NULL: as configured
    created_at   INTEGER NOT NULL,               -- ms since the epoch
    created_by   TEXT    NOT NULL,
    expires_at   INTEGER,                        -- for a key that was rotated: the end of its grace period
    replaced_by  TEXT,
    revoked_at   INTEGER,
    revoked_by   TEXT,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX api_key_lineage ON api_key (lineage);
CREATE UNIQUE INDEX api_key_name ON api_key (name) WHERE revoked_at IS NULL AND replaced_by IS NULL;

-- Nonces of signed commands, until their signatures are too old anyway.
CREATE TABLE nonce (
    key_id    TEXT    NOT NULL,
    value     TEXT    NOT NULL,
    signed_at INTEGER NOT NULL,                  -- ms since the epoch
    PRIMARY KEY (key_id, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX nonce_signed ON nonce (signed_at);

-- The topic that a command came on. Records from before this have none, and hash as they did.
ALTER TABLE audit ADD COLUMN topic TEXT;
