"""Looking for bugs: drawn experiments in virtual time, and what must hold in each. Read `cases`, `oracles`, `hunt`."""
