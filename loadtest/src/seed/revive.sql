-- What heartbeats would have renewed since the ledger was filled, for twelve hours from now.

UPDATE worker SET last_seen = now() + interval '12 hours'
    WHERE id LIKE 'seed-%' AND state IN ('ready', 'draining') AND last_seen < now() + interval '6 hours';
UPDATE job SET lease_until = now() + interval '12 hours'
    WHERE state IN ('running', 'cancelling') AND lease_until < now() + interval '6 hours' AND owner_worker LIKE 'seed-%';
UPDATE job SET publish_due = now() + interval '12 hours'
    WHERE publish_due IS NOT NULL AND state = 'delayed' AND publish_due < now() + interval '6 hours';
UPDATE job SET published_at = now() + interval '12 hours'
    WHERE state = 'queued' AND published_at < now() + interval '6 hours';
