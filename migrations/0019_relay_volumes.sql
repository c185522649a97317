-- What a relay has sent of a publisher's contents, found without reading all that it ever sent; and the bids of one owner, found without reading the whole book.

-- Whose content it was and when the delivery was settled; only where the source is a relay that was paid, not the origin or the receiver itself.
ALTER TABLE delivery_shares
    ADD COLUMN publisher_id uuid,
    ADD COLUMN settled_at timestamptz,
    ADD COLUMN of_complete boolean;
UPDATE delivery_shares SET publisher_id = releases.publisher_id, settled_at = deliveries.settled_at, of_complete = deliveries.completed_at IS NOT NULL
    FROM deliveries JOIN releases ON releases.id = deliveries.release_id
    WHERE deliveries.id = delivery_shares.delivery_id AND source <> deliveries.terminal_id AND source <> '00000000-0000-0000-0000-000000000000';
ALTER TABLE delivery_shares ADD CONSTRAINT delivery_shares_relay CHECK (num_nulls(publisher_id, settled_at, of_complete) IN (0, 3));
CREATE INDEX delivery_shares_volume ON delivery_shares (source, publisher_id, settled_at) INCLUDE (bytes, of_complete) WHERE publisher_id IS NOT NULL;

CREATE INDEX applications_owner ON applications (swarm_id, user_id, bid_id) WHERE up_seen_bps IS NOT NULL;
