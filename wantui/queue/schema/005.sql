-- Kinds of events are slugs; a predicted peak is called predicted.
UPDATE event SET kind = CASE kind
    WHEN 'batch paused' THEN 'batch_paused'
    WHEN 'batch resumed' THEN 'batch_resumed'
    WHEN 'resumed' THEN 'queue_resumed'
    WHEN 'resumed video' THEN 'video_resumed'
    WHEN 'started again' THEN 'restarted'
    WHEN 'elsewhere' THEN 'locked_elsewhere'
    WHEN 'out of memory' THEN 'out_of_memory'
    WHEN 'worker died' THEN 'worker_died'
    ELSE kind
END;
UPDATE event SET data = replace(data, '"foretold":', '"predicted":') WHERE kind = 'step';
UPDATE event SET data = replace(data, '"made_before":', '"already_done":') WHERE kind = 'done';
