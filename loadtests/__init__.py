"""Traffic, faults and benchmarks from outside: imports none of the other packages, talks over the wire."""
