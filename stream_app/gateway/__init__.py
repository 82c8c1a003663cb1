"""The gateway: takes Clay's callbacks, and answers where a lead is, over HTTP."""
