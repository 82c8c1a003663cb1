"""What works on a running system from outside: publish, results, books, lanes, commands, people,
doctor, look-up.
"""
