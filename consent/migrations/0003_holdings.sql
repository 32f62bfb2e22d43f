-- The consent ledger, format 3: what organisations keep, and which consents an access drew on.

CREATE INDEX use_of_access ON use (access_id);

-- How long the receiver may keep what a grant opens, in days.
ALTER TABLE grant_row ADD COLUMN data_life INTEGER NOT NULL DEFAULT 0;
UPDATE grant_row SET data_life = (SELECT json_extract(document, '$.data_life_days') FROM consent WHERE seq = grant_row.consent);

-- One row per release that may be kept.
CREATE TABLE holding (
    seq INTEGER NOT NULL PRIMARY KEY,
    holding_id TEXT NOT NULL UNIQUE,
    access_id TEXT NOT NULL UNIQUE,
    org TEXT NOT NULL REFERENCES organisation (id),
    purpose TEXT NOT NULL,
    document TEXT NOT NULL,                  -- canonical JSON, as in the event
    keep_until INTEGER,                      -- no longer, once a consent allows keeping for less; null: for ever
    deleted INTEGER REFERENCES event (position),
    recorded INTEGER NOT NULL REFERENCES event (position)
) STRICT;
CREATE INDEX holding_of_org ON holding (org, seq);
CREATE INDEX holding_kept ON holding (org, purpose) WHERE deleted IS NULL;
CREATE INDEX holding_ending ON holding (keep_until) WHERE deleted IS NULL;

-- Whose data is in it, by the upper bits of the number: bitmaps of 65,536 each. The event holds the hash of them all.
CREATE TABLE holding_members (
    holding INTEGER NOT NULL REFERENCES holding (seq),
    chunk INTEGER NOT NULL,                  -- number >> 16
    members BLOB NOT NULL,                   -- everybody with a row in it
    consenting BLOB NOT NULL,                -- of these, whose data is in it by consent
    PRIMARY KEY (holding, chunk)
) STRICT, WITHOUT ROWID;
CREATE INDEX holding_members_of ON holding_members (chunk, holding);

-- What has to be deleted, and until when.
CREATE TABLE holding_due (
    holding INTEGER NOT NULL REFERENCES holding (seq),
    no INTEGER NOT NULL,                     -- whose part; 0: everything
    reason TEXT NOT NULL,
    consent_id TEXT,
    delete_by INTEGER NOT NULL,
    since INTEGER NOT NULL REFERENCES event (position),
    deleted INTEGER REFERENCES event (position),
    PRIMARY KEY (holding, no)
) STRICT, WITHOUT ROWID;
CREATE INDEX holding_due_open ON holding_due (delete_by) WHERE deleted IS NULL;
CREATE INDEX holding_due_by_consent ON holding_due (consent_id) WHERE consent_id IS NOT NULL;

CREATE TRIGGER holding_members_is_append_only_1 BEFORE UPDATE ON holding_members BEGIN SELECT raise(ABORT, 'members of holdings are append-only'); END;
CREATE TRIGGER holding_members_is_append_only_2 BEFORE DELETE ON holding_members BEGIN SELECT raise(ABORT, 'members of holdings are append-only'); END;
