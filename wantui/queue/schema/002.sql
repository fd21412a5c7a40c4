-- How much memory had to be saved to make a video, for those that ran out of it (a rung of generation.memory).
ALTER TABLE video ADD COLUMN rung INTEGER NOT NULL DEFAULT 0;
