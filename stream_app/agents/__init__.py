"""The Faust shell: takes events, hands them to a partition, and nothing else."""
