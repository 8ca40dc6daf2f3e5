"""Jobs, runtimes, faults and tokens as plain records and rules, without I/O and without Twisted."""
