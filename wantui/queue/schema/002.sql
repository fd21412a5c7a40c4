-- How much memory is to be saved for a video, where one of its batch ran out of it: a rung of generation.memory.
ALTER TABLE video ADD COLUMN rung INTEGER NOT NULL DEFAULT 0;
