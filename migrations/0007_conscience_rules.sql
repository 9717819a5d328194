-- Rules as documents, decisions and reviews of the conscience.

CREATE TABLE conscience_rules (
    name       TEXT PRIMARY KEY,
    body       TEXT    NOT NULL,                 -- JSON: the whole rule
    origin     TEXT    NOT NULL CHECK (origin IN ('pack', 'file', 'set')),
    changed_at INTEGER NOT NULL                  -- ms since the epoch
) STRICT, WITHOUT ROWID;
INSERT INTO conscience_rules (name, body, origin, changed_at)
SELECT name,
       json_object('name', name, 'description', description, 'weight', weight, 'stance', stance, 'patterns', json(patterns)),
       'set',
       changed_at
FROM conscience_rule;
DROP TABLE conscience_rule;
ALTER TABLE conscience_rules RENAME TO conscience_rule;

CREATE TABLE conscience_decision (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT    NOT NULL UNIQUE,
    at      INTEGER NOT NULL,                    -- ms since the epoch
    entity  TEXT,
    outcome TEXT    NOT NULL CHECK (outcome IN ('approved', 'needs_review', 'refused')),
    body    TEXT    NOT NULL                     -- JSON: the whole decision
) STRICT;
CREATE INDEX conscience_decision_at ON conscience_decision (at);
CREATE INDEX conscience_decision_entity ON conscience_decision (entity, seq) WHERE entity IS NOT NULL;
CREATE INDEX conscience_decision_outcome ON conscience_decision (outcome, seq);

-- What waits for a person, and what became of it. An open one is found by what it is about, so that the same question
-- asked again waits for the same answer.
CREATE TABLE conscience_review (
    id          TEXT PRIMARY KEY,
    about       BLOB    NOT NULL,                -- SHA-256 of asker, entity, action and context
    state       TEXT    NOT NULL CHECK (state IN ('open', 'approved', 'refused', 'expired')),
    opened_at   INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    resolved_at INTEGER,
    resolved_by TEXT,
    note        TEXT,
    body        TEXT    NOT NULL                 -- JSON: the decision that opened it
) STRICT;
CREATE UNIQUE INDEX conscience_review_open ON conscience_review (about) WHERE state = 'open';
CREATE INDEX conscience_review_opened ON conscience_review (opened_at);
CREATE INDEX conscience_review_expires ON conscience_review (expires_at) WHERE state = 'open';
