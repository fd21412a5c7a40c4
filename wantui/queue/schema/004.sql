-- Memory plans by slug, durations by a clock that nobody sets, workers with their state, and more kinds of holds.
ALTER TABLE video ADD COLUMN plan TEXT;
UPDATE video SET plan = CASE rung
    WHEN 1 THEN 'encode-first'
    WHEN 2 THEN 'offload'
    WHEN 3 THEN 'stream'
    WHEN 4 THEN 'tiled'
    WHEN 5 THEN 'offload-tiled'
    WHEN 6 THEN 'stream-tiled'
    WHEN 7 THEN 'sequential'
    WHEN 8 THEN 'small-tiles'
END;
ALTER TABLE video DROP COLUMN rung;

ALTER TABLE video ADD COLUMN boot_id TEXT;
ALTER TABLE video ADD COLUMN boot_seconds REAL;
ALTER TABLE video ADD COLUMN seconds REAL;
UPDATE video SET seconds = max(0, finished - started);

CREATE TABLE worker (
    name         TEXT PRIMARY KEY,         -- worker-0:PID
    state        TEXT NOT NULL CHECK (state IN ('starting', 'ready')),
    device       TEXT NOT NULL,
    boot_id      TEXT NOT NULL,
    boot_seconds REAL NOT NULL             -- of CLOCK_BOOTTIME when it started
);

CREATE TABLE hold_by_kind (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    kind     TEXT NOT NULL CHECK (kind IN ('paused', 'interrupted', 'disk', 'folder', 'worker')),
    reason   TEXT NOT NULL,
    folder   TEXT,                         -- disk, folder: what cannot be written
    needed   INTEGER                       -- disk: bytes that must be free
);
INSERT INTO hold_by_kind SELECT * FROM hold;
DROP TABLE hold;
ALTER TABLE hold_by_kind RENAME TO hold;
