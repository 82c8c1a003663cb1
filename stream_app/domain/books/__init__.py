"""The books: a reconciliation of all input records with events, rows and money."""
