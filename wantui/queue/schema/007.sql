-- What lists show of a batch without reading its manifest. Of earlier rows, only the model is known. CASE keeps
-- json_extract from damaged recipes, which it would refuse.
ALTER TABLE batch ADD COLUMN template TEXT NOT NULL DEFAULT '';
ALTER TABLE batch ADD COLUMN model TEXT NOT NULL DEFAULT '';
ALTER TABLE batch ADD COLUMN seeds TEXT NOT NULL DEFAULT '';
UPDATE batch SET model = coalesce(
    (SELECT CASE WHEN json_valid(recipe) THEN json_extract(recipe, '$.model') END AS model_name
     FROM video WHERE video.batch = batch.id AND model_name IS NOT NULL LIMIT 1), ''
);
