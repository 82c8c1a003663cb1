"""Results of leads: cached fields, and tombstones that delete a result."""
