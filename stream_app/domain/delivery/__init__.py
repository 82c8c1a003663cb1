"""The delivery of one lead: its state machine, its headers, and what each step writes."""
