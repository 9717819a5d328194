-- What recurs, and how it went.

CREATE TABLE schedule (
    name        TEXT PRIMARY KEY,
    spec        TEXT    NOT NULL,                -- when, as configured: with another one the next run is found anew
    slot        INTEGER,                         -- ms since the epoch: the next time by the configuration
    due         INTEGER,                         -- and with its jitter
    paused      INTEGER NOT NULL DEFAULT 0,
    paused_why  TEXT,
    started_at  INTEGER,                         -- of the last run
    finished_at INTEGER,                         -- NULL while it runs, or was cut off
    outcome     TEXT,                            -- `ok`, or an error code
    message     TEXT,
    missed      INTEGER NOT NULL DEFAULT 0,      -- times that the last run made up for
    runs        INTEGER NOT NULL DEFAULT 0,
    failures    INTEGER NOT NULL DEFAULT 0       -- in a row
) STRICT, WITHOUT ROWID;
