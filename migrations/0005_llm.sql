-- What was asked of models, for each day (UTC) and provider: the daily budget outlives a restart.
CREATE TABLE llm_usage (
    day        TEXT    NOT NULL,                        -- yyyy-mm-dd
    provider   TEXT    NOT NULL,
    requests   INTEGER NOT NULL DEFAULT 0,
    tokens_in  INTEGER NOT NULL DEFAULT 0,
    tokens_out INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, provider)
) STRICT, WITHOUT ROWID;
