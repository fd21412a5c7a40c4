-- Recipes may be of format 2, which earlier versions cannot read. The straightness of a path has one name, and so have
-- the workers that crashed over a video.
UPDATE event SET data = replace(data, '"linearity":', '"straightness":') WHERE kind = 'step';
ALTER TABLE video RENAME COLUMN deaths TO worker_crashes;
