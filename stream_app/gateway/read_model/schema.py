"""The read model's tables. After a change here, the file is rebuilt from Kafka.

stories   One row per consumed record: `id` is its position, `status` and `seq` are those of its last event.
events    The events of a story, in order.
people    Hash of an identifier -> ids of the person's leads, separated by spaces; by workspace and destination.
erased    Until when (epoch ms) the published data of a lead is erased.
results   Position of a lead's last result on Kafka. The result itself is personal data and stays on Kafka.
standing  Number of stories by status. Triggers keep it consistent with `stories`.
letters   Number of dead letters of one cause per day (days since the epoch), by topic.
letter_hours The same per hour, for the last day.
causes    The sums of `letters`, and when the first and the last one was appended. Triggers keep it consistent.
history   Number of events by status in each minute, quarter of an hour and day. `step_s` is the length of a slot,
          `slot` its begin (epoch s). The workspace '' is the sum of all. `resent`: leads that were sent again although
          they may have reached Clay.
lane_marks The worst health and latency of a lane in each slot of five minutes.
lane_news What happened to a lane, newest last, as its records on Kafka report it.
audit     The answers to commands.
"""

from __future__ import annotations

from typing import Final

TABLES: Final = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE positions (
        topic TEXT, partition INTEGER, next INTEGER NOT NULL, last INTEGER NOT NULL, mark INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)) WITHOUT ROWID""",
    "CREATE TABLE logs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """CREATE TABLE stories (
        id INTEGER PRIMARY KEY, lead_id TEXT NOT NULL, workspace TEXT NOT NULL, destination TEXT NOT NULL,
        status TEXT NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, trace_id TEXT NOT NULL)""",
    "CREATE INDEX stories_of_lead ON stories (lead_id)",
    "CREATE INDEX stories_by_status ON stories (workspace, status, at_ms)",
    """CREATE TABLE events (
        story INTEGER, seq INTEGER, at_ms INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, text TEXT NOT
        NULL, http_status INTEGER, attempt INTEGER NOT NULL, replay INTEGER NOT NULL, epoch INTEGER NOT NULL, due_at_ms
        INTEGER, credits INTEGER,
        PRIMARY KEY (story, seq)) WITHOUT ROWID""",
    """CREATE TABLE people (
        workspace TEXT, destination TEXT, person TEXT, lead_ids TEXT NOT NULL,
        PRIMARY KEY (person, workspace, destination)) WITHOUT ROWID""",
    """CREATE TABLE erased (
        workspace TEXT, lead_id TEXT, until_ms INTEGER NOT NULL, PRIMARY KEY (lead_id, workspace)) WITHOUT ROWID""",
    """CREATE TABLE results (
        workspace TEXT, destination TEXT, lead_id TEXT, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
        source TEXT NOT NULL, version INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (lead_id, workspace, destination)) WITHOUT ROWID""",
    "CREATE TABLE lanes (workspace TEXT PRIMARY KEY, view BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE letters (
        topic TEXT, day INTEGER, kind TEXT, workspace TEXT, reason TEXT, http_status TEXT, destination TEXT,
        letters INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
        PRIMARY KEY (topic, day, kind, workspace, reason, http_status, destination)) WITHOUT ROWID""",
    """CREATE TABLE letter_hours (
        topic TEXT, hour INTEGER, kind TEXT, workspace TEXT, reason TEXT, http_status TEXT, destination TEXT,
        letters INTEGER NOT NULL,
        PRIMARY KEY (topic, hour, kind, workspace, reason, http_status, destination)) WITHOUT ROWID""",
    """CREATE TABLE causes (
        topic TEXT, kind TEXT, workspace TEXT, reason TEXT, http_status TEXT, destination TEXT,
        letters INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
        PRIMARY KEY (topic, kind, workspace, reason, http_status, destination)) WITHOUT ROWID""",
    """CREATE TRIGGER letters_came AFTER INSERT ON letters BEGIN
        INSERT INTO causes VALUES (new.topic, new.kind, new.workspace, new.reason, new.http_status, new.destination,
                                   new.letters, new.first_ms, new.last_ms)
            ON CONFLICT DO UPDATE SET letters = letters + new.letters, first_ms = min(first_ms, new.first_ms),
                                      last_ms = max(last_ms, new.last_ms);
    END""",
    """CREATE TRIGGER letters_grew AFTER UPDATE ON letters BEGIN
        UPDATE causes SET letters = letters + new.letters - old.letters, first_ms = min(first_ms, new.first_ms),
                          last_ms = max(last_ms, new.last_ms)
            WHERE (topic, kind, workspace, reason, http_status, destination) =
                  (new.topic, new.kind, new.workspace, new.reason, new.http_status, new.destination);
    END""",
    """CREATE TRIGGER letters_went AFTER DELETE ON letters BEGIN
        UPDATE causes SET letters = letters - old.letters, first_ms = max(first_ms, (old.day + 1) * 86400000)
            WHERE (topic, kind, workspace, reason, http_status, destination) =
                  (old.topic, old.kind, old.workspace, old.reason, old.http_status, old.destination);
        DELETE FROM causes WHERE letters <= 0 AND (topic, kind, workspace, reason, http_status, destination) =
                  (old.topic, old.kind, old.workspace, old.reason, old.http_status, old.destination);
    END""",
    """CREATE TABLE history (
        workspace TEXT, step_s INTEGER, slot INTEGER, status TEXT, events INTEGER NOT NULL, credits INTEGER NOT NULL,
        saved INTEGER NOT NULL, resent INTEGER NOT NULL,
        PRIMARY KEY (workspace, step_s, slot, status)) WITHOUT ROWID""",
    """CREATE TABLE lane_marks (
        workspace TEXT, slot INTEGER, score REAL NOT NULL, p95_ms INTEGER NOT NULL,
        PRIMARY KEY (workspace, slot)) WITHOUT ROWID""",
    """CREATE TABLE lane_news (
        workspace TEXT, at_ms INTEGER, number INTEGER, kind TEXT NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (workspace, at_ms, number)) WITHOUT ROWID""",
    """CREATE TABLE audit (
        at_ms INTEGER, partition INTEGER, offset INTEGER, id TEXT NOT NULL, kind TEXT NOT NULL, workspace TEXT NOT NULL,
        who TEXT NOT NULL, why TEXT NOT NULL, applied INTEGER NOT NULL, reason TEXT NOT NULL, text TEXT NOT NULL,
        asked_at_ms INTEGER NOT NULL, people INTEGER NOT NULL,
        PRIMARY KEY (at_ms, partition, offset)) WITHOUT ROWID""",
    "CREATE INDEX audit_of_workspace ON audit (workspace, at_ms)",
    "CREATE TABLE unreadable (topic TEXT PRIMARY KEY, records INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE standing (
        workspace TEXT, destination TEXT, status TEXT, stories INTEGER NOT NULL,
        PRIMARY KEY (workspace, destination, status)) WITHOUT ROWID""",
    """CREATE TRIGGER story_came AFTER INSERT ON stories BEGIN
        INSERT INTO standing VALUES (new.workspace, new.destination, new.status, 1)
            ON CONFLICT DO UPDATE SET stories = stories + 1;
    END""",
    """CREATE TRIGGER story_went AFTER DELETE ON stories BEGIN
        UPDATE standing SET stories = stories - 1
            WHERE workspace = old.workspace AND destination = old.destination AND status = old.status;
    END""",
    """CREATE TRIGGER story_moved AFTER UPDATE ON stories BEGIN
        UPDATE standing SET stories = stories - 1
            WHERE workspace = old.workspace AND destination = old.destination AND status = old.status;
        INSERT INTO standing VALUES (new.workspace, new.destination, new.status, 1)
            ON CONFLICT DO UPDATE SET stories = stories + 1;
    END""",
)
"""The statements, in order."""
