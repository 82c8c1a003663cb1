"""Words that everything else is made of: records, messages, topics, outcomes, errors.

It knows nothing of a lead.
"""
