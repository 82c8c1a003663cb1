"""What works on a running system from outside.

Publish leads, get results, check the books, look at lanes and command them, find people, examine a
set-up, look up leads.
"""
