-- What runs for tenants that take turns, as the leader counts it.

ALTER TABLE tenant_turn
    -- Jobs of the work queue that run for it. Null in a row that a leader from before this column made.
    ADD COLUMN running bigint;
