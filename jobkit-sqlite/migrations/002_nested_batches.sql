-- Batches inside batches. `members` counts those that are kept, jobs and batches alike.
ALTER TABLE jk_batch ADD COLUMN parent BLOB;
-- How the batch around it counts it: 0 succeeded, 1 failed, 2 deleted.
ALTER TABLE jk_batch ADD COLUMN counted INTEGER;
-- 1: it is filled, and begins with the batch around it.
ALTER TABLE jk_batch ADD COLUMN with_parent INTEGER NOT NULL DEFAULT 0;
-- 1: a Failed member was removed, so it cannot succeed any more.
ALTER TABLE jk_batch ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jk_batch_nested ON jk_batch (parent, num) WHERE parent IS NOT NULL;
-- Those that begin with another one are discarded with that one.
DROP INDEX jk_batch_filling;
CREATE INDEX jk_batch_filling ON jk_batch (attached_at) WHERE started_at IS NULL AND with_parent = 0;
