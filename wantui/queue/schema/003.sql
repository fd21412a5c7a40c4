-- What past videos took is asked for before each new batch.
CREATE INDEX event_of_end ON event (seq) WHERE kind = 'done';
