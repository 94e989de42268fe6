-- What model servers say of their work, beside tokens: sums, times in microseconds so that sums of short ones stay exact.
-- `streamed` counts the requests that `first_token_us` is a sum over.
ALTER TABLE usage ADD COLUMN cached_tokens  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN streamed       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN first_token_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN load_us        INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN prompt_us      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN generation_us  INTEGER NOT NULL DEFAULT 0;

ALTER TABLE total ADD COLUMN cached_tokens  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total ADD COLUMN streamed       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total ADD COLUMN first_token_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total ADD COLUMN load_us        INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total ADD COLUMN prompt_us      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total ADD COLUMN generation_us  INTEGER NOT NULL DEFAULT 0;
