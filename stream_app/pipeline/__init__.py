"""What happens to one record: a lead, a callback, a timeout, a command."""
