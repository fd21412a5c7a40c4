-- Batches that wait until their disk has space or their folder can be written; the other batches continue.
CREATE TABLE batch_hold (
    batch  INTEGER PRIMARY KEY REFERENCES batch (id) ON DELETE CASCADE,
    kind   TEXT NOT NULL CHECK (kind IN ('disk', 'folder')),
    reason TEXT NOT NULL,
    folder TEXT NOT NULL,                  -- what cannot be written
    needed INTEGER                         -- disk: bytes that must be free; NULL if free inodes are needed
);
