-- A queue as the eighth version of the schema held it, on hold for a full disk; the recipe of one video is damaged.
BEGIN TRANSACTION;
CREATE TABLE batch (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    folder  TEXT NOT NULL UNIQUE,
    device  TEXT NOT NULL,
    place   INTEGER NOT NULL,
    paused  INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL
, template TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '', seeds TEXT NOT NULL DEFAULT '', gpus_per_video INTEGER NOT NULL DEFAULT 1);
INSERT INTO "batch" VALUES(1,'/outputs/stars','auto',1,0,1790000001.0,'a [red|blue] star','nano','42 to 44',2);
INSERT INTO "batch" VALUES(2,'/outputs/damaged','cpu',2,0,1790000100.0,'','','',1);
CREATE TABLE event (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    time  REAL NOT NULL,
    batch INTEGER,
    video INTEGER,
    kind  TEXT NOT NULL,
    data  TEXT NOT NULL DEFAULT '{}'
);
INSERT INTO "event" VALUES(1,1790000002.0,1,NULL,'added','{"videos": 3}');
INSERT INTO "event" VALUES(2,1790000003.0,NULL,NULL,'worker_starting','{"worker": "worker-0:7", "device": "cpu"}');
INSERT INTO "event" VALUES(3,1790000004.0,NULL,NULL,'worker_ready','{"worker": "worker-0:7", "seconds": null}');
INSERT INTO "event" VALUES(4,1790000006.0,1,1,'started','{"title": "red seed 42", "number": 1, "steps": 3, "worker": "worker-0:7", "attempt": 1}');
INSERT INTO "event" VALUES(5,1790000007.0,1,1,'loading','{"title": "red seed 42", "number": 1, "model": "nano", "plan": "resident", "reason": "no GPU is used"}');
INSERT INTO "event" VALUES(6,1790000008.0,1,1,'step','{"number": 1, "step": 1, "steps": 3, "seconds": 0.5, "sigma": 1.0, "norm": 1.0, "predicted": 123456, "allocated": 1000, "reserved": 2000, "peak": 3000}');
INSERT INTO "event" VALUES(7,1790000009.0,1,1,'locked_elsewhere','{"title": "red seed 42", "number": 1}');
INSERT INTO "event" VALUES(8,1790000010.0,1,1,'restarted','{"title": "red seed 42", "number": 1, "reason": "it is damaged"}');
INSERT INTO "event" VALUES(9,1790000011.0,1,1,'video_resumed','{"title": "red seed 42", "number": 1, "steps_done": 1}');
INSERT INTO "event" VALUES(10,1790000012.0,1,1,'out_of_memory','{"title": "red seed 42", "number": 1, "plan": "offload", "error": "no memory"}');
INSERT INTO "event" VALUES(11,1790000014.0,1,1,'started','{"title": "red seed 42", "number": 1, "steps": 3, "worker": "worker-0:7", "attempt": 2}');
INSERT INTO "event" VALUES(12,1790000016.0,1,1,'done','{"title": "red seed 42", "number": 1, "files": {"clip": "videos/prompt_000/video_001.mp4"}, "seconds": {"denoise": 1.5, "step": 0.5, "decode": 0.2}, "already_done": true}');
INSERT INTO "event" VALUES(13,1790000017.0,1,NULL,'batch_paused','{}');
INSERT INTO "event" VALUES(14,1790000018.0,1,NULL,'batch_resumed','{}');
INSERT INTO "event" VALUES(15,1790000019.0,NULL,NULL,'held','{"reason": "a user paused it", "hold": "paused"}');
INSERT INTO "event" VALUES(16,1790000020.0,NULL,NULL,'queue_resumed','{}');
INSERT INTO "event" VALUES(17,1790000021.0,NULL,NULL,'worker_died','{"error": "signal SIGKILL", "worker": "worker-0:7"}');
INSERT INTO "event" VALUES(18,1790000022.0,NULL,NULL,'worker_ended','{"worker": "worker-0:7"}');
INSERT INTO "event" VALUES(19,1790000024.0,1,2,'started','{"title": "red seed 43", "number": 2, "steps": 3, "worker": "worker-0:7", "attempt": 1}');
INSERT INTO "event" VALUES(20,1790000026.0,1,2,'failed','{"title": "red seed 43", "number": 2, "error": "it broke"}');
INSERT INTO "event" VALUES(21,1790000030.0,1,1,'step','{"number": 1, "step": 2, "steps": 3, "seconds": 0.5, "norm": 1.0, "straightness": 0.75}');
CREATE TABLE "hold" (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    kind     TEXT NOT NULL CHECK (kind IN ('paused', 'interrupted', 'disk', 'folder', 'worker')),
    reason   TEXT NOT NULL,
    folder   TEXT,                         -- disk, folder: what cannot be written
    needed   INTEGER                       -- disk: bytes that must be free
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
    worker_crashes   INTEGER NOT NULL DEFAULT 0,   -- workers that died over it
    cancel   INTEGER NOT NULL DEFAULT 0,   -- asked for while it runs
    worker   TEXT,
    step     INTEGER NOT NULL DEFAULT 0,
    steps    INTEGER NOT NULL,
    started  REAL,
    finished REAL,
    error    TEXT, plan TEXT, boot_id TEXT, boot_seconds REAL, seconds REAL,
    UNIQUE (batch, number)
);
INSERT INTO "video" VALUES(1,1,0,'red seed 42','{}','done',2,0,0,NULL,0,3,1790000013.0,1790000015.0,NULL,'offload','5f1c0000-0000-4000-8000-000000000000',100.0,0.0);
INSERT INTO "video" VALUES(2,1,1,'red seed 43','{}','failed',1,0,0,NULL,0,3,1790000023.0,1790000025.0,'it broke','offload','5f1c0000-0000-4000-8000-000000000000',100.0,0.0);
INSERT INTO "video" VALUES(3,1,2,'red seed 44','{"capture":{"attention":null,"compress":false,"dtype":"float32","geometry":false,"interval":1,"latents":false,"predicted_clean":false},"dtype":"float32","flow_shift":3.0,"format":1,"fps":8,"frames":17,"guidance_scale":4.0,"guidance_scale_2":null,"height":128,"magnitudes":[[1.0,0.0],[0.98632,-0.04172],[0.97186,-0.07149],[0.95657,-0.08344],[0.94037,-0.09775],[0.92317,-0.11309],[0.90488,-0.12765],[0.88539,-0.14395],[0.86458,-0.16005],[0.84231,-0.17791],[0.81843,-0.1988],[0.79275,-0.22191],[0.76505,-0.24625],[0.7351,-0.2753],[0.7026,-0.30817],[0.66722,-0.34447],[0.62856,-0.38525],[0.58612,-0.43372],[0.53935,-0.48939],[0.48753,-0.55558],[0.42979,-0.63583],[0.36508,-0.73469],[0.29204,-0.85872],[0.20894,-1.0241],[0.11358,-1.23861],[0.0,-1.47438]],"marks":[],"model":"nano","negative_prompt":"","prompt":"a star","revision":"7f1949dbbec7fe008e9dabd70af8f069900f927987b961f5913d93e33261e2b0","sampler":"unipc","seed":42,"speed":"fast","steps":20,"transformer_file":null,"weighting":null,"weights":"full","width":128}','queued',0,0,0,NULL,0,3,NULL,NULL,NULL,'offload',NULL,NULL,NULL);
INSERT INTO "video" VALUES(4,2,0,'blue seed 7','not JSON','queued',0,0,0,NULL,0,2,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE worker (
    name         TEXT PRIMARY KEY,         -- worker-0:PID
    state        TEXT NOT NULL CHECK (state IN ('starting', 'ready')),
    device       TEXT NOT NULL,
    boot_id      TEXT NOT NULL,
    boot_seconds REAL NOT NULL             -- of CLOCK_BOOTTIME when it started
);
CREATE INDEX batch_in_order ON batch (place);
CREATE INDEX video_waiting ON video (batch, number) WHERE state IN ('queued', 'interrupted');
CREATE INDEX video_by_state ON video (batch, state);
CREATE INDEX video_running ON video (state) WHERE state = 'running';
CREATE INDEX event_of_batch ON event (batch, seq);
CREATE INDEX event_of_step ON event (seq) WHERE kind = 'step';
CREATE INDEX event_of_end ON event (seq) WHERE kind = 'done';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('batch',2);
INSERT INTO "sqlite_sequence" VALUES('video',4);
INSERT INTO "sqlite_sequence" VALUES('event',21);
COMMIT;
PRAGMA user_version = 8;
