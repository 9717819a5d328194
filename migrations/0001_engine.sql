-- What every command needs: once-only execution, its answer, its trace.

-- One row, so that a value can be read without knowing whether it was ever set.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- Answers that the broker has not yet accepted, and those that a repeat of the command may still ask for.
-- An id is never used again: the deliverer knows replies that are on their way by it.
CREATE TABLE outbox (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    reply_id         TEXT    NOT NULL,           -- the reply's message_id
    in_reply_to      TEXT,
    command          TEXT    NOT NULL,
    outcome          TEXT    NOT NULL,           -- JSON, whatever the asker's encoding
    made_at          INTEGER NOT NULL,           -- ms since the epoch
    topic            TEXT,                       -- NULL: asked over the control socket, nothing to publish
    correlation_data BLOB,
    correlation_id   TEXT,
    cbor             INTEGER NOT NULL DEFAULT 0,
    expires_at       INTEGER NOT NULL,           -- ms since the epoch
    due_at           INTEGER NOT NULL,           -- not published before
    open             INTEGER NOT NULL,           -- 1 until accepted, refused for good or expired
    kept             INTEGER NOT NULL            -- 1 while the inbox refers to it
) STRICT;
CREATE INDEX outbox_open ON outbox (id) WHERE open = 1;

-- Which commands took effect, by who sent them and under which message_id.
CREATE TABLE inbox (
    principal    TEXT    NOT NULL,
    message_id   TEXT    NOT NULL,
    topic        TEXT    NOT NULL,
    payload_hash BLOB    NOT NULL,
    received_at  INTEGER NOT NULL,
    reply        INTEGER REFERENCES outbox (id), -- NULL while the job runs
    job          TEXT,
    PRIMARY KEY (principal, message_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX inbox_received ON inbox (received_at);
CREATE INDEX inbox_reply ON inbox (reply);

-- Long work: accepted in one transaction, finished in another.
CREATE TABLE job (
    id               TEXT PRIMARY KEY,
    command          TEXT    NOT NULL,
    principal        TEXT    NOT NULL,
    topic            TEXT    NOT NULL,
    message_id       TEXT,
    payload          BLOB    NOT NULL,
    cbor             INTEGER NOT NULL,
    state            TEXT    NOT NULL CHECK (state IN ('accepted', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    reply_topic      TEXT,
    correlation_data BLOB,
    correlation_id   TEXT,
    expires_at       INTEGER NOT NULL,
    accepted_at      INTEGER NOT NULL,
    finished_at      INTEGER,
    outcome          TEXT
) STRICT;
CREATE INDEX job_open ON job (accepted_at) WHERE state IN ('accepted', 'running');
CREATE INDEX job_finished ON job (finished_at) WHERE finished_at IS NOT NULL;

-- Who did what, with which outcome. Append-only; each row's hash covers the one before it.
CREATE TABLE audit (
    seq          INTEGER PRIMARY KEY,
    at           INTEGER NOT NULL,
    principal    TEXT    NOT NULL,
    command      TEXT    NOT NULL,
    message_id   TEXT,
    outcome      TEXT    NOT NULL,
    count        INTEGER NOT NULL,               -- more than one: refusals of the same second
    payload_size INTEGER NOT NULL,
    payload_hash BLOB,
    hash         BLOB    NOT NULL                -- SHA-256 over the previous hash and this row
) STRICT;
CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit BEGIN SELECT raise(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit BEGIN SELECT raise(ABORT, 'audit is append-only'); END;
