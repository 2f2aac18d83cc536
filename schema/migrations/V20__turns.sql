-- What attempts cost over months, summed up as they end; and what runs for tenants that take turns.

ALTER TABLE tenant_turn
    -- Jobs of the work queue that run for it. Null in a row that a leader from before this column made.
    ADD COLUMN running bigint;
