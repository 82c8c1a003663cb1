"""Everything that speaks Faust: the app, its agents, the state table, the stream of one partition."""
