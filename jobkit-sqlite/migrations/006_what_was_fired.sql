-- Spans of the occurrences that were fired. Where nothing is recorded, last_nominal says it alone.
ALTER TABLE jk_recurring ADD COLUMN fired TEXT;

-- By when they became scheduled: what lies ahead of the clock is of a time when the clock was.
CREATE INDEX jk_scheduled ON jk_job (entered_at) WHERE state = 1;

-- When a key was taken for a period: one taken ahead of the clock is of a time when the clock was.
ALTER TABLE jk_ukey ADD COLUMN taken_at INTEGER;
