"""The limits of a lane, one a file: each is a policy, a state, and pure functions.

They know no workspace.
"""
