-- Format 2: figures about groups of enterprises, and what was released of them. Not computed from events; the events
-- `statistic.released` hold a hash of each row of `statistic`.

-- A span of event dates of a dataset, as one organisation has figures of it: always of the same rows.
CREATE TABLE edition (
    id INTEGER NOT NULL PRIMARY KEY,
    org TEXT NOT NULL REFERENCES organisation (id),
    dataset TEXT NOT NULL,
    first_day TEXT NOT NULL,                 -- YYYY-MM-DD
    end_day TEXT NOT NULL,                   -- the day after the last
    UNIQUE (org, dataset, first_day, end_day)
) STRICT;

-- The version of each table that the figures of an edition are made of.
CREATE TABLE edition_table (
    edition INTEGER NOT NULL REFERENCES edition (id),
    dataset TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (edition, dataset)
) STRICT, WITHOUT ROWID;

-- Each different question that was asked of an edition, with the groups that were released.
CREATE TABLE statistic (
    edition INTEGER NOT NULL REFERENCES edition (id),
    question BLOB NOT NULL,                  -- SHA-256
    position INTEGER NOT NULL REFERENCES event (position),
    measures TEXT NOT NULL,                  -- what was told of each group, a JSON list
    sizes TEXT NOT NULL,                     -- bytes of each group, a JSON list
    groups BLOB NOT NULL,                    -- portable Roaring bitmaps of enterprise numbers, one after another
    PRIMARY KEY (edition, position)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER edition_is_append_only_1 BEFORE UPDATE ON edition BEGIN SELECT raise(ABORT, 'editions are append-only'); END;
CREATE TRIGGER edition_is_append_only_2 BEFORE DELETE ON edition BEGIN SELECT raise(ABORT, 'editions are append-only'); END;
CREATE TRIGGER edition_table_is_append_only_1 BEFORE UPDATE ON edition_table BEGIN SELECT raise(ABORT, 'editions are append-only'); END;
CREATE TRIGGER edition_table_is_append_only_2 BEFORE DELETE ON edition_table BEGIN SELECT raise(ABORT, 'editions are append-only'); END;
CREATE TRIGGER statistic_is_append_only_1 BEFORE UPDATE ON statistic BEGIN SELECT raise(ABORT, 'statistics are append-only'); END;
CREATE TRIGGER statistic_is_append_only_2 BEFORE DELETE ON statistic BEGIN SELECT raise(ABORT, 'statistics are append-only'); END;
