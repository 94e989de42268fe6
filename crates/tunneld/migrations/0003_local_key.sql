-- Keys that are good at this machine's own gateway: `reach` is `local`, `relay` is empty, and `hash` is the SHA-256 of
-- the secret. Limits hold for keys of either reach. `paths` is JSON; null stands for inference.
ALTER TABLE key ADD COLUMN reach TEXT NOT NULL DEFAULT 'remote';
ALTER TABLE key ADD COLUMN hash BLOB;
ALTER TABLE key ADD COLUMN paths TEXT;
ALTER TABLE key ADD COLUMN requests_per_minute INTEGER;
ALTER TABLE key ADD COLUMN tokens_per_minute INTEGER;
ALTER TABLE key ADD COLUMN concurrent INTEGER;
ALTER TABLE key ADD COLUMN last_used_at INTEGER;
