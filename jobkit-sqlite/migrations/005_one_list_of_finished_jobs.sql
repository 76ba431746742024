-- Finished jobs by lane, which serves the lists of a queue, of a kind, and of all: the lanes that a list
-- wants are merged. Three indexes did that, and each of them was written whenever a job finished.
CREATE INDEX jk_done_lane ON jk_job (queue, kind, state, entered_at) WHERE state >= 4;
DROP INDEX jk_done;
DROP INDEX jk_done_queue;
DROP INDEX jk_done_kind;
