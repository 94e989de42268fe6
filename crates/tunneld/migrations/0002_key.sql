-- Keys for apps that were made from this machine: what they allow, never their tokens. Times are milliseconds since
-- 1970 in UTC; lists are JSON.
CREATE TABLE key (
    relay      TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    name       TEXT,
    scopes     TEXT    NOT NULL,
    device     TEXT,
    models     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    PRIMARY KEY (relay, id)
) STRICT, WITHOUT ROWID;
