-- What attempts cost: by the prices that were in force when each ended, so that a later change of prices changes no history.

ALTER TABLE attempt
    -- Absent where nothing was measured, or nothing had a price.
    ADD COLUMN cost double precision,
    ADD COLUMN currency text;
