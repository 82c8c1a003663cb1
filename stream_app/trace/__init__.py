"""Exports traces of leads: `stream-app trace` follows `leads.status` and sends spans by OTLP."""
