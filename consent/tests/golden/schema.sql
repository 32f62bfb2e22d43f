-- format 3

CREATE TRIGGER artefact_is_append_only_1 BEFORE UPDATE ON artefact BEGIN SELECT raise(ABORT, 'artefacts are append-only'); END;

CREATE TRIGGER artefact_is_append_only_2 BEFORE DELETE ON artefact BEGIN SELECT raise(ABORT, 'artefacts are append-only'); END;

CREATE TRIGGER edition_is_append_only_1 BEFORE UPDATE ON edition BEGIN SELECT raise(ABORT, 'editions are append-only'); END;

CREATE TRIGGER edition_is_append_only_2 BEFORE DELETE ON edition BEGIN SELECT raise(ABORT, 'editions are append-only'); END;

CREATE TRIGGER edition_table_is_append_only_1 BEFORE UPDATE ON edition_table BEGIN SELECT raise(ABORT, 'editions are append-only'); END;

CREATE TRIGGER edition_table_is_append_only_2 BEFORE DELETE ON edition_table BEGIN SELECT raise(ABORT, 'editions are append-only'); END;

CREATE TRIGGER enterprise_is_append_only_1 BEFORE UPDATE ON enterprise BEGIN SELECT raise(ABORT, 'numbers are never reused'); END;

CREATE TRIGGER enterprise_is_append_only_2 BEFORE DELETE ON enterprise BEGIN SELECT raise(ABORT, 'numbers are never reused'); END;

CREATE TRIGGER event_is_append_only_1 BEFORE UPDATE ON event BEGIN SELECT raise(ABORT, 'events are append-only'); END;

CREATE TRIGGER event_is_append_only_2 BEFORE DELETE ON event BEGIN SELECT raise(ABORT, 'events are append-only'); END;

CREATE TRIGGER holding_members_is_append_only_1 BEFORE UPDATE ON holding_members BEGIN SELECT raise(ABORT, 'members of holdings are append-only'); END;

CREATE TRIGGER holding_members_is_append_only_2 BEFORE DELETE ON holding_members BEGIN SELECT raise(ABORT, 'members of holdings are append-only'); END;

CREATE TRIGGER logged_is_append_only_1 BEFORE UPDATE ON logged BEGIN SELECT raise(ABORT, 'logged events are append-only'); END;

CREATE TRIGGER logged_is_append_only_2 BEFORE DELETE ON logged BEGIN SELECT raise(ABORT, 'logged events are append-only'); END;

CREATE TRIGGER statistic_is_append_only_1 BEFORE UPDATE ON statistic BEGIN SELECT raise(ABORT, 'statistics are append-only'); END;

CREATE TRIGGER statistic_is_append_only_2 BEFORE DELETE ON statistic BEGIN SELECT raise(ABORT, 'statistics are append-only'); END;

CREATE TRIGGER use_is_append_only_1 BEFORE UPDATE ON use BEGIN SELECT raise(ABORT, 'uses are append-only'); END;

CREATE TRIGGER use_is_append_only_2 BEFORE DELETE ON use BEGIN SELECT raise(ABORT, 'uses are append-only'); END;

CREATE TABLE agreement (
    id TEXT NOT NULL PRIMARY KEY,
    org TEXT NOT NULL REFERENCES organisation (id),
    document TEXT NOT NULL,
    added INTEGER NOT NULL REFERENCES event (position),
    revoked INTEGER REFERENCES event (position)
) STRICT, WITHOUT ROWID;

CREATE TABLE artefact (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    position INTEGER NOT NULL REFERENCES event (position),
    version TEXT NOT NULL,
    hash BLOB NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (kind, id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE consent (
    seq INTEGER NOT NULL PRIMARY KEY,
    consent_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    org TEXT NOT NULL REFERENCES organisation (id),
    purpose TEXT NOT NULL,
    no INTEGER NOT NULL,
    state TEXT NOT NULL,
    progress TEXT NOT NULL,                  -- the fold over its events, JSON
    nonce TEXT NOT NULL,                     -- what the next signature must name
    starts INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    document TEXT NOT NULL,                  -- canonical JSON
    hash BLOB NOT NULL,                      -- SHA-256 of document
    requested INTEGER NOT NULL REFERENCES event (position),
    given INTEGER REFERENCES event (position), -- the event whose logging puts it in force
    UNIQUE (consent_id, version)
) STRICT;

CREATE TABLE edition (
    id INTEGER NOT NULL PRIMARY KEY,
    org TEXT NOT NULL REFERENCES organisation (id),
    dataset TEXT NOT NULL,
    first_day TEXT NOT NULL,                 -- YYYY-MM-DD
    end_day TEXT NOT NULL,                   -- the day after the last
    UNIQUE (org, dataset, first_day, end_day)
) STRICT;

CREATE TABLE edition_table (
    edition INTEGER NOT NULL REFERENCES edition (id),
    dataset TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (edition, dataset)
) STRICT, WITHOUT ROWID;

CREATE TABLE enterprise (
    no INTEGER NOT NULL PRIMARY KEY,
    uscc TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE event (
    position INTEGER NOT NULL PRIMARY KEY,   -- from 1, without gaps
    time_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,                      -- canonical JSON, with "ledger_position"
    subjects TEXT NOT NULL,                  -- numbers of the enterprises concerned, a JSON list
    consent_id TEXT,
    version INTEGER,
    prev BLOB NOT NULL,                      -- hash of the event before, 32 zero bytes for the first
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE grant_row (
    grantee INTEGER NOT NULL REFERENCES grantee (id),
    no INTEGER NOT NULL,
    consent INTEGER NOT NULL REFERENCES consent (seq),
    terms INTEGER NOT NULL REFERENCES terms (id),
    actions INTEGER NOT NULL,
    starts INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    metered INTEGER NOT NULL,
    status INTEGER NOT NULL CHECK (status IN (0, 1, 2)), -- 0 not in force, 1 given but not yet logged, 2 in force
    given INTEGER NOT NULL,
    revision INTEGER NOT NULL, data_life INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (grantee, no, consent)
) STRICT, WITHOUT ROWID;

CREATE TABLE grantee (
    id INTEGER NOT NULL PRIMARY KEY,
    org TEXT NOT NULL,
    purpose TEXT NOT NULL,
    dataset TEXT NOT NULL,
    UNIQUE (org, purpose, dataset)
) STRICT;

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

CREATE TABLE holding_members (
    holding INTEGER NOT NULL REFERENCES holding (seq),
    chunk INTEGER NOT NULL,                  -- number >> 16
    members BLOB NOT NULL,                   -- everybody with a row in it
    consenting BLOB NOT NULL,                -- of these, whose data is in it by consent
    PRIMARY KEY (holding, chunk)
) STRICT, WITHOUT ROWID;

CREATE TABLE logged (
    position INTEGER NOT NULL PRIMARY KEY REFERENCES event (position),
    log_index INTEGER NOT NULL
) STRICT;

CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE number_block (
    block INTEGER NOT NULL PRIMARY KEY,
    county TEXT NOT NULL,
    section TEXT NOT NULL,
    used INTEGER NOT NULL                    -- how many numbers of the block are taken, number 0 included
) STRICT;

CREATE TABLE organisation (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('department', 'bank', 'service')),
    added INTEGER NOT NULL REFERENCES event (position)
) STRICT, WITHOUT ROWID;

CREATE TABLE purpose_assignment (
    org TEXT NOT NULL REFERENCES organisation (id),
    principal TEXT NOT NULL,
    purpose TEXT NOT NULL,
    added INTEGER NOT NULL REFERENCES event (position),
    PRIMARY KEY (org, principal, purpose)
) STRICT, WITHOUT ROWID;

CREATE TABLE revision (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL
) STRICT;

CREATE TABLE signatory (
    no INTEGER NOT NULL,
    name TEXT NOT NULL,
    key BLOB NOT NULL,                       -- Ed25519 public key
    added INTEGER NOT NULL REFERENCES event (position),
    removed INTEGER REFERENCES event (position),
    PRIMARY KEY (no, added)
) STRICT, WITHOUT ROWID;

CREATE TABLE statistic (
    edition INTEGER NOT NULL REFERENCES edition (id),
    question BLOB NOT NULL,                  -- SHA-256
    position INTEGER NOT NULL REFERENCES event (position),
    measures TEXT NOT NULL,                  -- what was told of each group, a JSON list
    sizes TEXT NOT NULL,                     -- bytes of each group, a JSON list
    groups BLOB NOT NULL,                    -- portable Roaring bitmaps of enterprise numbers, one after another
    PRIMARY KEY (edition, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE terms (
    id INTEGER NOT NULL PRIMARY KEY,
    items TEXT NOT NULL UNIQUE               -- canonical JSON
) STRICT;

CREATE TABLE threshold (
    no INTEGER NOT NULL PRIMARY KEY,
    threshold INTEGER NOT NULL CHECK (threshold > 0)
) STRICT;

CREATE TABLE use (
    consent_id TEXT NOT NULL,
    access_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (consent_id, access_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX agreement_of_org ON agreement (org);

CREATE INDEX consent_expiring ON consent (expires) WHERE state IN ('REQUESTED', 'PARTIALLY_SIGNED', 'ACTIVE', 'PAUSED');

CREATE INDEX consent_of_enterprise ON consent (no, org);

CREATE INDEX consent_of_org ON consent (org);

CREATE INDEX event_of_consent ON event (consent_id, version) WHERE consent_id IS NOT NULL;

CREATE INDEX grant_changed ON grant_row (grantee, revision);

CREATE INDEX grant_of_consent ON grant_row (consent);

CREATE INDEX grant_waiting ON grant_row (given) WHERE status = 1;

CREATE INDEX holding_due_by_consent ON holding_due (consent_id) WHERE consent_id IS NOT NULL;

CREATE INDEX holding_due_open ON holding_due (delete_by) WHERE deleted IS NULL;

CREATE INDEX holding_ending ON holding (keep_until) WHERE deleted IS NULL;

CREATE INDEX holding_kept ON holding (org, purpose) WHERE deleted IS NULL;

CREATE INDEX holding_members_of ON holding_members (chunk, holding);

CREATE INDEX holding_of_org ON holding (org, seq);

CREATE INDEX number_block_of ON number_block (county, section, block);

CREATE INDEX use_at ON use (consent_id, at_ms);

CREATE INDEX use_of_access ON use (access_id);
