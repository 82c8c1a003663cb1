"""The delivery of one lead: what its record means, its state machine, its headers, its writes."""
