"""The books, which prove that every lead and every credit is accounted for, or name the others."""
