"""What works on a running system from outside: asks the look-up API (`lookup`, in the shapes of `answers`)."""
