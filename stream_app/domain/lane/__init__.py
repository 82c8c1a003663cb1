"""A lane: the limits of one workspace, and the decision whether a lead may be sent now."""
