-- Jobs that were handed back go before those that wait in their queue.

ALTER TABLE job
    -- Whether the ledger publishes it to the twin of its work queue, which is served first. Kept until its next attempt
    -- begins, so that a message that vanished is replaced in the same place.
    ADD COLUMN returned boolean NOT NULL DEFAULT false;
