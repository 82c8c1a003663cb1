"""The Clay client: one POST per lead, and one outcome per POST."""
