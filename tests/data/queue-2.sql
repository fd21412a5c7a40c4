-- A queue as the second version of the schema held it.
BEGIN TRANSACTION;
CREATE TABLE batch (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    folder  TEXT NOT NULL UNIQUE,
    device  TEXT NOT NULL,
    place   INTEGER NOT NULL,
    paused  INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL
);
INSERT INTO "batch" VALUES(1,'/data/outputs/kiss_20261101_220000','auto',1,0,1793570400.0);
CREATE TABLE event (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    time  REAL NOT NULL,
    batch INTEGER,
    video INTEGER,
    kind  TEXT NOT NULL,
    data  TEXT NOT NULL DEFAULT '{}'
);
INSERT INTO "event" VALUES(1,1793570400.0,1,1,'done','{}');
CREATE TABLE hold (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    kind     TEXT NOT NULL CHECK (kind IN ('paused', 'interrupted', 'disk')),
    reason   TEXT NOT NULL,
    folder   TEXT,                         -- disk: where room is missing
    needed   INTEGER                       -- disk: how many bytes
);
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
    error    TEXT, rung INTEGER NOT NULL DEFAULT 0,
    UNIQUE (batch, number)
);
INSERT INTO "video" VALUES(1,1,0,'romantic seed 42','{}','done',1,0,0,NULL,0,20,NULL,NULL,NULL,0);
INSERT INTO "video" VALUES(2,1,1,'romantic seed 43','{}','failed',2,0,0,NULL,0,20,NULL,NULL,'RuntimeError: the encoder failed',0);
INSERT INTO "video" VALUES(3,1,2,'romantic seed 44','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,0);
CREATE INDEX batch_in_order ON batch (place);
CREATE INDEX video_waiting ON video (batch, number) WHERE state IN ('queued', 'interrupted');
CREATE INDEX video_by_state ON video (batch, state);
CREATE INDEX video_running ON video (state) WHERE state = 'running';
CREATE INDEX event_of_batch ON event (batch, seq);
CREATE INDEX event_of_step ON event (seq) WHERE kind = 'step';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('batch',1);
INSERT INTO "sqlite_sequence" VALUES('event',1);
INSERT INTO "sqlite_sequence" VALUES('video',3);
INSERT INTO "sqlite_sequence" VALUES('batch',1);
INSERT INTO "sqlite_sequence" VALUES('video',3);
INSERT INTO "sqlite_sequence" VALUES('event',1);
COMMIT;
PRAGMA user_version = 2;
