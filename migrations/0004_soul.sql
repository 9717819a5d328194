-- Whom the node deals with, and how it feels about them.

-- Trust and intensities are those of `as_of`; what they are now follows from the time that has passed since.
CREATE TABLE soul_entity (
    entity           INTEGER PRIMARY KEY,
    name             TEXT    NOT NULL UNIQUE,
    note             TEXT,
    trust            REAL    NOT NULL,
    joy              REAL    NOT NULL DEFAULT 0,
    sadness          REAL    NOT NULL DEFAULT 0,
    anger            REAL    NOT NULL DEFAULT 0,
    neutral          REAL    NOT NULL DEFAULT 0,
    love             REAL    NOT NULL DEFAULT 0,
    as_of            INTEGER NOT NULL,                  -- ms since the epoch
    created          INTEGER NOT NULL,
    interactions     INTEGER NOT NULL DEFAULT 0,
    last_interaction INTEGER NOT NULL
) STRICT;

-- The memories that are about an entity, by their ids; the newest are kept.
CREATE TABLE soul_link (
    link   INTEGER PRIMARY KEY AUTOINCREMENT,
    entity INTEGER NOT NULL REFERENCES soul_entity (entity),
    memory TEXT    NOT NULL,
    linked INTEGER NOT NULL,
    UNIQUE (entity, memory)
) STRICT;
CREATE INDEX soul_link_memory ON soul_link (memory);

-- What happened between the node and an entity; the newest are kept.
CREATE TABLE soul_event (
    event     INTEGER PRIMARY KEY AUTOINCREMENT,
    entity    INTEGER NOT NULL REFERENCES soul_entity (entity),
    at        INTEGER NOT NULL,
    cause     TEXT    NOT NULL,                         -- record, evaluation, merge
    emotion   TEXT,
    intensity REAL,
    trust     REAL    NOT NULL,                         -- afterwards
    reference TEXT                                      -- a decision's id, or the name of the entity merged in
) STRICT;
CREATE INDEX soul_event_entity ON soul_event (entity, event);
