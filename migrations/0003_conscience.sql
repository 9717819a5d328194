-- The rules of the conscience. The row 'conscience_seeded' in meta says that the default rules were put in once, so that
-- one which was removed does not come back.
CREATE TABLE conscience_rule (
    name        TEXT PRIMARY KEY,
    description TEXT    NOT NULL,
    weight      REAL    NOT NULL CHECK (weight BETWEEN 0 AND 100),
    stance      TEXT    NOT NULL CHECK (stance IN ('forbids', 'favours')),
    patterns    TEXT    NOT NULL,                -- JSON array of strings
    changed_at  INTEGER NOT NULL                 -- ms since the epoch
) STRICT, WITHOUT ROWID;
