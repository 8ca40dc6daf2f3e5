"""What there is: jobs, runtimes, faults and tokens, as plain records and rules without I/O."""
