"""A lane: all limits of one workspace together, and the decision whether a lead may be sent now."""
