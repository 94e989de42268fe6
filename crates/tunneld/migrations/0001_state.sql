-- The state of tunneld. Times are milliseconds since 1970 in UTC; days are YYYY-MM-DD in UTC.
-- A migration is never edited after it has landed: add the next one.

-- One row: who wrote here, and what was written last.
-- `program` stays readable in every later version: an older program tells its user which one to install.
CREATE TABLE store (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    program    TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    -- Random name of the newest batch: tells after a failed commit whether it took place.
    batch      INTEGER NOT NULL
) STRICT;

-- One row: what the user wants of the tunnel, and the boot of the machine during which that was said.
CREATE TABLE target (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    target  TEXT    NOT NULL,
    boot_id TEXT    NOT NULL,
    set_at  INTEGER NOT NULL
) STRICT;

-- One row: everything since `store.created_at`. Not a sum over `usage`, whose old days go.
CREATE TABLE total (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    requests          INTEGER NOT NULL DEFAULT 0,
    failed            INTEGER NOT NULL DEFAULT 0,
    prompt_tokens     INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    bytes_in          INTEGER NOT NULL DEFAULT 0,
    bytes_out         INTEGER NOT NULL DEFAULT 0,
    duration_ms       INTEGER NOT NULL DEFAULT 0,
    api_ok            INTEGER NOT NULL DEFAULT 0,
    api_failed        INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Requests by day and what they are told apart by; an empty name stands for none.
CREATE TABLE usage (
    day               TEXT    NOT NULL,
    model             TEXT    NOT NULL,
    connection        TEXT    NOT NULL,
    key               TEXT    NOT NULL,
    requests          INTEGER NOT NULL,
    failed            INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    bytes_in          INTEGER NOT NULL,
    bytes_out         INTEGER NOT NULL,
    duration_ms       INTEGER NOT NULL,
    PRIMARY KEY (day, model, connection, key)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: the id of an event that was deleted is never given again.
CREATE TABLE event (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    severity TEXT    NOT NULL,
    message  TEXT    NOT NULL,
    data     TEXT    NOT NULL
) STRICT;

-- What is wrong now, and since when. `subject` tells apart warnings of one code, such as connections by id.
CREATE TABLE warning (
    code      TEXT    NOT NULL,
    subject   TEXT    NOT NULL,
    since     INTEGER NOT NULL,
    severity  TEXT    NOT NULL,
    message   TEXT    NOT NULL,
    next_step TEXT    NOT NULL,
    PRIMARY KEY (code, subject)
) STRICT, WITHOUT ROWID;
