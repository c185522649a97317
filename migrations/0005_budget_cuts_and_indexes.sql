-- Bytes that were reserved for first copies and not sent because their receiver left in the middle of a chunk. They are free again, and what was kept
-- for that first copy is not needed any more: whoever needs the chunk now is sent it again.
ALTER TABLE origin_budgets ADD COLUMN cut bigint NOT NULL DEFAULT 0 CHECK (cut >= 0);

-- Both refer to rows that are looked up from the other side.
CREATE INDEX releases_content ON releases (content_id);
CREATE INDEX release_editions_edition ON release_editions (edition_id);
