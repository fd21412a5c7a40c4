-- A queue as the third version of the schema held it.
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
INSERT INTO "hold" VALUES(1,'disk','no room is left in /data','/data',1000);
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
INSERT INTO "video" VALUES(1,1,0,'romantic seed 42','{}','done',1,0,0,NULL,20,20,1793570400.0,1793570462.5,NULL,4);
INSERT INTO "video" VALUES(2,1,1,'romantic seed 43','{}','failed',2,0,0,NULL,0,20,NULL,NULL,'RuntimeError: the encoder failed',0);
INSERT INTO "video" VALUES(3,1,2,'romantic seed 44','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,0);
INSERT INTO "video" VALUES(4,1,3,'romantic seed 45','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,0);
INSERT INTO "video" VALUES(5,1,4,'romantic seed 46','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,1);
INSERT INTO "video" VALUES(6,1,5,'romantic seed 47','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,2);
INSERT INTO "video" VALUES(7,1,6,'romantic seed 48','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,3);
INSERT INTO "video" VALUES(8,1,7,'romantic seed 49','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,4);
INSERT INTO "video" VALUES(9,1,8,'romantic seed 50','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,5);
INSERT INTO "video" VALUES(10,1,9,'romantic seed 51','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,6);
INSERT INTO "video" VALUES(11,1,10,'romantic seed 52','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,7);
INSERT INTO "video" VALUES(12,1,11,'romantic seed 53','{}','queued',0,0,0,NULL,0,20,NULL,NULL,NULL,8);
CREATE INDEX batch_in_order ON batch (place);
CREATE INDEX video_waiting ON video (batch, number) WHERE state IN ('queued', 'interrupted');
CREATE INDEX video_by_state ON video (batch, state);
CREATE INDEX video_running ON video (state) WHERE state = 'running';
CREATE INDEX event_of_batch ON event (batch, seq);
CREATE INDEX event_of_step ON event (seq) WHERE kind = 'step';
CREATE INDEX event_of_end ON event (seq) WHERE kind = 'done';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('batch',1);
INSERT INTO "sqlite_sequence" VALUES('event',1);
INSERT INTO "sqlite_sequence" VALUES('video',12);
INSERT INTO "sqlite_sequence" VALUES('batch',1);
INSERT INTO "sqlite_sequence" VALUES('video',12);
INSERT INTO "sqlite_sequence" VALUES('event',1);
COMMIT;
PRAGMA user_version = 3;
