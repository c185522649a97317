-- On-demand download: what a publisher asks for it, who holds which edition, and from whom each download comes.

-- At what price, and on what terms, a content can be had at any time. Without a row it cannot.
CREATE TABLE on_demand_terms (
    content_id uuid PRIMARY KEY REFERENCES contents,
    price bigint NOT NULL CHECK (price BETWEEN 0 AND 9007199254740991),
    relay_bp integer NOT NULL CHECK (relay_bp BETWEEN 0 AND 10000),
    fee_bp integer NOT NULL CHECK (fee_bp BETWEEN 0 AND 10000),
    limit_s integer NOT NULL CHECK (limit_s > 0),
    version integer NOT NULL DEFAULT 1,
    changed_at timestamptz NOT NULL
);

-- A download is a release of one delivery that nobody had to apply for: it begins live, and is paid, aborted and ended like any other. It is in no list.
ALTER TABLE releases ADD COLUMN on_demand boolean NOT NULL DEFAULT false;
-- What its origin bytes are counted in: its own budget, or the one of all downloads of its content.
ALTER TABLE releases ADD COLUMN budget_id uuid NOT NULL GENERATED ALWAYS AS (CASE WHEN on_demand THEN content_id ELSE id END) STORED;
CREATE INDEX releases_budget ON releases (budget_id) WHERE state IN ('closed', 'live');
CREATE INDEX releases_on_demand ON releases (content_id, id) WHERE on_demand;

-- A budget is a release's or, for downloads, a content's. A content's may be 0, and keeps nothing for first copies.
ALTER TABLE origin_budgets DROP CONSTRAINT origin_budgets_pkey;
ALTER TABLE origin_budgets ALTER COLUMN release_id DROP NOT NULL;
ALTER TABLE origin_budgets ADD CONSTRAINT origin_budgets_release UNIQUE (release_id);
ALTER TABLE origin_budgets ADD COLUMN content_id uuid UNIQUE REFERENCES contents;
ALTER TABLE origin_budgets ADD COLUMN id uuid GENERATED ALWAYS AS (coalesce(release_id, content_id)) STORED PRIMARY KEY;
ALTER TABLE origin_budgets DROP CONSTRAINT origin_budgets_limit_bytes_check;
ALTER TABLE origin_budgets DROP CONSTRAINT origin_budgets_check;
ALTER TABLE origin_budgets ADD CONSTRAINT origin_budgets_owner CHECK (
    CASE WHEN release_id IS NULL
        THEN content_id IS NOT NULL AND limit_bytes >= 0 AND first_copy_bytes = 0
        ELSE content_id IS NULL AND limit_bytes > 0 AND first_copy_bytes > 0 AND first_copy_bytes <= limit_bytes
    END
);

-- Which complete editions a terminal has said that it holds and serves, when it connected last or since. What it received is in `deliveries`.
CREATE TABLE holdings (
    terminal_id uuid NOT NULL REFERENCES terminals,
    edition_id bytea NOT NULL REFERENCES editions,
    said_at timestamptz NOT NULL,
    PRIMARY KEY (terminal_id, edition_id)
);
CREATE INDEX holdings_edition ON holdings (edition_id);
CREATE INDEX deliveries_complete ON deliveries (swarm_id, terminal_id) WHERE completed_at IS NOT NULL;

-- The plan of a download: its receiver is the only member of its one group; `epoch` rises with every new choice of sources.
CREATE TABLE downloads (
    swarm_id uuid PRIMARY KEY REFERENCES release_editions,
    delivery_id uuid NOT NULL UNIQUE REFERENCES deliveries,
    epoch bigint NOT NULL DEFAULT 1 CHECK (epoch >= 1)
);

-- Every terminal that was ever chosen to serve a download: whoever delivered something is paid, chosen still or not.
CREATE TABLE download_sources (
    swarm_id uuid NOT NULL REFERENCES downloads,
    terminal_id uuid NOT NULL REFERENCES terminals,
    -- Stands where other members' plans have a delivery; nothing is delivered on it.
    place_id uuid NOT NULL UNIQUE,
    reason text NOT NULL,
    chosen_at timestamptz NOT NULL,
    dropped_at timestamptz,
    failure text CHECK (failure IN ('silent', 'corrupt')),
    failed_at timestamptz,
    PRIMARY KEY (swarm_id, terminal_id),
    CHECK ((failure IS NULL) = (failed_at IS NULL))
);
CREATE INDEX download_sources_serving ON download_sources (terminal_id) WHERE dropped_at IS NULL;
