-- Spans of the occurrences that were fired. Where nothing is recorded, last_nominal says it alone.
ALTER TABLE jk_recurring ADD COLUMN fired TEXT;
