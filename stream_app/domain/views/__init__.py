"""What people read of a lane: its view, why it waits, what its leads waited for, what they cost."""
