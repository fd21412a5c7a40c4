-- GPUs that compute one video of the batch.
ALTER TABLE batch ADD COLUMN gpus_per_video INTEGER NOT NULL DEFAULT 1;
