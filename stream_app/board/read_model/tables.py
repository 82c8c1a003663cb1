"""The tables of the read model.

After a change of them, the file is rebuilt from Kafka:

    records: One row per consumed record: `id` is its position, `status` and `seq` are those of its
        last event. A lead may have several; `counts` marks the one that counts for it
        (domain/books/records.py).
    events: The events of a record, packed: one row for those that were read together.
    people: Hash of an identifier -> ids of the person's leads, separated by spaces; by workspace
        and destination.
    people_unsorted: Rows of `people` as they came, until all of Kafka has been read once; without
        ids: the row was deleted. Hashes have no order: in `people`, each batch would rewrite pages
        all over the table.
    results: Position of a lead's last result on Kafka. The result itself is personal data and stays
        on Kafka.
    records_in: Number of records of leads: copies of a lead are counted, too.
    status_counts: Number of leads by status.
    ended: Number of leads by status that have come to rest in each minute, quarter of an hour and
        day. The workspace '' is the sum of all. Only days name the destination, as in `history`.
    imports: What is known of each import: its first and last event, what its publisher counted, its
        credits, and how many of its rows have arrived.
    import_counts: Number of leads by import and status.
    import_records: Number of records by import: each row of a lead that comes again is counted, but
        a copy of a dead letter is not.
    yields: Answers of Clay in each minute and hour, by each column of results that counts: how many
        there were, how many had a value, and all credits of their records. `slot` is as in
        `history`.
    import_yields: The same of each import.
    causes: Number of dead letters of each cause by their state, and when the first and the last one
        was appended.
    dead_letter_hours: Number of dead letters that were appended in each hour of the last day, by
        cause.
    letters: Each dead letter: its position, that of the record that it came from (0: unknown), its
        state.
    history: Credits booked and saved in each minute, quarter of an hour and day. `step_s` is the
        length of a slot, `slot` its begin (epoch s). The workspace '' is the sum of all. Only days
        name the destination. `resent`: leads that were sent again although they may have reached
        Clay; `refused`: leads that a budget held; `estimated`: the part of the credits of which
        nobody has said that a lead cost it.
    resent: The records of the leads that `history` counts as resent, and when.
    lane_marks: The worst health and latency of a lane in each slot of five minutes.
    readings: The first reading of Clay's balance of a workspace in each hour (`hour`: of epoch
        time).
    lane_changes: The changes of a lane, as its records on Kafka report them: the newest of all, and
        the newest of each kind and reason.
    audit: The answers to commands.
    unreadable: Records that this version cannot read, by topic: how many, and the position and time
        of the last one.
"""

from typing import Final

from stream_app.board.read_model.account import STANDING

PEOPLE_INDEXES: Final = {
    "people_of_lead": "CREATE INDEX people_of_lead ON people (lead_ids)",
    "people_of_leads": """CREATE INDEX people_of_leads
        ON people (lead_ids)
        WHERE instr(lead_ids, ' ') > 0""",
}
TABLES: Final = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE positions (
        topic TEXT,
        partition INTEGER,
        next INTEGER NOT NULL,
        last INTEGER NOT NULL,
        mark INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)
    ) WITHOUT ROWID""",
    "CREATE TABLE logs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        lead_id TEXT NOT NULL,
        workspace TEXT NOT NULL,
        destination TEXT NOT NULL,
        status TEXT NOT NULL,
        seq INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        rerouted INTEGER NOT NULL,
        headless INTEGER NOT NULL,
        trace_id TEXT NOT NULL,
        imported INTEGER NOT NULL,
        letter INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        took INTEGER NOT NULL,
        counts INTEGER NOT NULL,
        of_import INTEGER NOT NULL,
        follows INTEGER NOT NULL,
        credits INTEGER NOT NULL,
        answer TEXT NOT NULL
    )""",
    f"CREATE INDEX records_of_lead ON records (lead_id, {STANDING}, imported, rank)",
    "CREATE INDEX records_of_status ON records (status, at_ms) WHERE counts",
    """CREATE INDEX records_of_destination
        ON records (workspace, status, destination, at_ms)
        WHERE counts""",
    """CREATE INDEX records_of_import
        ON records (imported, status, destination, at_ms)
        WHERE imported > 0""",
    "CREATE INDEX records_of_letter ON records (letter) WHERE letter > 0",
    """CREATE TABLE events (
        record INTEGER,
        place INTEGER,
        steps BLOB NOT NULL,
        PRIMARY KEY (record, place)
    ) WITHOUT ROWID""",
    """CREATE TABLE people (
        workspace TEXT,
        destination TEXT,
        person TEXT,
        lead_ids TEXT NOT NULL,
        PRIMARY KEY (person, workspace, destination)
    ) WITHOUT ROWID""",
    *PEOPLE_INDEXES.values(),
    """CREATE TABLE people_unsorted (
        workspace TEXT,
        destination TEXT,
        person TEXT,
        lead_ids TEXT
    )""",
    """CREATE TABLE results (
        workspace TEXT,
        destination TEXT,
        lead_id TEXT,
        partition INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        source TEXT NOT NULL,
        version INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (lead_id, workspace, destination)
    ) WITHOUT ROWID""",
    "CREATE TABLE lanes (workspace TEXT PRIMARY KEY, view BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE dead_letter_hours (
        cause INTEGER,
        hour INTEGER,
        letters INTEGER NOT NULL,
        PRIMARY KEY (cause, hour)
    ) WITHOUT ROWID""",
    """CREATE TABLE causes (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        kind TEXT NOT NULL,
        workspace TEXT NOT NULL,
        reason TEXT NOT NULL,
        http_status TEXT NOT NULL,
        destination TEXT NOT NULL,
        first_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL,
        open INTEGER NOT NULL DEFAULT 0,
        coming_back INTEGER NOT NULL DEFAULT 0,
        solved INTEGER NOT NULL DEFAULT 0,
        given_up INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic, kind, workspace, reason, http_status, destination)
    )""",
    """CREATE TABLE letters (
        id INTEGER PRIMARY KEY,
        cause INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        origin INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        returns INTEGER NOT NULL,
        state INTEGER NOT NULL
    )""",
    "CREATE INDEX letters_of_cause ON letters (cause, at_ms)",
    "CREATE INDEX letters_of_origin ON letters (origin)",
    """CREATE TABLE history (
        workspace TEXT,
        step_s INTEGER,
        slot INTEGER,
        destination TEXT,
        credits INTEGER NOT NULL,
        saved INTEGER NOT NULL,
        resent INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        PRIMARY KEY (workspace, step_s, slot, destination)
    ) WITHOUT ROWID""",
    """CREATE TABLE ended (
        workspace TEXT,
        step_s INTEGER,
        slot INTEGER,
        destination TEXT,
        status TEXT,
        leads INTEGER NOT NULL,
        PRIMARY KEY (workspace, step_s, slot, destination, status)
    ) WITHOUT ROWID""",
    """CREATE TABLE resent (
        at_ms INTEGER,
        record INTEGER,
        PRIMARY KEY (at_ms, record)
    ) WITHOUT ROWID""",
    """CREATE TABLE lane_marks (
        workspace TEXT,
        slot INTEGER,
        score REAL NOT NULL,
        p95_ms INTEGER NOT NULL,
        PRIMARY KEY (workspace, slot)
    ) WITHOUT ROWID""",
    """CREATE TABLE readings (
        workspace TEXT,
        hour INTEGER,
        reading BLOB NOT NULL,
        PRIMARY KEY (workspace, hour)
    ) WITHOUT ROWID""",
    """CREATE TABLE lane_changes (
        workspace TEXT,
        at_ms INTEGER,
        number INTEGER,
        kind TEXT NOT NULL,
        text TEXT NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (workspace, at_ms, number)
    ) WITHOUT ROWID""",
    """CREATE TABLE audit (
        at_ms INTEGER,
        partition INTEGER,
        offset INTEGER,
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        workspace TEXT NOT NULL,
        who TEXT NOT NULL,
        why TEXT NOT NULL,
        applied INTEGER NOT NULL,
        reason TEXT NOT NULL,
        text TEXT NOT NULL,
        asked_at_ms INTEGER NOT NULL,
        under_way INTEGER NOT NULL,
        PRIMARY KEY (at_ms, partition, offset)
    ) WITHOUT ROWID""",
    "CREATE INDEX audit_of_workspace ON audit (workspace, at_ms)",
    "CREATE INDEX audit_of_command ON audit (id)",
    "CREATE INDEX audit_of_kind ON audit (kind, at_ms)",
    "CREATE INDEX audit_of_person ON audit (who, at_ms)",
    """CREATE TABLE replays (
        id TEXT PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        progress BLOB NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX replays_by_time ON replays (at_ms)",
    """CREATE TABLE unreadable (
        topic TEXT PRIMARY KEY,
        records INTEGER NOT NULL,
        last TEXT NOT NULL,
        last_ms INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE TABLE records_in ( workspace TEXT PRIMARY KEY, leads INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE status_counts (
        workspace TEXT,
        destination TEXT,
        status TEXT,
        leads INTEGER NOT NULL,
        PRIMARY KEY (workspace, destination, status)
    ) WITHOUT ROWID""",
    """CREATE TABLE imports (
        id INTEGER PRIMARY KEY,
        workspace TEXT NOT NULL,
        name TEXT NOT NULL,
        first_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL,
        rows INTEGER,
        refused INTEGER,
        leads INTEGER,
        file TEXT NOT NULL DEFAULT '',
        who TEXT NOT NULL DEFAULT '',
        credits INTEGER NOT NULL DEFAULT 0,
        arrived INTEGER NOT NULL DEFAULT 0,
        UNIQUE (name, workspace)
    )""",
    "CREATE INDEX imports_by_time ON imports (first_ms, id)",
    """CREATE TABLE yields (
        step_s INTEGER,
        slot INTEGER,
        workspace TEXT,
        destination TEXT,
        name TEXT,
        answered INTEGER NOT NULL,
        filled INTEGER NOT NULL,
        credits INTEGER NOT NULL,
        PRIMARY KEY (step_s, slot, workspace, destination, name)
    ) WITHOUT ROWID""",
    """CREATE TABLE import_yields (
        import INTEGER,
        destination TEXT,
        name TEXT,
        answered INTEGER NOT NULL,
        filled INTEGER NOT NULL,
        credits INTEGER NOT NULL,
        PRIMARY KEY (import, destination, name)
    ) WITHOUT ROWID""",
    """CREATE TABLE import_counts (
        import INTEGER,
        destination TEXT,
        status TEXT,
        leads INTEGER NOT NULL,
        PRIMARY KEY (import, destination, status)
    ) WITHOUT ROWID""",
    "CREATE TABLE import_records (import INTEGER PRIMARY KEY, leads INTEGER NOT NULL)",
)
"""The statements, in order."""
