-- What was paid for models: the daily budget is in money as well as in tokens.
ALTER TABLE llm_usage ADD COLUMN micro_usd INTEGER NOT NULL DEFAULT 0; -- millionths of a US dollar
