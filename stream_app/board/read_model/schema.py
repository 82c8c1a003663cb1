"""The read model's tables. After a change here, the file is rebuilt from Kafka.

records   One row per consumed record: `id` is its position, `status` and `seq` are those of its last event.
events    The events of a record, in order.
people    Hash of an identifier -> ids of the person's leads, separated by spaces; by workspace and destination.
results   Position of a lead's last result on Kafka. The result itself is personal data and stays on Kafka.
status_counts  Number of records by status. Triggers keep it consistent with `records`.
imports   What is known of each import: its first and last event, what its publisher counted, its credits.
import_counts  Number of records by import and status. Triggers keep it consistent with `records`.
dead_letters   Number of dead letters of one cause per day (days since the epoch), by topic.
dead_letter_hours The same per hour, for the last day.
causes    The sums of `dead_letters`, and when the first and the last one was appended. Triggers keep it consistent.
          `id` is the number of the cause in `dead_letter_records`.
dead_letter_records  Each dead letter: its position, and that of the record that it came from (0: unknown).
history   Number of events by status in each minute, quarter of an hour and day. `step_s` is the length of a slot,
          `slot` its begin (epoch s). The workspace '' is the sum of all. `resent`: leads that were sent again although
          they may have reached Clay.
resent    The records of the leads that `history` counts as resent, and when.
lane_marks The worst health and latency of a lane in each slot of five minutes.
lane_changes The changes of a lane, newest last, as its records on Kafka report it.
audit     The answers to commands.
unreadable  Records that this version cannot read, by topic: how many, and the position and time of the last one.
"""

from __future__ import annotations

from typing import Final

TABLES: Final = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE positions (
        topic TEXT, partition INTEGER, next INTEGER NOT NULL, last INTEGER NOT NULL, mark INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)) WITHOUT ROWID""",
    "CREATE TABLE logs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """CREATE TABLE records (
        id INTEGER PRIMARY KEY, lead_id TEXT NOT NULL, workspace TEXT NOT NULL, destination TEXT NOT NULL,
        status TEXT NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, rerouted INTEGER NOT NULL, headless INTEGER
        NOT NULL, trace_id TEXT NOT NULL, import INTEGER NOT NULL)""",
    "CREATE INDEX records_of_lead ON records (lead_id)",
    "CREATE INDEX records_of_status ON records (status, at_ms)",
    "CREATE INDEX records_of_destination ON records (workspace, status, destination, at_ms)",
    "CREATE INDEX records_of_import ON records (import, status, destination, at_ms) WHERE import > 0",
    """CREATE TABLE events (
        record INTEGER, seq INTEGER, at_ms INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, text TEXT NOT
        NULL, http_status INTEGER, attempt INTEGER NOT NULL, replay INTEGER NOT NULL, epoch INTEGER NOT NULL, due_at_ms
        INTEGER, credits INTEGER,
        PRIMARY KEY (record, seq)) WITHOUT ROWID""",
    """CREATE TABLE people (
        workspace TEXT, destination TEXT, person TEXT, lead_ids TEXT NOT NULL,
        PRIMARY KEY (person, workspace, destination)) WITHOUT ROWID""",
    "CREATE INDEX people_of_lead ON people (lead_ids)",
    "CREATE INDEX people_of_leads ON people (lead_ids) WHERE instr(lead_ids, ' ') > 0",
    """CREATE TABLE results (
        workspace TEXT, destination TEXT, lead_id TEXT, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
        source TEXT NOT NULL, version INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (lead_id, workspace, destination)) WITHOUT ROWID""",
    "CREATE TABLE lanes (workspace TEXT PRIMARY KEY, view BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE dead_letters (
        topic TEXT, day INTEGER, kind TEXT, workspace TEXT, reason TEXT, http_status TEXT, destination TEXT,
        count INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
        PRIMARY KEY (topic, day, kind, workspace, reason, http_status, destination)) WITHOUT ROWID""",
    """CREATE TABLE dead_letter_hours (
        topic TEXT, hour INTEGER, kind TEXT, workspace TEXT, reason TEXT, http_status TEXT, destination TEXT,
        count INTEGER NOT NULL,
        PRIMARY KEY (topic, hour, kind, workspace, reason, http_status, destination)) WITHOUT ROWID""",
    """CREATE TABLE causes (
        topic TEXT, kind TEXT, workspace TEXT, reason TEXT, http_status TEXT, destination TEXT,
        count INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, id INTEGER NOT NULL UNIQUE,
        PRIMARY KEY (topic, kind, workspace, reason, http_status, destination)) WITHOUT ROWID""",
    """CREATE TABLE dead_letter_records (
        cause INTEGER, at_ms INTEGER, id INTEGER, origin INTEGER NOT NULL,
        PRIMARY KEY (cause, at_ms, id)) WITHOUT ROWID""",
    """CREATE TRIGGER dead_letters_came AFTER INSERT ON dead_letters BEGIN
        INSERT INTO causes VALUES (new.topic, new.kind, new.workspace, new.reason, new.http_status, new.destination,
                                   new.count, new.first_ms, new.last_ms, (SELECT coalesce(max(id), 0) + 1 FROM causes))
            ON CONFLICT DO UPDATE SET count = count + new.count, first_ms = min(first_ms, new.first_ms),
                                      last_ms = max(last_ms, new.last_ms);
    END""",
    """CREATE TRIGGER dead_letters_grew AFTER UPDATE ON dead_letters BEGIN
        UPDATE causes SET count = count + new.count - old.count, first_ms = min(first_ms, new.first_ms),
                          last_ms = max(last_ms, new.last_ms)
            WHERE (topic, kind, workspace, reason, http_status, destination) =
                  (new.topic, new.kind, new.workspace, new.reason, new.http_status, new.destination);
    END""",
    """CREATE TRIGGER dead_letters_went AFTER DELETE ON dead_letters BEGIN
        DELETE FROM dead_letter_records WHERE at_ms < (old.day + 1) * 86400000 AND cause = (SELECT id FROM causes
            WHERE (topic, kind, workspace, reason, http_status, destination) =
                  (old.topic, old.kind, old.workspace, old.reason, old.http_status, old.destination));
        UPDATE causes SET count = count - old.count, first_ms = max(first_ms, (old.day + 1) * 86400000)
            WHERE (topic, kind, workspace, reason, http_status, destination) =
                  (old.topic, old.kind, old.workspace, old.reason, old.http_status, old.destination);
        DELETE FROM causes WHERE count <= 0 AND (topic, kind, workspace, reason, http_status, destination) =
                  (old.topic, old.kind, old.workspace, old.reason, old.http_status, old.destination);
    END""",
    """CREATE TABLE history (
        workspace TEXT, step_s INTEGER, slot INTEGER, status TEXT, events INTEGER NOT NULL, credits INTEGER NOT NULL,
        saved INTEGER NOT NULL, resent INTEGER NOT NULL,
        PRIMARY KEY (workspace, step_s, slot, status)) WITHOUT ROWID""",
    """CREATE TABLE resent (
        at_ms INTEGER, record INTEGER, PRIMARY KEY (at_ms, record)) WITHOUT ROWID""",
    """CREATE TABLE lane_marks (
        workspace TEXT, slot INTEGER, score REAL NOT NULL, p95_ms INTEGER NOT NULL,
        PRIMARY KEY (workspace, slot)) WITHOUT ROWID""",
    """CREATE TABLE lane_changes (
        workspace TEXT, at_ms INTEGER, number INTEGER, kind TEXT NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (workspace, at_ms, number)) WITHOUT ROWID""",
    """CREATE TABLE audit (
        at_ms INTEGER, partition INTEGER, offset INTEGER, id TEXT NOT NULL, kind TEXT NOT NULL, workspace TEXT NOT NULL,
        who TEXT NOT NULL, why TEXT NOT NULL, applied INTEGER NOT NULL, reason TEXT NOT NULL, text TEXT NOT NULL,
        asked_at_ms INTEGER NOT NULL, under_way INTEGER NOT NULL,
        PRIMARY KEY (at_ms, partition, offset)) WITHOUT ROWID""",
    "CREATE INDEX audit_of_workspace ON audit (workspace, at_ms)",
    "CREATE INDEX audit_of_command ON audit (id)",
    """CREATE TABLE replays (
        id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, progress BLOB NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX replays_by_time ON replays (at_ms)",
    """CREATE TABLE unreadable (
        topic TEXT PRIMARY KEY, records INTEGER NOT NULL, last TEXT NOT NULL,
        last_ms INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE status_counts (
        workspace TEXT, destination TEXT, status TEXT, records INTEGER NOT NULL,
        PRIMARY KEY (workspace, destination, status)) WITHOUT ROWID""",
    """CREATE TRIGGER record_came AFTER INSERT ON records BEGIN
        INSERT INTO status_counts VALUES (new.workspace, new.destination, new.status, 1)
            ON CONFLICT DO UPDATE SET records = records + 1;
    END""",
    """CREATE TRIGGER record_went AFTER DELETE ON records BEGIN
        UPDATE status_counts SET records = records - 1
            WHERE workspace = old.workspace AND destination = old.destination AND status = old.status;
    END""",
    """CREATE TRIGGER record_moved AFTER UPDATE ON records BEGIN
        UPDATE status_counts SET records = records - 1
            WHERE workspace = old.workspace AND destination = old.destination AND status = old.status;
        INSERT INTO status_counts VALUES (new.workspace, new.destination, new.status, 1)
            ON CONFLICT DO UPDATE SET records = records + 1;
    END""",
    """CREATE TABLE imports (
        id INTEGER PRIMARY KEY, workspace TEXT NOT NULL, name TEXT NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER
        NOT NULL, rows INTEGER, refused INTEGER, leads INTEGER, file TEXT NOT NULL DEFAULT '', who TEXT NOT NULL
        DEFAULT '', credits INTEGER NOT NULL DEFAULT 0,
        UNIQUE (name, workspace))""",
    "CREATE INDEX imports_by_time ON imports (first_ms, id)",
    """CREATE TABLE import_counts (
        import INTEGER, destination TEXT, status TEXT, records INTEGER NOT NULL,
        PRIMARY KEY (import, destination, status)) WITHOUT ROWID""",
    """CREATE TRIGGER import_came AFTER INSERT ON records WHEN new.import > 0 BEGIN
        INSERT INTO import_counts VALUES (new.import, new.destination, new.status, 1)
            ON CONFLICT DO UPDATE SET records = records + 1;
    END""",
    """CREATE TRIGGER import_went AFTER DELETE ON records WHEN old.import > 0 BEGIN
        UPDATE import_counts SET records = records - 1
            WHERE import = old.import AND destination = old.destination AND status = old.status;
    END""",
    """CREATE TRIGGER import_moved AFTER UPDATE ON records WHEN new.import > 0 BEGIN
        UPDATE import_counts SET records = records - 1
            WHERE import = old.import AND destination = old.destination AND status = old.status;
        INSERT INTO import_counts VALUES (new.import, new.destination, new.status, 1)
            ON CONFLICT DO UPDATE SET records = records + 1;
    END""",
)
"""The statements, in order."""
