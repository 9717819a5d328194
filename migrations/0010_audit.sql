-- The audit trail says why, and which policy decision it was; its end is sealed, and its oldest part can be removed.

ALTER TABLE audit ADD COLUMN reason TEXT;        -- why a command was refused, for people
ALTER TABLE audit ADD COLUMN decision TEXT;      -- id of what the policies said

-- The policies are asked when a job is accepted; its answer names that decision.
ALTER TABLE job ADD COLUMN decision TEXT;

-- The end of the chain, sealed under the node key with each commit: records cut off at the end are missed.
CREATE TABLE audit_seal (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    seq  INTEGER NOT NULL,
    hash BLOB    NOT NULL,
    at   INTEGER NOT NULL,                       -- ms since the epoch
    seal BLOB    NOT NULL
) STRICT;

-- Up to where records may have been removed; the chain is verified from the newest of them on.
CREATE TABLE audit_checkpoint (
    seq  INTEGER PRIMARY KEY,                    -- the last record that is no longer kept
    hash BLOB    NOT NULL,                       -- its hash
    at   INTEGER NOT NULL,                       -- ms since the epoch
    seal BLOB    NOT NULL
) STRICT;
CREATE TRIGGER audit_checkpoint_is_append_only BEFORE UPDATE ON audit_checkpoint BEGIN SELECT raise(ABORT, 'audit is append-only'); END;

DROP TRIGGER audit_is_append_only_delete;
CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
WHEN OLD.seq > coalesce((SELECT max(seq) FROM audit_checkpoint), 0)
BEGIN SELECT raise(ABORT, 'audit is append-only'); END;
