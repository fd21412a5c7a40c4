-- Batches in the order of their place, their videos with frozen recipes, and what happened, numbered.
CREATE TABLE batch (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    folder  TEXT NOT NULL UNIQUE,
    device  TEXT NOT NULL,
    place   INTEGER NOT NULL,
    paused  INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL
);
CREATE INDEX batch_in_order ON batch (place);

CREATE TABLE video (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    batch    INTEGER NOT NULL REFERENCES batch (id) ON DELETE CASCADE,
    number   INTEGER NOT NULL,             -- index in the batch's manifest
    title    TEXT NOT NULL,
    recipe   TEXT NOT NULL,
    state    TEXT NOT NULL DEFAULT 'queued'
             CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'interrupted')),
    attempt  INTEGER NOT NULL DEFAULT 0,   -- counts claims; what an earlier claim says is not heard any more
    deaths   INTEGER NOT NULL DEFAULT 0,   -- workers that died over it
    cancel   INTEGER NOT NULL DEFAULT 0,   -- asked for while it runs
    worker   TEXT,
    step     INTEGER NOT NULL DEFAULT 0,
    steps    INTEGER NOT NULL,
    started  REAL,
    finished REAL,
    error    TEXT,
    UNIQUE (batch, number)
);
CREATE INDEX video_waiting ON video (batch, number) WHERE state IN ('queued', 'interrupted');
CREATE INDEX video_by_state ON video (batch, state);
CREATE INDEX video_running ON video (state) WHERE state = 'running';

CREATE TABLE event (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    time  REAL NOT NULL,
    batch INTEGER,
    video INTEGER,
    kind  TEXT NOT NULL,
    data  TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX event_of_batch ON event (batch, seq);
CREATE INDEX event_of_step ON event (seq) WHERE kind = 'step';

-- While there is a row, no video starts.
CREATE TABLE hold (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    kind     TEXT NOT NULL CHECK (kind IN ('paused', 'interrupted', 'disk')),
    reason   TEXT NOT NULL,
    folder   TEXT,                         -- disk: where room is missing
    needed   INTEGER                       -- disk: how many bytes
);
