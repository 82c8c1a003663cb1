"""Everything that speaks Faust: the app, its agents, the state table, a partition's stream."""
