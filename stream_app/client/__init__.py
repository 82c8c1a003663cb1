"""What works on a running system from outside: publish, books, lanes, commands, people, look-up."""
